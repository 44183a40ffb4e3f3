"""The published second stage: the plugin, on a colorizer of configs/base.py that stays as it is.

    python train.py --config=configs/refine.py --workdir=DIR \
        --config.model.init_from=COLORIZER --config.data.path=PICTURES \
        --config.encoders.weights='("VAE", "CLIP", "TAGGER")'

COLORIZER is the workdir of the first stage, or a folder of imported weights. What is trained is the
background encoder (2.01 B parameters) and rank-4 additions to cross-attention. The published run:
10,000 steps with the first stage's optimizer, the encoder from random numbers, no running average.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Return what differs from the defaults, which are the published networks."""
    config = base.get_config()
    changes = {
        "total_steps": 10_000,
        "model": {
            "loras": (("background", 4),),
            "foreground_channels": 4,
            "frozen_dtype": "bfloat16",
        },
        "refine": {"enabled": True, "init_from_unet": True},
        "gram": {"maximum": 0.0},
        "optimizer": {
            "trainable": ("^background_encoder/", "/lora_(down|up)_background/"),
            "ema_decay": 0.0,
        },
        "data": {"whole_reference": True, "reference_size": 1280, "mask_box_rate": 0.17},
    }
    config.update(ConfigDict(changes))
    return config
