"""Held-out monitoring of a run: loss, figures and sample pictures, on data it never trains on."""

import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from colorize_jax.config.options import Config
from colorize_jax.errors import UserError
from colorize_jax.evaluation.contact_sheet import contact_sheet
from colorize_jax.evaluation.protocols.pairs import (
    ALIGNED,
    BACKGROUNDS,
    CROSS,
    DRAWN_REFERENCES,
    FOLDER_KINDS,
    SHUFFLED,
    DrawnPairs,
    Kind,
    Pair,
)
from colorize_jax.evaluation.protocols.scoring import mean_score, score
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
from data.records import Source, resize

Measure = Callable[[TrainState], dict[str, float]]

# Pictures of a drawn record that are squeezed to what the encoders see.
REFERENCES = (*DRAWN_REFERENCES.values(), "reference_mask")

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


class Monitoring:
    """What a run measures on held-out data, each measurement at its own period and at the end.

    Args:
        total_steps: of the run.
        measures: (period in steps, function of the state that returns named figures).
    """

    def __init__(self, total_steps: int, measures: Sequence[tuple[int, Measure]]):
        self._total_steps, self._measures = total_steps, list(measures)

    def due(self, done: int) -> list[Measure]:
        """What is to be measured after `done` steps."""
        ends = done == self._total_steps
        return [measure for period, measure in self._measures if ends or done % period == 0]


def make_monitoring(
    system: TrainSystem, source: Source, rows: Sequence[int], mesh: Mesh, key: Array
) -> Monitoring:
    """Set up what the config wants measured while a run goes on.

    Args:
        system: static.
        source: of the run's pictures.
        rows: this process's rows of a global batch.
        mesh: where.
        key: of the run.

    Raises:
        UserError: nothing is held out.
    """
    config = system.config
    measures = []
    batches = datasets.make_validation_batches(config, source, rows)
    if batches is not None:
        period = config.logging.validation_every
        measures.append((period, make_validation(system, batches, mesh, key)))
    if config.evaluation.every_steps:
        measures.append((config.evaluation.every_steps, make_evaluation(system, source, mesh)))
    return Monitoring(config.total_steps, measures)


def make_evaluation(system: TrainSystem, source: Source, mesh: Mesh) -> Measure:
    """Return a function that colours held-out pairs and scores them, the same at every step.

    The figures are those of `eval.py` that need no network: `eval_` and MEASURE_KIND.

    Raises:
        UserError: nothing is held out.
    """
    config = system.config
    own = config.evaluation
    pairs, kinds, records = _held_out_pairs(config, source)
    shards = batch_shards(mesh)
    size = -(-min(own.batch_size, len(pairs)) // shards) * shards
    colorize = {
        plugin: build_colorize(system, plugin=plugin)
        for plugin in {kind.plugin for kind in kinds.values()}
    }
    keys = jax.random.split(jax.random.key(own.seed), len(pairs))

    @functools.partial(jax.jit, static_argnums=0, out_shardings=replicated(mesh))
    def draw(plugin: bool, params: Params, record: Mapping[str, Array], keys: Array) -> Array:
        images = colorize[plugin](params, to_batch(record), keys)
        return jnp.rint(images * 127.5 + 127.5).astype(jnp.uint8)

    def evaluate(state: TrainState) -> dict[str, float]:
        params = all_params(state, ema=config.sampling.ema)
        results: dict[str, list[np.ndarray]] = {}
        for name, kind in kinds.items():
            results[name] = []
            for start in range(0, len(pairs), size):
                rows = np.arange(start, start + size) % len(pairs)  # the last batch is filled up
                chosen = {field: values[rows] for field, values in records[kind.reference].items()}
                placed = place(dict.fromkeys(chosen, batch_sharding(mesh)), chosen)
                images = draw(kind.plugin, params, placed, keys[jnp.asarray(rows)])
                results[name] += list(np.asarray(images))
        if jax.process_index() > 0:
            return {}
        scores = [
            score(pair, kinds, {name: results[name][i] for name in kinds})
            for i, pair in enumerate(pairs)
        ]
        return {f"eval_{name}": mean_score(scores, name) for name in scores[0]}

    return evaluate


def _held_out_pairs(
    config: Config, source: Source
) -> tuple[list[Pair], dict[str, Kind], dict[str, dict[str, np.ndarray]]]:
    """Pairs, how they are coloured, and for every reference the records that a batch is made of."""
    count = config.evaluation.num_pairs
    if config.data.source != "folder":
        protocol = BACKGROUNDS if config.refine.enabled else CROSS
        size = config.data.height, config.data.width
        drawn = DrawnPairs(protocol, count, *size, config.evaluation.seed)
        records = [drawn.record(i) for i in range(count)]
        pairs, kinds = [drawn.pair(i, record) for i, record in enumerate(records)], drawn.kinds
        side = config.data.reference_size
        if side:  # the encoders' pictures; palettes are compared at the drawn size
            records = [
                record | {name: resize(record[name], side, side) for name in REFERENCES}
                for record in records
            ]
        fields = {name: DRAWN_REFERENCES[name] for name in pairs[0].references}
    else:
        pictures = datasets.held_out(config, source, count)
        if pictures is None:
            raise UserError(
                "got evaluation.every_steps without data.heldout_share, expected some pictures "
                "held out; raise it or set evaluation.every_steps to 0"
            )
        records = datasets.first_records(config, pictures, count)
        for record, following in zip(records, records[1:] + records[:1], strict=True):
            record["shuffled"] = following["reference"]
        kinds = {**FOLDER_KINDS[ALIGNED], **FOLDER_KINDS[SHUFFLED]}
        fields = {"aligned": "reference", "shuffled": "shuffled"}
        pairs = [
            Pair(str(i), r["sketch"], r["image"], {n: r[f] for n, f in fields.items()})
            for i, r in enumerate(records)
        ]
    stacked = {
        name: datasets.stacked([record | {"reference": record[field]} for record in records])
        for name, field in fields.items()
    }
    return pairs, kinds, stacked


def make_validation(system: TrainSystem, batches: Loader, mesh: Mesh, key: Array) -> Measure:
    """Return a function that measures the loss on held-out batches, the same at every step.

    Args:
        system: static.
        batches: this process's rows of held-out batches, of `datasets.make_validation_batches`.
        mesh: where.
        key: of the run.
    """
    measure = jax.jit(functools.partial(validation_losses, system), out_shardings=replicated(mesh))

    def validate(state: TrainState) -> dict[str, float]:
        batches.set_state({"next_batch": 0})
        losses = []
        for number in range(system.config.logging.validation_batches):
            record = global_batch(mesh, datasets.step_record(next(batches)))
            losses.append(measure(state, record, key, jnp.int32(number)))
        batches.close()
        return summarize(losses)

    return validate
