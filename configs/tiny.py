"""The published system in miniature: 64 px illustrations on a laptop, nothing to download.

    python train.py --config=configs/tiny.py --workdir=DIR

Same modules, same two branches, same losses; patches of pixels take the place of the pretrained
autoencoder and reference encoders. Made for about ten minutes on two CPU cores, a quarter of which
goes into compilation.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return what differs from the defaults."""
    return ConfigDict(
        {
            "total_steps": 600,
            "model": {
                "model_channels": 64,
                "channel_mult": (1, 1, 1),
                "num_res_blocks": 1,
                "transformer_depth": (0, 2, 2),
                "hint_blocks": (0, 2, 4, 5),
                "head_dim": 32,
                "context_channels": 128,
                "vector_channels": 128,
                "sketch_head_dim": 64,
                "sketch_strides": (2, 2, 1),
                "sketch_stem_channels": (8, 8, 32, 32, 64, 64, 64),
                "context_tokens": 64,
                "projection_head_dim": 128,
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
            # Pixels say more of each other than an autoencoder's latents: more noise hides as much.
            "diffusion": {"beta_start": 0.00255, "beta_end": 0.036},
            # The last but one of a late encoder and a late decoder stack, as 23 and 63 are.
            "gram": {"blocks": (3, 9)},
            "optimizer": {
                "learning_rate": 3e-3,
                "schedule": "cosine",
                "warmup_steps": 50,
                "final_share": 0.02,
                "b2": 0.99,
                "ema_decay": 0.98,
            },
            "data": {
                "height": 64,
                "width": 64,
                "reference_size": 64,
                "batch_size": 16,
                "num_examples": 8192,
                "same_identity_rate": 0.5,
                "cache": True,
            },
            "checkpoint": {"every_steps": 200, "keep_last": 2},
            "logging": {"every_steps": 10, "samples_every": 300},
            "sampling": {
                "sampler": "DPM++ 2M",
                "schedule": "SGM uniform",
                "num_steps": 8,
                "reference_guidance": 1.5,
            },
        }
    )
