"""Hints of colour in miniature: a run of configs/tiny.py learns to follow them.

    python train.py --config=configs/tiny_hints.py --workdir=DIR --config.model.init_from=runs/tiny

The same networks, and the part of the sketch encoder's first convolution that takes hints, which
starts at zero and learns faster than the rest. Every hinted part has a colour that the reference
does not have, and more samples than usual have no reference.
"""

from ml_collections import ConfigDict

from configs import tiny


def get_config() -> ConfigDict:
    """Return what differs from the defaults."""
    config = tiny.get_config()
    changes = {
        "total_steps": 3000,
        "model": {"hints": True, "init_from": "runs/tiny"},
        "color_hints": {"dropout": 0.15, "recolor_rate": 1.0},
        "diffusion": {"reference_dropout": 0.3},
        "gram": {"maximum": 0.0},
        "optimizer": {"groups": (("color_hints", 10.0),)},
    }
    config.update(ConfigDict(changes))
    return config
