"""Checkpointable iterator of batches: the same global batches for any hosts, threads and workers.

Records are made one by one, in threads or processes, and batched behind that. What cannot be read
is replaced by another picture, which follows from its place in the order alone.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import grain
import numpy as np
from absl import flags

from data.buckets import BucketSampler
from data.errors import DataError, PictureError
from data.records import Record, Source

Transform = Callable[[np.random.Generator, Record], Record]

ATTEMPTS = 16  # pictures in a row that cannot be read end a run
_REPLACEMENT = 2**32 - 1  # a stream of random numbers that no transform has
_DRAW = 2**32 - 2
_SKIPPED, _INDEX = "skipped", "index"


class Place(NamedTuple):
    """Which picture a row of a batch shows.

    Attributes:
        epoch: from 0.
        index: of the source.
        bucket: height and width, or None.
    """

    epoch: int
    index: int
    bucket: tuple[int, int] | None


class Skipped(NamedTuple):
    """A picture that a batch goes without, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class _Order:
    """Row r of batch b of an endless order of shuffled pictures, whatever their aspect."""

    indices: grain.MapDataset
    length: int
    batch_size: int

    def place(self, batch: int, row: int) -> Place:
        n = batch * self.batch_size + row
        return Place(n // self.length, int(self.indices[n]), None)

    def other(self, place: Place, rng: np.random.Generator) -> int:
        return int(rng.integers(self.length))


@dataclass(frozen=True)
class _BucketOrder:
    """Row r of batch b of a sampler's order."""

    sampler: BucketSampler

    def place(self, batch: int, row: int) -> Place:
        epoch, number = divmod(batch, len(self.sampler))
        indices, bucket = self.sampler.batch(epoch, number)
        return Place(epoch, int(indices[row]), bucket)

    def other(self, place: Place, rng: np.random.Generator) -> int:
        return self.sampler.alike(place.index, rng)


@dataclass(frozen=True)
class _Records:
    """Number of a row of this process, counted through all batches -> its record."""

    source: Source
    transforms: tuple[Transform, ...]
    seed: int
    order: _Order | _BucketOrder
    rows: tuple[int, ...]
    first: int = 0  # batch that counting begins with
    in_worker: bool = False

    def __call__(self, number: int) -> Record:
        if self.in_worker:
            _end_with_parent()
        batch, row = divmod(number, len(self.rows))
        place = self.order.place(self.first + batch, self.rows[row])
        rng = np.random.default_rng((self.seed, place.epoch, place.index, _REPLACEMENT))
        skipped = []
        for _ in range(ATTEMPTS):
            try:
                record = make_record(self.source, self.transforms, self.seed, place)
                return {**record, _SKIPPED: skipped, _INDEX: place.index}
            except PictureError as error:
                skipped.append(Skipped(name_of(self.source, place.index), str(error)))
                place = place._replace(index=self.order.other(place, rng))
        raise DataError(
            f"got {ATTEMPTS} pictures in a row that cannot be used, the last one for this: "
            f"{skipped[-1].reason}"
        )


def make_record(source: Source, transforms: Sequence[Transform], seed: int, place: Place) -> Record:
    """The record of one place, from the source through the transforms.

    Raises:
        PictureError: its picture cannot be used.
    """
    stream = (seed, place.epoch, place.index)
    if hasattr(source, "of_epoch"):
        record = source.of_epoch(place.index, place.epoch)
    elif hasattr(source, "draw"):
        record = source.draw(place.index, np.random.default_rng((*stream, _DRAW)))
    else:
        record = source[place.index]
    if place.bucket is not None:
        record = {**record, "bucket": np.array(place.bucket, np.int64)}
    for number, transform in enumerate(transforms):
        record = transform(np.random.default_rng((*stream, number)), record)
    return record


@cache
def _end_with_parent() -> None:
    """Let a worker end whose run was killed: it would wait for ever to hand its records over."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    if parent is not None:
        threading.Thread(target=watch, name="end with parent", daemon=True).start()


def name_of(source: Source, index: int) -> str:
    """What a source calls a record."""
    name = getattr(source, "name", None)
    return f"record {index}" if name is None else name(index)


def _stack(records: Sequence[Record]) -> Record:
    """Records -> arrays with a leading axis, and what they had to go without."""
    skipped = [one for record in records for one in record.pop(_SKIPPED)]
    indices = [record.pop(_INDEX) for record in records]
    shapes = {tuple((name, np.shape(value)) for name, value in r.items()) for r in records}
    if len(shapes) > 1:
        raise DataError(
            f"got records of {len(shapes)} different shapes in one batch, expected equal ones; "
            "add BucketCrop to the transforms, or a sampler"
        )
    batch = {name: np.stack([r[name] for r in records]) for name in records[0]}
    return {**batch, _SKIPPED: skipped, _INDEX: indices}


class Loader(Iterator[Record]):
    """Batches in their order; its state is the number of the next one, and nothing else.

    Attributes:
        num_records: records of this process so far, in batches that were taken.
        num_skipped: how many pictures they had to go without.
        indices: of the newest batch's records in the source.
    """

    def __init__(
        self,
        records: _Records,
        num_batches: int | None,
        *,
        rest: int = 0,
        num_threads: int,
        prefetch: int,
        worker_count: int,
    ) -> None:
        """See `make_loader`; `rest` are the rows of a last, smaller batch."""
        self._records, self._num_batches, self._rest = records, num_batches, rest
        self._num_threads, self._prefetch, self._workers = num_threads, prefetch, worker_count
        self.num_records = self.num_skipped = 0
        self._skipped: list[Skipped] = []
        self.indices: list[int] = []
        self._start(0)

    def __next__(self) -> Record:
        batch = next(self._batches)
        self._next += 1
        skipped, self.indices = batch.pop(_SKIPPED), batch.pop(_INDEX)
        self._skipped += skipped
        self.num_skipped += len(skipped)
        self.num_records += len(next(iter(batch.values())))
        return batch

    def names(self, indices: Sequence[int]) -> list[str]:
        """What the source calls its records."""
        return [name_of(self._records.source, index) for index in indices]

    def take_skipped(self) -> list[Skipped]:
        """What batches had to go without since this was last asked."""
        skipped, self._skipped = self._skipped, []
        return skipped

    def get_state(self) -> dict[str, int]:
        """Where it is, for JSON."""
        return {"next_batch": self._next}

    def set_state(self, state: dict[str, int]) -> None:
        """Go on where another loader of the same order was.

        Raises:
            DataError: the state is none of a loader's.
        """
        if not isinstance(state.get("next_batch"), int):
            raise DataError(
                f"got the data's position {state}, expected a next_batch; start the run anew"
            )
        self._start(state["next_batch"])

    def close(self) -> None:
        """End threads and processes."""
        close = getattr(self._batches, "close", None)
        if close is not None:
            close()
        self._batches = iter(())

    def _start(self, batch: int) -> None:
        self._next = batch
        rows = len(self._records.rows)
        records = replace(self._records, first=batch, in_worker=self._workers > 0)
        length = 2**62
        if self._num_batches is not None:
            length = max(0, self._num_batches - batch) * rows + self._rest
        ahead = max(self._prefetch * rows, self._num_threads, 1)
        each = -(-ahead // max(1, self._workers))
        options = grain.ReadOptions(
            num_threads=self._num_threads, prefetch_buffer_size=max(each, self._num_threads)
        )
        dataset = grain.MapDataset.range(length).map(records).to_iter_dataset(options)
        if self._workers:
            if not flags.FLAGS.is_parsed():  # grain's worker processes read absl flags
                flags.FLAGS(["data.loader"])
            dataset = dataset.mp_prefetch(
                grain.MultiprocessingOptions(num_workers=self._workers, per_worker_buffer_size=each)
            )
        batches = dataset.batch(rows, drop_remainder=False, batch_fn=_stack)
        self._batches = iter(
            grain.experimental.ThreadPrefetchIterDataset(
                batches, prefetch_buffer_size=min(2, max(1, self._prefetch))
            )
        )


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
) -> Loader:
    """Iterator over batches; `get_state` and `set_state` resume it exactly.

    Shard k of n yields rows k*B/n .. (k+1)*B/n of every global batch, so that the shards'
    batches, concatenated, do not depend on n. Randomness comes from (seed, epoch, index) only.

    Args:
        source: random access to records; equal shapes under equal names, after the transforms. One
            with a method `draw(index, rng)` or `of_epoch(index, epoch)` is asked by that, for a
            record of one epoch.
        batch_size: global batch size B.
        seed: orders the examples (anew in each epoch) and feeds the transforms.
        sampler: forms the batches instead, each of one bucket, for `transforms.BucketCrop`; its
            batch size must be B. `shuffle` and `drop_remainder` are then its own affair.
        transforms: applied in order, each with a generator of its own.
        shuffle: keep the source's order if False.
        num_epochs: forever if None.
        shard_index, shard_count: which of how many equal shares of a batch to yield.
        rows: of every global batch to yield, in the place of a share.
        num_threads: threads that make records, in every process.
        prefetch: batches' worth of records made ahead.
        worker_count: processes that make records; 0 stays in this process.
        drop_remainder: leave out a last incomplete batch; must be True with shares or rows.

    Raises:
        DataError: when the batch does not divide or would never be full.
    """
    length = len(source)
    _check(length, batch_size, num_epochs, shard_index, shard_count, drop_remainder)
    if rows is not None:
        _check_rows(rows, batch_size, shard_count, drop_remainder)
    share = batch_size // shard_count
    start = shard_index * share
    own = tuple(range(start, start + share) if rows is None else map(int, rows))
    rest = 0
    if sampler is None:
        indices = grain.MapDataset.range(length).seed(seed)
        indices = (indices.shuffle() if shuffle else indices).repeat(num_epochs)
        order: _Order | _BucketOrder = _Order(indices, length, batch_size)
        num_batches = None if num_epochs is None else length * num_epochs // batch_size
        if num_epochs is not None and not drop_remainder:
            rest = length * num_epochs % batch_size
    else:
        _check_sampler(sampler, batch_size)
        order = _BucketOrder(sampler)
        num_batches = None if num_epochs is None else len(sampler) * num_epochs
    return Loader(
        _Records(source, tuple(transforms), seed, order, own),
        num_batches,
        rest=rest,
        num_threads=num_threads,
        prefetch=prefetch,
        worker_count=worker_count,
    )


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
