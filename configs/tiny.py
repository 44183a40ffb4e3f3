"""The published system in miniature: 64 px illustrations on a laptop, nothing to download.

    python train.py --config=configs/tiny.py --workdir=DIR

Same modules, same two branches, same losses; patches of pixels take the place of the pretrained
autoencoder and reference encoders. Made for ten minutes on two CPU cores.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return what differs from the defaults."""
    return ConfigDict(
        {
            "total_steps": 1500,
            "model": {
                "model_channels": 64,
                "channel_mult": (1, 2, 2),
                "transformer_depth": (0, 1, 2),
                "head_dim": 32,
                "context_channels": 128,
                "vector_channels": 128,
                "sketch_head_dim": 32,
                "sketch_strides": (2, 2, 1),
                "context_tokens": 64,
                "projection_head_dim": 32,
            },
            "encoders": {
                "autoencoder": "patch",
                "reference": "patch",
                "scaling_factor": 1.0,
                "patch_size": 4,
                "reference_image_size": 64,
                "reference_patch_size": 8,
                "dtype": "float32",
            },
            # The last but one of their stacks, as blocks 23 and 63 are of the published network.
            "gram": {"blocks": (5, 13)},
            "optimizer": {
                "learning_rate": 1e-3,
                "schedule": "cosine",
                "warmup_steps": 50,
                "final_share": 0.05,
                "ema_decay": 0.99,
            },
            "data": {
                "height": 64,
                "width": 64,
                "reference_size": 64,
                "batch_size": 16,
                "num_examples": 20_000,
            },
            "checkpoint": {"every_steps": 500, "keep_last": 2},
            "logging": {"every_steps": 20, "samples_every": 500},
            "sampling": {"num_steps": 20, "reference_guidance": 1.5},
        }
    )
