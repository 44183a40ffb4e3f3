"""From a config's data section to the sources and loaders of `data/`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from colorize_jax.config.options import Config, DataConfig
from colorize_jax.errors import UserError
from data import transforms
from data.buckets import BucketSampler, scaled_buckets
from data.cache import CachedSource
from data.errors import DataError, PictureError
from data.illustrations import CrossPairSource, IllustrationSource
from data.loader import ATTEMPTS, Loader, make_loader
from data.records import RECORD_KEYS, Record, Source
from data.sources.folders import FolderOptions, FolderSource

# The fields that a training step reads; records have more, some of them texts.
STEP_KEYS = (*RECORD_KEYS, "crop", "moments", "clip_tokens", "tagger_tokens")


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
                reference_background=options.reference_background,
                **size,
            )
        elif options.source == "tfds":
            from data.illustrations.stored import StoredSource

            source = StoredSource(options.path)
        else:
            source = FolderSource(options.path, folder_options(options))
    except DataError as error:
        raise UserError(str(error)) from error
    return CachedSource(source, STEP_KEYS) if options.cache else source


def fingerprint(source: Source) -> dict[str, Any]:
    """What tells a source's examples from others; where they lie does not."""
    source = source.source if isinstance(source, CachedSource) else source
    own = getattr(source, "fingerprint", None)
    return {"examples": len(source)} if own is None else own()


def make_batches(config: Config, source: Source, rows: Sequence[int] | None = None) -> Loader:
    """Iterate over this process's rows of the global batches; resumes by its state.

    Args:
        config: of the run.
        source: of `make_source`.
        rows: of every global batch, see `sharding.local_rows`; all by default.

    Raises:
        UserError: the batch does not divide, or would never be full.
    """
    options = config.data
    sampler = make_sampler(options, source)
    try:
        return make_loader(
            source,
            options.batch_size,
            options.seed,
            sampler=sampler,
            transforms=_transforms(options),
            rows=rows,
            num_threads=options.num_threads,
            worker_count=options.num_workers,
            prefetch=options.prefetch,
        )
    except DataError as error:
        raise UserError(str(error)) from error


def make_sampler(options: DataConfig, source: Source) -> BucketSampler | None:
    """What forms batches of one aspect each; None where all pictures get one size.

    Raises:
        UserError: there are too few pictures.
    """
    if options.source != "folder" or not options.buckets:
        return None
    pictures = source.source if isinstance(source, CachedSource) else source
    try:
        return BucketSampler(
            pictures.measure,
            options.batch_size,
            options.seed,
            scaled_buckets(shape_side(options), count=options.num_buckets),
        )
    except DataError as error:
        raise UserError(str(error)) from error


def shape_side(options: DataConfig) -> int:
    """Side of the square of as many pixels as the pictures have, px."""
    return round((options.height * options.width) ** 0.5)


def folder_options(options: DataConfig) -> FolderOptions:
    """What is taken of a folder of pictures."""
    return FolderOptions(
        indices=options.index,
        min_aesthetic_score=options.min_aesthetic_score,
        min_short_side=options.min_short_side,
        reference_rate=options.same_identity_rate,
        masks=options.masks,
        sketches=options.sketches,
        max_passed_over=options.max_skipped_share,
        seed=options.seed,
    )


def describe(source: Source) -> list[str]:
    """Describe the training data of a run in lines; empty for drawn pictures."""
    pictures = source.source if isinstance(source, CachedSource) else source
    return pictures.describe() if isinstance(pictures, FolderSource) else []


def step_record(record: dict[str, Any]) -> dict[str, np.ndarray]:
    """Select the fields of a loader's batch that a training step reads."""
    return {name: record[name] for name in STEP_KEYS if name in record}


def make_pairs(config: Config, num_pairs: int, seed: int = 0) -> CrossPairSource:
    """Held-out pairs with exact truth, at the size of the training pictures."""
    options = config.data
    return CrossPairSource(
        seed,
        num_pairs,
        options.height,
        options.width,
        options.reference_size or None,
        options.reference_background,
    )


def first_records(config: Config, source: Source, count: int) -> list[Record]:
    """Records of the first training pictures that can be read, cut to the config's size.

    Raises:
        UserError: none of them can.
    """
    options, records = config.data, []
    size = options.reference_size or None
    crop = transforms.BucketCrop(
        options.height,
        options.width,
        reference_size=size,
        whole_reference=options.whole_reference,
    )
    for i in range(min(len(source), count + ATTEMPTS)):
        try:
            records.append(crop(np.random.default_rng((options.seed, i)), source[i]))
        except PictureError as error:
            reason = str(error)
        if len(records) == count:
            return records
    if not records:
        raise UserError(f"got no picture that can be used: {reason}")
    return [records[i % len(records)] for i in range(count)]


def _transforms(options: DataConfig) -> list[Any]:
    steps: list[Any] = []
    if options.source == "folder":
        size = {} if options.buckets else {"height": options.height, "width": options.width}
        steps.append(
            transforms.BucketCrop(
                **size,
                reference_size=options.reference_size or None,
                whole_reference=options.whole_reference,
            )
        )
    rates = (options.mask_box_rate, options.mask_grow_rate, options.mask_erase_rate)
    if any(rates) or options.mask_dilation:
        steps.append(transforms.AlterReferenceMask(*rates, options.mask_dilation))
    if options.margin_rate:
        steps.append(transforms.BlankMargins(options.margin_rate))
    return steps
