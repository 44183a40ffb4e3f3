"""The diffusion loss on pictures that training never sees, by quarter of the timesteps.

Timesteps and noise are the same at every step of a run, nothing is dropped or hinted at, so that
its numbers differ by what was learned alone. One branch runs; the Gram loss is a means, not a
measure.
"""

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.rng import stream
from colorize_jax.training import augment
from colorize_jax.training.state import TrainState
from colorize_jax.training.step import TrainSystem, prepare, total_loss
from colorize_jax.types import Array

QUARTERS = 4


def validation_losses(
    system: TrainSystem, state: TrainState, record: Mapping[str, Array], key: Array, number: Array
) -> Array:
    """Losses (4,) of a batch, from the quarter with the least noise to that with the most.

    Args:
        system: static.
        state: its running average is measured where `sampling.ema` says so.
        record: the loader's batch, globally B samples.
        key: of the run.
        number: of the batch: it has timesteps and noise of its own.
    """
    config = system.config
    average = state.ema if config.sampling.ema and state.ema is not None else state.params
    key = stream(key, 0, "validation")
    inputs = prepare(system, state.frozen, augment.to_batch(record), key, number, hint=False)
    kept = jax.tree.map(jnp.ones_like, (inputs.random.keep_reference, inputs.random.keep_hints))
    span = config.diffusion.num_timesteps // QUARTERS

    def loss(quarter: Array) -> Array:
        random = inputs.random.replace(
            # The step's own draw over all timesteps, squeezed into the quarter.
            timesteps=quarter * span + inputs.random.timesteps // QUARTERS,
            keep_reference=kept[0],
            keep_hints=kept[1],
        )
        one = inputs.replace(random=random)
        _, terms = total_loss(system, average, state.frozen, one, jnp.float32(0), dual=False)
        return terms["diffusion_loss"]

    return jax.lax.map(loss, jnp.arange(QUARTERS))


def summarize(losses: Iterable[Array]) -> dict[str, float]:
    """Mean over batches of (4,) losses, by quarter and in all."""
    quarters = np.mean([np.asarray(one) for one in losses], axis=0)
    named = {f"validation_loss_{i + 1}": float(loss) for i, loss in enumerate(quarters)}
    return {"validation_loss": float(quarters.mean())} | named
