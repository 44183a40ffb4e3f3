"""From a config's data section to the sources and loaders of `data/`."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from colorize_jax.config.options import Config, DataConfig
from colorize_jax.errors import UserError
from colorize_jax.setup.encodings import open_encodings
from data import transforms
from data.buckets import BucketSampler, scaled_buckets
from data.cache import CachedSource
from data.encoded.arrays import ENCODINGS
from data.encoded.shards import HELD_OUT
from data.errors import DataError, PictureError
from data.illustrations import CrossPairSource, IllustrationSource
from data.loader import ATTEMPTS, Loader, make_loader
from data.records import RECORD_KEYS, Record, Source
from data.sources.array_records import open_pictures
from data.sources.mixture import MixedSource
from data.sources.selection import FolderOptions

# The fields that a training step reads; records have more, some of them texts.
STEP_KEYS = (*RECORD_KEYS, "crop", *ENCODINGS)
_MEASURED = ("folder", "encoded")  # sources whose pictures may be of any size
_AFTER = transforms.BlankMargins  # changes what is not encoded


def make_source(config: Config) -> Source:
    """Open the training examples.

    Raises:
        UserError: they cannot be opened as the options say.
    """
    options = config.data
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
        elif options.source == "encoded":
            source = open_encodings(config)
        else:
            source = _folders(options, folder_options(options))
    except DataError as error:
        raise UserError(str(error)) from error
    return CachedSource(source, STEP_KEYS) if options.cache else source


def fingerprint(source: Source) -> dict[str, Any]:
    """What tells a source's examples from others; where they lie does not."""
    source = source.source if isinstance(source, CachedSource) else source
    own = getattr(source, "fingerprint", None)
    return {"examples": len(source)} if own is None else own()


def make_batches(
    config: Config,
    source: Source,
    rows: Sequence[int] | None = None,
    sampler: BucketSampler | None = None,
) -> Loader:
    """Iterate over this process's rows of the global batches; resumes by its state.

    Args:
        config: of the run.
        source: of `make_source`.
        rows: of every global batch, see `sharding.local_rows`; all by default.
        sampler: of `make_bucket_sampler`.

    Raises:
        UserError: the batch does not divide, or would never be full.
    """
    options = config.data
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


def make_bucket_sampler(options: DataConfig, source: Source) -> BucketSampler | None:
    """What forms batches of one aspect each; None where all pictures get one size.

    Raises:
        UserError: there are too few pictures.
    """
    if options.source not in _MEASURED or not options.buckets:
        return None
    pictures = source.source if isinstance(source, CachedSource) else source
    try:
        return BucketSampler(
            pictures.measure,
            options.batch_size,
            options.seed,
            bucket_shapes(options),
            joins=options.source == "folder",  # what is encoded has its size
        )
    except DataError as error:
        raise UserError(str(error)) from error


def bucket_shapes(options: DataConfig) -> tuple[tuple[int, int], ...]:
    """Heights and widths that batches may come in, whatever the pictures are.

    Raises:
        DataError: there is no such choice of buckets.
    """
    if options.source not in _MEASURED or not options.buckets:
        return ((options.height, options.width),)
    return scaled_buckets(shape_side(options), count=options.num_buckets)


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
        heldout_share=options.heldout_share,
        max_passed_over=options.max_skipped_share,
        seed=options.seed,
    )


def describe(source: Source) -> list[str]:
    """Describe the training data of a run in lines; empty for drawn pictures."""
    pictures = source.source if isinstance(source, CachedSource) else source
    return pictures.describe() if hasattr(pictures, "describe") else []


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


def held_out(config: Config, source: Source, count: int) -> Source | None:
    """Pictures that training does not see; None where a folder keeps none back.

    Args:
        config: of the run.
        source: of `make_source`.
        count: how many drawn pairs.
    """
    options = config.data
    if options.source == "encoded":
        try:
            return open_encodings(config, HELD_OUT)
        except DataError as error:
            raise UserError(str(error)) from error
    if options.source != "folder":
        return make_pairs(config, count)
    if not options.heldout_share:
        return None
    try:
        return _folders(options, dataclasses.replace(folder_options(options), heldout=True))
    except DataError as error:
        raise UserError(str(error)) from error


def make_validation_batches(config: Config, source: Source, rows: Sequence[int]) -> Loader | None:
    """This process's rows of held-out batches, at the config's own size; None where it is off.

    Raises:
        UserError: nothing is held out.
    """
    if not config.logging.validation_every:
        return None
    size = config.data.batch_size
    pictures = held_out(config, source, size * config.logging.validation_batches)
    if pictures is None:
        raise UserError(
            "got logging.validation_every without data.heldout_share, expected some pictures held "
            "out; raise it or set logging.validation_every to 0"
        )
    return make_loader(
        pictures,
        size,
        config.data.seed,
        transforms=validation_transforms(config.data),
        rows=rows,
        shuffle=False,
        prefetch=1,
    )


def validation_transforms(options: DataConfig) -> list[Any]:
    """What is done to a held-out record."""
    return [_square_crop(options)] if options.source == "folder" else []


def sample_record(config: Config, source: Source, count: int) -> dict[str, np.ndarray]:
    """A batch of pictures to draw while training: held out where possible, references exchanged.

    Raises:
        UserError: no picture can be used.
    """
    pictures = held_out(config, source, count)
    if config.data.source != "folder":
        return stacked([pictures[i] for i in range(count)])
    record = stacked(first_records(config, pictures or source, count))
    others = ("reference", "reference_mask")
    return record | {n: np.roll(record[n], 1, axis=0) for n in others if n in record}


def first_records(config: Config, source: Source, count: int) -> list[Record]:
    """Records of a folder's first pictures that can be read, cut to the config's size.

    Raises:
        UserError: none of them can.
    """
    crop, records, reason = _square_crop(config.data), [], ""
    for i in range(min(len(source), count + ATTEMPTS)):
        try:
            records.append(crop(np.random.default_rng((config.data.seed, i)), source[i]))
        except PictureError as error:
            reason = str(error)
        if len(records) == count:
            return records
    if not records:
        raise UserError(f"got no picture that can be used: {reason}")
    return [records[i % len(records)] for i in range(count)]


def shapes(config: Config, sampler: BucketSampler | None) -> list[tuple[int, int]]:
    """Heights and widths of the batches of a run, the most frequent first."""
    if sampler is None:
        return [(config.data.height, config.data.width)]
    return sampler.shapes()


def _folders(options: DataConfig, taken: FolderOptions) -> Source:
    """One folder, or a mixture of several."""
    if not options.sources:
        return open_pictures(options.path, taken)
    paths, weights = zip(*options.sources, strict=True)
    return MixedSource([open_pictures(path, taken) for path in paths], weights)


def _square_crop(options: DataConfig) -> transforms.BucketCrop:
    return transforms.BucketCrop(
        options.height,
        options.width,
        reference_size=options.reference_size or None,
        whole_reference=options.whole_reference,
    )


def stacked(records: Sequence[Record]) -> dict[str, np.ndarray]:
    """A batch of the fields that a training step reads."""
    names = [name for name in STEP_KEYS if name in records[0]]
    return {name: np.stack([record[name] for record in records]) for name in names}


def picture_transforms(options: DataConfig) -> list[Any]:
    """What training does to a record's pictures before they are encoded."""
    return [step for step in _transforms(options) if not isinstance(step, _AFTER)]


def _unchanged(rng: np.random.Generator, record: Record) -> Record:
    return record


def _transforms(options: DataConfig) -> list[Any]:
    steps: list[Any] = []
    if options.source in _MEASURED:
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
    if options.source != "encoded":
        return steps
    # In their places, so that each of the others draws what it would draw for pictures.
    return [step if isinstance(step, _AFTER) else _unchanged for step in steps]
