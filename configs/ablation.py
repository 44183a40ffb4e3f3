"""What the Gram loss does, arm by arm, on drawn pairs with aligned references as published.

    python -m colorize_jax ablate --config=configs/ablation.py --output=DIR

Every arm and seed is an ordinary run of `config` with the arm's changes, about eight minutes on two
CPU cores each; what is there already is not run again. `--arms` and `--seeds` choose some.
"""

from typing import Any


def get_config() -> dict[str, Any]:
    """Return the grid: what all arms share, sizes, seeds, and what each arm changes."""
    ramped = {"gram.maximum": 10.0, "gram.zero_share": 0.2, "gram.blocks": (2, 3, 6, 8)}
    # What the last stack puts out is all that the output layers see: nothing goes around it.
    last_stack = ramped | {"gram.blocks": (10,), "gram.tap": "stack"}
    return {
        "config": "configs/tiny.py",
        "common": {"data.same_identity_rate": 0.0, "logging.samples_every": 0},
        "base": "one branch",
        "seeds": (0, 1, 2),
        "sizes": {
            "64 px": {},
            "96 px": {"data.height": 96, "data.width": 96, "data.reference_size": 96,
                      "encoders.reference_image_size": 96, "model.context_tokens": 576},
        },
        "num_pairs": 256,
        # An arm changes options; "start" names an arm whose end it goes on from.
        "arms": {
            "one branch": {"gram.maximum": 0.0},
            "the paper": {},
            "early": {"gram.maximum": 1.0, "gram.zero_share": 0.2},
            "weight 3": ramped | {"gram.maximum": 3.0},
            "weight 10": ramped,
            "last block": ramped | {"gram.blocks": (10,)},
            "every block": ramped | {"gram.blocks": tuple(range(1, 11))},
            "every stack": ramped | {"gram.blocks": tuple(range(1, 11)), "gram.tap": "stack"},
            "last stack": last_stack,
            "last stack 100": last_stack | {"gram.maximum": 100.0},
            "last stack standardized": last_stack | {"gram.standardize": True},
            "tap attn1": ramped | {"gram.tap": "attn1"},
            "tap attn2": ramped | {"gram.tap": "attn2"},
            "loss kl": ramped | {"gram.loss": "kl"},
            "loss ranking": ramped | {"gram.loss": "ranking"},
            "loss bce": ramped | {"gram.loss": "bce"},
            "standardized": ramped | {"gram.standardize": True},
            "no positions": {
                "gram.maximum": 0.0,
                "encoders.positions": False,
            },
            "same identity": {"gram.maximum": 0.0, "data.same_identity_rate": 0.75},
            "same identity and Gram": {"data.same_identity_rate": 0.75},
            "from one branch": {
                "start": "one branch",
                "optimizer.learning_rate": 2e-4,
                "total_steps": 400,
                **ramped,
            },
        },
    }  # fmt: skip
