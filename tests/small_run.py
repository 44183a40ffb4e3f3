"""The workdir of a run that was never trained, and pictures for it to colour."""

from pathlib import Path

import jax
import numpy as np
import optax
import small_system
from PIL import Image

from colorize_jax.config.load import config_from_dict
from colorize_jax.io.runs.checkpoint import Checkpoints
from colorize_jax.io.runs.workdir import claim_workdir
from colorize_jax.models.architectures import abstract_params
from colorize_jax.setup.networks import network_configs, weights_metadata
from colorize_jax.training.state import create_state

CONFIG = {
    "model": {
        "model_channels": 32,
        "channel_mult": (1, 1, 2),
        "num_res_blocks": 1,
        "transformer_depth": (0, 0, 1),
        "head_dim": 16,
        "context_channels": 24,
        "vector_channels": 32,
        "hint_blocks": (0, 2, 4, 5),
        "sketch_head_dim": 16,
        "sketch_strides": (2, 2, 1),
        "context_tokens": 16,
        "projection_head_dim": 24,
    },
    "encoders": {
        "autoencoder": "patch",
        "reference": "patch",
        "scaling_factor": 1.0,
        "reference_image_size": 16,
        "reference_patch_size": 4,
    },
    "data": {"height": 32, "width": 32},
    "sampling": {"sampler": "Euler", "num_steps": 2, "reference_guidance": 1.5},
    "gram": {"blocks": (1,)},
}


def make(folder: Path, overrides: list[str] | tuple[str, ...] = (), seed: int = 0) -> Path:
    """Write a run with its checkpoint into a folder."""
    config, random = config_from_dict(CONFIG, overrides), np.random.default_rng(seed)

    def draw(leaf):
        return (random.standard_normal(leaf.shape) / 8).astype(np.float32)

    params = {
        name: jax.tree.map(draw, abstract_params(name, own))
        for name, own in network_configs(config).items()
    }
    claim_workdir(folder, config.to_dict(), weights_metadata(config))
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(1, create_state(params, optax.identity()))
    return folder


def draw(folder: Path) -> Path:
    """Make folders "sketches" (a, b, c; c damaged) and "references" (a, b)."""
    for name, seed in (("a", 0), ("b", 1), ("c", 2)):
        sketch, reference = small_system.make_pictures(seed)
        for kind, picture in (("sketches", sketch), ("references", reference)):
            (folder / kind).mkdir(exist_ok=True)
            Image.fromarray(picture).save(folder / kind / f"{name}.png")
    (folder / "references" / "c.png").unlink()
    damaged = folder / "sketches" / "c.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    return folder
