"""Model FLOPs of a training step, counted on its trace; see `flops`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from colorize_jax.analysis.flops import count_flops
from colorize_jax.training.augment import to_batch
from colorize_jax.training.state import TrainState
from colorize_jax.training.step import TrainSystem, gradients, prepare
from colorize_jax.types import Array


def step_flops(
    system: TrainSystem, state: TrainState, record: Mapping[str, Array], *, dual: bool
) -> int:
    """Count the FLOPs of one step of the global batch, encoders included; see `flops`.

    Rematerialization and the recomputation of blockwise attention are not counted.

    Args:
        system: static.
        state: arrays or shapes.
        record: a global batch as the step takes it, arrays or shapes.
        dual: whether the misaligned branch runs.
    """
    plain = countable(system)

    def compute(state: TrainState, record: Mapping[str, Array], key: Array) -> Any:
        inputs = prepare(plain, state.frozen, to_batch(record), key, state.step)
        weight = jnp.float32(1)
        return gradients(plain, state.params, state.frozen, inputs, weight, dual=dual)

    return count_flops(compute, state, record, jax.eval_shape(lambda: jax.random.key(0)))


def countable(system: TrainSystem) -> TrainSystem:
    """The same step without rematerialization, with attention that recomputes nothing."""
    plain = {"implementation": "plain"}
    colorizer, encoders = system.colorizer, system.encoders
    unet = colorizer.unet.clone(remat=None)
    networks = (unet, colorizer.sketch_encoder, colorizer.reference_projection)
    frozen = {name: getattr(encoders, name) for name in ("autoencoder", "clip", "tagger")}
    encoder = system.background_encoder
    return dataclasses.replace(
        system,
        background_encoder=None if encoder is None else encoder.clone(remat=None, **plain),
        colorizer=type(colorizer)(*(network.clone(**plain) for network in networks)),
        encoders=dataclasses.replace(
            encoders,
            **{
                name: module.clone(**plain) if hasattr(module, "implementation") else module
                for name, module in frozen.items()
            },
        ),
    )
