"""The smallest network with every part, for tests that run the real programs."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return what differs from the defaults."""
    return ConfigDict(
        {
            "total_steps": 4,
            "model": {
                "model_channels": 32,
                "channel_mult": (1, 1, 1),
                "num_res_blocks": 1,
                "transformer_depth": (0, 1, 1),
                "hint_blocks": (0, 2, 4, 5),
                "head_dim": 16,
                "context_channels": 16,
                "vector_channels": 16,
                "sketch_head_dim": 16,
                "sketch_strides": (2, 2, 1),
                "context_tokens": 16,
                "projection_head_dim": 16,
            },
            "encoders": {
                "autoencoder": "patch",
                "reference": "patch",
                "scaling_factor": 1.0,
                "patch_size": 4,
                "reference_image_size": 32,
                "reference_patch_size": 8,
                "reference_features": ("mean", "std"),
                "dtype": "float32",
            },
            # The Gram branch runs in the second half.
            "gram": {"blocks": (2, 5), "zero_share": 0.4},
            "optimizer": {"learning_rate": 1e-3, "ema_decay": 0.9},
            "data": {
                "height": 32,
                "width": 32,
                "reference_size": 32,
                "batch_size": 4,
                "num_examples": 12,
            },
            "checkpoint": {"every_steps": 2},
            "logging": {"every_steps": 1, "samples_every": 4, "num_samples": 2},
            "sampling": {"sampler": "Euler", "num_steps": 2, "reference_guidance": 1.5},
            "evaluation": {"num_pairs": 3, "batch_size": 2},
        }
    )
