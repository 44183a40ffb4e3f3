"""Held-out monitoring of a run: the loss, and sample pictures, on data that it never trains on."""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from colorize_jax.evaluation.contact_sheet import contact_sheet
from colorize_jax.rng import stream
from colorize_jax.setup import datasets
from colorize_jax.setup.networks import build_colorize
from colorize_jax.sharding import batch_sharding, batch_shards, global_batch, place, replicated
from colorize_jax.training.augment import to_batch
from colorize_jax.training.state import TrainState, all_params
from colorize_jax.training.step import TrainSystem
from colorize_jax.training.validation import summarize, validation_losses
from colorize_jax.types import Array, Params
from data.loader import Loader
from data.records import Source

SAMPLE_COLUMNS = ("sketch", "reference", "result", "truth")


def make_sampler(
    system: TrainSystem, source: Source, mesh: Mesh
) -> Callable[[TrainState], Image.Image]:
    """Return a function that draws a sheet of sketch, reference, result and truth.

    The pictures are held-out ones where there are any, each by another one's reference, and every
    device draws its share of them.
    """
    config = system.config
    count = config.logging.num_samples
    record = datasets.sample_record(config, source, count)
    padded = -(-count // batch_shards(mesh)) * batch_shards(mesh)
    rows = np.arange(padded) % count
    shared = {name: value[rows] for name, value in record.items()}
    split = dict.fromkeys(record, batch_sharding(mesh))
    colorize = build_colorize(system)

    @functools.partial(jax.jit, out_shardings=replicated(mesh))
    def draw_all(params: Params, record: Mapping[str, Array]) -> Array:
        keys = jax.random.split(stream(config.seed, 0, "samples"), count)
        return colorize(params, to_batch(record), keys[jnp.asarray(rows)])

    def draw(state: TrainState) -> Image.Image:
        params = all_params(state, ema=config.sampling.ema)
        results = np.asarray(draw_all(params, place(split, shared)))[:count]
        columns = (record["sketch"], record["reference"], results, record["image"])
        return contact_sheet(list(zip(*columns, strict=True)), SAMPLE_COLUMNS)

    return draw


def make_validation(
    system: TrainSystem, batches: Loader | None, mesh: Mesh, key: Array
) -> Callable[[TrainState], dict[str, float]]:
    """Return a function that measures the loss on held-out batches, the same at every step.

    Args:
        system: static.
        batches: this process's rows of held-out batches, of `datasets.make_validation_batches`;
            None: nothing is measured.
        mesh: where.
        key: of the run.
    """
    measure = jax.jit(functools.partial(validation_losses, system), out_shardings=replicated(mesh))

    def validate(state: TrainState) -> dict[str, float]:
        if batches is None:
            return {}
        batches.set_state({"next_batch": 0})
        losses = []
        for number in range(system.config.logging.validation_batches):
            record = global_batch(mesh, datasets.step_record(next(batches)))
            losses.append(measure(state, record, key, jnp.int32(number)))
        batches.close()
        return summarize(losses)

    return validate
