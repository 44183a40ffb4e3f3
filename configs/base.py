"""The published first stage: 1024 px, both branches, Gram regularization at blocks 23 and 63.

    python train.py --config=configs/base.py --workdir=DIR \
        --config.data.source=folder --config.data.path=PICTURES \
        --config.encoders.weights='("VAE", "CLIP", "TAGGER")' --config.model.init_from=SDXL

The published run: 70,000 steps of 128 pictures from weights of an anime SDXL, learning rate 1e-5,
two days on eight 80 GB GPUs.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return what differs from the defaults, which are the published networks."""
    return ConfigDict(
        {
            "total_steps": 70_000,
            "model": {
                "dtype": "bfloat16",
                "remat": "auto",
                # Weights of SDXL that predict noise learn to predict velocity, as published.
                "init_changes": ("prediction_type",),
            },
            "optimizer": {"learning_rate": 1e-5, "warmup_steps": 500},
            "data": {
                "source": "folder",
                "batch_size": 128,
                "buckets": True,
                "reference_size": 448,
                "same_identity_rate": 0.5,
                "heldout_share": 0.001,
                "min_aesthetic_score": 5.5,
                "min_short_side": 768,
                "margin_rate": 0.1,
                "mask_dilation": 21,
                "mask_grow_rate": 0.33,
                "mask_erase_rate": 0.33,
                "num_threads": 16,
                "prefetch": 2,
            },
            "mesh": {"data": 1, "fsdp": -1},
            "checkpoint": {"every_steps": 1000, "keep_last": 2, "keep_every": 10_000},
            "logging": {"every_steps": 50, "samples_every": 1000, "validation_every": 1000},
        }
    )
