"""Checkpointable iterator of batches: the same global batches for any number of shards."""

from collections.abc import Callable, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from data.buckets import BucketSampler
from data.errors import DataError
from data.records import Record, Source

Transform = Callable[[np.random.Generator, Record], Record]


class _Rows:
    """Turns the positions of a global batch into this shard's rows of it."""

    def __init__(self, source: Source, transforms: Sequence[Transform], seed: int, rows: Any):
        self._source, self._transforms, self._seed, self._rows = source, transforms, seed, rows

    def __call__(self, places: np.ndarray) -> Record:
        """(B, 4) rows of (epoch, index, bucket height and width) -> arrays with a leading axis."""
        examples = [self._example(*row) for row in places[self._rows].tolist()]
        shapes = {tuple((name, np.shape(value)) for name, value in e.items()) for e in examples}
        if len(shapes) > 1:
            raise DataError(
                f"got records of {len(shapes)} different shapes in one batch, expected equal ones; "
                "add BucketCrop to the transforms, or a sampler"
            )
        return {name: np.stack([e[name] for e in examples]) for name in examples[0]}

    def _example(self, epoch: int, index: int, height: int, width: int) -> Record:
        example = self._source[index]
        if height:
            example = {**example, "bucket": np.array((height, width), np.int64)}
        for number, transform in enumerate(self._transforms):
            example = transform(np.random.default_rng((self._seed, epoch, index, number)), example)
        return example


class _Place:
    """Turns the n-th index of an endless order into a row for `_Rows`, without a bucket."""

    def __init__(self, length: int):
        self._length = length

    def __call__(self, n: int, index: int) -> np.ndarray:
        return np.array((n // self._length, index, 0, 0), np.int64)


class _Places:
    """Turns the n-th batch of an endless order into a sampler's rows for `_Rows`."""

    def __init__(self, sampler: BucketSampler):
        self._sampler = sampler

    def __call__(self, n: int, number: int) -> np.ndarray:
        epoch = n // len(self._sampler)
        indices, (height, width) = self._sampler.batch(epoch, number)
        return np.array([(epoch, index, height, width) for index in indices], np.int64)


def make_loader(
    source: Source,
    batch_size: int,
    seed: int,
    *,
    sampler: BucketSampler | None = None,
    transforms: Sequence[Transform] = (),
    shuffle: bool = True,
    num_epochs: int | None = None,
    shard_index: int = 0,
    shard_count: int = 1,
    rows: Sequence[int] | None = None,
    num_threads: int = 2,
    prefetch: int = 4,
    worker_count: int = 0,
    drop_remainder: bool = True,
) -> grain.DatasetIterator:
    """Iterator over batches; `get_state` and `set_state` resume it exactly.

    Shard k of n yields rows k*B/n .. (k+1)*B/n of every global batch, so that the shards'
    batches, concatenated, do not depend on n. Randomness comes from (seed, epoch, index) only.

    Args:
        source: random-access records; equal shapes under equal names, after the transforms.
        batch_size: global batch size B.
        seed: orders the examples (anew in each epoch) and feeds the transforms.
        sampler: forms the batches instead, each of one bucket, for `transforms.BucketCrop`; its
            batch size must be B. `shuffle` and `drop_remainder` are then its own affair.
        transforms: applied in order, each with a generator of its own.
        shuffle: keep the source's order if False.
        num_epochs: forever if None.
        shard_index, shard_count: which of how many equal shares of a batch to yield.
        rows: of every global batch to yield, in the place of a share.
        num_threads: threads that prepare batches.
        prefetch: batches prepared ahead.
        worker_count: processes that prepare batches; 0 stays in this process.
        drop_remainder: leave out a last incomplete batch; must be True with shares or rows.

    Raises:
        DataError: when the batch does not divide or would never be full.
    """
    _check(len(source), batch_size, num_epochs, shard_index, shard_count, drop_remainder)
    if rows is not None:
        _check_rows(rows, batch_size, shard_count, drop_remainder)
    share = batch_size // shard_count
    start = shard_index * share
    own = slice(start, start + share) if rows is None else np.asarray(rows)
    if sampler is None:
        order = grain.MapDataset.range(len(source)).seed(seed)
        order = order.shuffle() if shuffle else order
        places = order.repeat(num_epochs).map_with_index(_Place(len(source)))
        places = places.batch(batch_size, drop_remainder=drop_remainder)
    else:
        _check_sampler(sampler, batch_size)
        order = grain.MapDataset.range(len(sampler)).repeat(num_epochs)
        places = order.map_with_index(_Places(sampler))
    batches = places.map(_Rows(source, transforms, seed, own))
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch)
    dataset = batches.to_iter_dataset(options)
    if worker_count:
        if not flags.FLAGS.is_parsed():  # grain's worker processes read absl flags
            flags.FLAGS(["data.loader"])
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=worker_count))
    return iter(dataset)


def _check_sampler(sampler: BucketSampler, batch_size: int) -> None:
    if sampler.batch_size != batch_size:
        raise DataError(
            f"got a sampler of batches of {sampler.batch_size} for a loader of {batch_size}, "
            "expected the same number; build the sampler for this batch size"
        )


def _check_rows(
    rows: Sequence[int], batch_size: int, shard_count: int, drop_remainder: bool
) -> None:
    fits = len(rows) and min(rows) >= 0 and max(rows) < batch_size
    if not fits or shard_count > 1 or not drop_remainder:
        raise DataError(
            f"got {len(rows)} rows of batches of {batch_size}, {shard_count} shards and "
            f"drop_remainder={drop_remainder}, expected rows 0..{batch_size - 1} of whole batches "
            "and no shards; name either rows or a shard"
        )


def _check(
    length: int,
    batch_size: int,
    num_epochs: int | None,
    shard_index: int,
    shard_count: int,
    drop_remainder: bool,
) -> None:
    if batch_size < 1 or shard_count < 1 or batch_size % shard_count:
        raise DataError(
            f"got batch size {batch_size} for {shard_count} shards, expected a positive multiple "
            "of the number of shards; change the batch size"
        )
    if not 0 <= shard_index < shard_count:
        raise DataError(
            f"got shard {shard_index} of {shard_count}, expected 0..{shard_count - 1}; "
            "number the shards from zero"
        )
    if not drop_remainder and shard_count > 1:
        raise DataError(
            f"got drop_remainder=False with {shard_count} shards, expected a single shard; "
            "drop the remainder or load in one process"
        )
    if drop_remainder and num_epochs is not None and length * num_epochs < batch_size:
        raise DataError(
            f"got {length * num_epochs} examples for batches of {batch_size}, expected at least "
            "one full batch; lower the batch size"
        )
