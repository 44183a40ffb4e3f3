"""Shapes of what a training step takes, for the machines that it is compiled for."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from colorize_jax import sharding
from colorize_jax.config.options import Config
from colorize_jax.nn import platforms
from colorize_jax.setup.encoders import abstract_encodings
from colorize_jax.setup.initialize import abstract_state
from colorize_jax.setup.networks import needs_encoders
from colorize_jax.training.state import TrainState
from colorize_jax.training.step import TrainSystem

PICTURES = {"image": 3, "sketch": 1, "reference": 3, "sketch_mask": 1, "reference_mask": 1}


def for_platform(config: Config, platform: str) -> Config:
    """Replace "auto", which depends on the machine that traces, by the choice for a platform."""
    model = dataclasses.replace(
        config.model,
        attention=platforms.for_platform(config.model.attention, platform),
        block_loop=platforms.for_platform(config.model.block_loop, platform),
    )
    return dataclasses.replace(config, model=model)


def arguments(system: TrainSystem, mesh: Mesh) -> tuple[TrainState, Any, Any]:
    """Shapes of a step's state, record and key, with their shardings."""
    state = abstract_state(system)
    state = sharding.with_shardings(state, sharding.state_shardings(mesh, state))
    record = abstract_record(system.config)
    record = sharding.with_shardings(record, dict.fromkeys(record, sharding.batch_sharding(mesh)))
    key = jax.eval_shape(lambda: jax.random.key(0))
    return state, record, sharding.with_shardings(key, sharding.replicated(mesh))


def abstract_record(config: Config) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a loader's batch, pictures at the config's own size."""
    data, batch = config.data, config.data.batch_size
    sizes = dict.fromkeys(PICTURES, (data.height, data.width))
    if data.reference_size:
        sizes |= dict.fromkeys(("reference", "reference_mask"), (data.reference_size,) * 2)
    record = {
        name: jax.ShapeDtypeStruct((batch, *sizes[name], channels), jnp.uint8)
        for name, channels in PICTURES.items()
    }
    if not needs_encoders(config):
        own = {name: record[name] for name in ("sketch", "sketch_mask")}
        record = own | abstract_encodings(config)
    numbers = {"size": (), "aesthetic_score": ()}
    if data.whole_reference:
        numbers["crop"] = (4,)
    return record | {
        name: jax.ShapeDtypeStruct((batch, *shape), jnp.float32) for name, shape in numbers.items()
    }
