"""The published system in miniature: 64 px illustrations on a laptop, nothing to download.

    python train.py --config=configs/tiny.py --workdir=DIR

Same modules, same two branches, same losses; patches of pixels take the place of the pretrained
autoencoder and reference encoders. Made for less than ten minutes on two CPU cores, of which one
minute goes into compilation.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return what differs from the defaults."""
    return ConfigDict(
        {
            "total_steps": 1100,
            "model": {
                "model_channels": 64,
                "channel_mult": (1, 1, 1),
                "num_res_blocks": 1,
                "transformer_depth": (1, 1, 1),
                "hint_blocks": (0, 2, 4, 5),
                "norm_groups": 8,
                "head_dim": 64,
                "context_channels": 256,
                "vector_channels": 128,
                "sketch_head_dim": 64,
                "sketch_strides": (2, 2, 1),
                "sketch_stem_channels": (8, 8, 32, 32, 64, 64, 64),
                "context_tokens": 256,
                "projection_head_dim": 64,
            },
            "encoders": {
                "autoencoder": "patch",
                "reference": "patch",
                "scaling_factor": 1.0,
                "patch_size": 4,
                "reference_image_size": 64,
                "reference_patch_size": 4,
                "reference_features": ("opponent", "std", "region"),
                "dtype": "float32",
            },
            # Sketch and reference determine the picture so far that most is learned at pure noise.
            # These steps are too few to learn the rest, so that sampling does without: it takes
            # its last step from a third of the timesteps.
            "diffusion": {
                "beta_start": 0.03,
                "beta_end": 0.03,
                "reference_dropout": 0.1,
                "hint_dropout": 0.0,
            },
            # A late encoder and a late decoder stack, as 23 and 63 are.
            "gram": {"blocks": (3, 6), "zero_share": 0.7},
            "optimizer": {
                "name": "muon",
                "learning_rate": 2e-3,
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
                "batch_size": 8,
                "num_examples": 3072,
                "same_identity_rate": 0.75,
                "cache": True,
            },
            "checkpoint": {"every_steps": 300, "keep_last": 2},
            "logging": {"every_steps": 10, "samples_every": 400},
            "sampling": {
                "sampler": "Euler",
                "schedule": "SGM uniform",
                "num_steps": 3,
                "reference_guidance": 1.25,
            },
        }
    )
