"""The second stage in miniature: the plugin, on top of a run of configs/tiny.py.

    python train.py --config=configs/tiny_refine.py --workdir=DIR --config.model.init_from=runs/tiny

The same networks and encoders, and a background encoder that starts from the UNet's own weights.
Every picture stands in front of its reference's own background, so that the right answer is known.
Made for less than ten minutes on two CPU cores.
"""

from ml_collections import ConfigDict

from configs import tiny


def get_config() -> ConfigDict:
    """Return what differs from the defaults."""
    config = tiny.get_config()
    changes = {
        "total_steps": 800,
        "model": {"loras": (("background", 4),), "init_from": "runs/tiny"},
        "refine": {"enabled": True, "vector_channels": 256, "init_from_unet": True},
        "gram": {"maximum": 0.0},
        "optimizer": {"trainable": ("^background_encoder/", "/lora_(down|up)_background/")},
        "data": {"reference_background": True},
    }
    config.update(ConfigDict(changes))
    return config
