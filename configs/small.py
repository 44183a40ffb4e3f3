"""A system of a quarter of the published width for one GPU: 256 px illustrations.

    python train.py --config=configs/small.py --workdir=DIR

Patches take the place of the pretrained encoders, as in `configs/tiny.py`.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return what differs from the defaults."""
    return ConfigDict(
        {
            "total_steps": 30_000,
            "model": {
                "model_channels": 128,
                "channel_mult": (1, 2, 4),
                "transformer_depth": (0, 1, 4),
                "context_channels": 512,
                "vector_channels": 256,
                "sketch_head_dim": 64,
                "context_tokens": 196,
                "projection_head_dim": 64,
                "sketch_strides": (2, 2, 1),
                "dtype": "bfloat16",
            },
            "encoders": {
                "autoencoder": "patch",
                "reference": "patch",
                "scaling_factor": 1.0,
                "patch_size": 4,
                "reference_image_size": 224,
                "reference_patch_size": 16,
            },
            "gram": {"blocks": (9, 25)},
            "optimizer": {"learning_rate": 2e-4, "warmup_steps": 500, "ema_decay": 0.999},
            "data": {
                "height": 256,
                "width": 256,
                "reference_size": 224,
                "batch_size": 64,
                "num_workers": 8,
            },
            "checkpoint": {"every_steps": 1000, "keep_last": 2},
            "logging": {"every_steps": 50, "samples_every": 1000},
        }
    )
