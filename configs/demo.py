"""The demo model, which `--checkpoint demo` names: configs/tiny.py goes on at 128 px.

    python train.py --config=configs/tiny.py --workdir=runs/tiny
    python train.py --config=configs/demo.py --workdir=runs/demo

The same networks, whose weights start from those of the first run, and drawings that they have not
seen. Made for less than an hour on one CPU core.
"""

from ml_collections import ConfigDict

from configs import tiny


def get_config() -> ConfigDict:
    """Return what differs from the defaults."""
    config = tiny.get_config()
    changes = {
        "total_steps": 2400,
        "model": {"init_from": "runs/tiny"},
        "gram": {"zero_share": 0.85},
        "optimizer": {"ema_decay": 0.99},
        "data": {
            "height": 128,
            "width": 128,
            "batch_size": 4,
            "num_examples": 12288,
            "cache": False,
        },
        "checkpoint": {"every_steps": 100},
        "logging": {"samples_every": 600},
        # After this many steps guidance makes colours too strong; more steps than it has learnt to
        # take leave noise.
        "sampling": {"num_steps": 4, "reference_guidance": 1.0},
    }
    config.update(ConfigDict(changes))
    return config
