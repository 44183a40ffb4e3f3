"""From a config's data section to the sources and loaders of `data/`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np

from colorize_jax.config.options import Config, DataConfig
from colorize_jax.errors import UserError
from data import buckets, transforms
from data.cache import CachedSource
from data.errors import DataError
from data.folders import FolderSource
from data.illustrations import CrossPairSource, IllustrationSource
from data.loader import make_loader
from data.records import RECORD_KEYS, Record, Source

# What the training step reads; drawn records hold more, and text cannot go to a device.
STEP_KEYS = (*RECORD_KEYS, "moments", "clip_tokens", "tagger_tokens")


def make_source(options: DataConfig) -> Source:
    """Open the training examples.

    Raises:
        UserError: they cannot be opened as the options say.
    """
    size = {"height": options.height, "width": options.width}
    reference_size = options.reference_size or None
    try:
        if options.source == "illustrations":
            source: Source = IllustrationSource(
                options.seed,
                options.num_examples,
                same_identity_rate=options.same_identity_rate,
                reference_size=reference_size,
                **size,
            )
        elif options.source == "tfds":
            from data.illustrations.stored import StoredSource

            source = StoredSource(options.path)
        else:
            source = FolderSource(
                options.path,
                _index(options.path),
                min_aesthetic_score=options.min_aesthetic_score or None,
                min_short_side=options.min_short_side or None,
                reference_rate=options.same_identity_rate,
                seed=options.seed,
            )
    except DataError as error:
        raise UserError(str(error)) from error
    return CachedSource(source, _names(source)) if options.cache else source


def fingerprint(source: Source) -> dict[str, Any]:
    """What tells a source's examples from others; where they lie does not."""
    source = source.source if isinstance(source, CachedSource) else source
    own = getattr(source, "fingerprint", None)
    return {"examples": len(source)} if own is None else own()


def make_batches(
    config: Config, source: Source, rows: Sequence[int] | None = None
) -> grain.DatasetIterator:
    """Iterate over this process's rows of the global batches; resumes by its state.

    Args:
        config: of the run.
        source: of `make_source`.
        rows: of every global batch, see `sharding.local_rows`; all by default.

    Raises:
        UserError: the batch does not divide, or would never be full.
    """
    options = config.data
    steps, sampler = _transforms(options), None
    if options.source == "folder" and options.buckets:
        side = round((options.height * options.width) ** 0.5)
        sampler = buckets.BucketSampler(
            source.shapes, options.batch_size, options.seed, buckets.scaled_buckets(side)
        )
    try:
        return make_loader(
            source,
            options.batch_size,
            options.seed,
            sampler=sampler,
            transforms=steps,
            rows=rows,
            num_threads=options.num_threads,
            worker_count=options.num_workers,
            prefetch=options.prefetch,
        )
    except DataError as error:
        raise UserError(str(error)) from error


def step_record(record: dict[str, Any]) -> dict[str, np.ndarray]:
    """What a training step takes of a loader's batch."""
    return {name: record[name] for name in STEP_KEYS if name in record}


def make_pairs(config: Config, num_pairs: int, seed: int = 0) -> CrossPairSource:
    """Held-out pairs with exact truth, at the size of the training pictures."""
    options = config.data
    return CrossPairSource(
        seed, num_pairs, options.height, options.width, options.reference_size or None
    )


def first_records(config: Config, source: Source, count: int) -> list[Record]:
    """The first records of the training pictures, cut to the config's size."""
    options = config.data
    crop = transforms.BucketCrop(options.height, options.width)
    return [
        crop(np.random.default_rng((options.seed, i)), source[i % len(source)])
        for i in range(count)
    ]


def _transforms(options: DataConfig) -> list[Any]:
    steps: list[Any] = []
    if options.source == "folder":
        size = {} if options.buckets else {"height": options.height, "width": options.width}
        steps.append(transforms.BucketCrop(**size))
    if options.mask_dilation:
        steps.append(transforms.DilateReferenceMask(options.mask_dilation))
    if options.mask_grow_rate or options.mask_erase_rate:
        steps.append(
            transforms.CoarsenReferenceMask(options.mask_grow_rate, options.mask_erase_rate)
        )
    if options.margin_rate:
        steps.append(transforms.BlankMargins(options.margin_rate))
    if options.source == "folder" and options.reference_size:
        steps.append(transforms.ResizeReference(options.reference_size))
    return steps


def _index(root: str) -> Path | None:
    """The index that lies in a folder of pictures, if there is one."""
    paths = (Path(root, name) for name in ("index.parquet", "index.json"))
    return next((path for path in paths if path.exists()), None)


def _names(source: Source) -> tuple[str, ...]:
    return tuple(name for name in STEP_KEYS if name in source[0])
