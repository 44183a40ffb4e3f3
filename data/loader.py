"""Checkpointable iterator of batches: the same global batches for any number of shards."""

from collections.abc import Callable, Sequence

import grain
import numpy as np
from absl import flags

from data.errors import DataError
from data.records import Record, Source

Transform = Callable[[np.random.Generator, Record], Record]


class _Rows:
    """Turns the positions of a global batch into this shard's rows of it."""

    def __init__(self, source: Source, transforms: Sequence[Transform], seed: int, rows: slice):
        self._source, self._transforms, self._seed, self._rows = source, transforms, seed, rows

    def __call__(self, places: np.ndarray) -> Record:
        """(B, 2) pairs of (epoch, index) -> batch of arrays with a leading axis."""
        examples = [self._example(int(epoch), int(i)) for epoch, i in places[self._rows]]
        return {name: np.stack([e[name] for e in examples]) for name in examples[0]}

    def _example(self, epoch: int, index: int) -> Record:
        example = self._source[index]
        for number, transform in enumerate(self._transforms):
            example = transform(np.random.default_rng((self._seed, epoch, index, number)), example)
        return example


def make_loader(
    source: Source,
    batch_size: int,
    seed: int,
    *,
    transforms: Sequence[Transform] = (),
    shuffle: bool = True,
    num_epochs: int | None = None,
    shard_index: int = 0,
    shard_count: int = 1,
    num_threads: int = 2,
    prefetch: int = 4,
    worker_count: int = 0,
    drop_remainder: bool = True,
) -> grain.DatasetIterator:
    """Iterator over batches; `get_state` and `set_state` resume it exactly.

    Shard k of n yields rows k*B/n .. (k+1)*B/n of every global batch, so that the shards'
    batches, concatenated, do not depend on n. Randomness comes from (seed, epoch, index) only.

    Args:
        source: random-access records, equal shapes under equal names.
        batch_size: global batch size B.
        seed: orders the examples (anew in each epoch) and feeds the transforms.
        transforms: applied in order, each with a generator of its own.
        shuffle: keep the source's order if False.
        num_epochs: forever if None.
        shard_index, shard_count: which of how many equal shares of a batch to yield.
        num_threads: threads that prepare batches.
        prefetch: batches prepared ahead.
        worker_count: processes that prepare batches; 0 stays in this process.
        drop_remainder: leave out a last incomplete batch; must be True with several shards.

    Raises:
        DataError: when the batch does not divide or would never be full.
    """
    _check(len(source), batch_size, num_epochs, shard_index, shard_count, drop_remainder)
    length, share = len(source), batch_size // shard_count
    order = grain.MapDataset.range(length).seed(seed)
    if shuffle:
        order = order.shuffle()
    order = order.repeat(num_epochs).map_with_index(
        lambda place, index: np.array((place // length, index), np.int64)
    )
    rows = _Rows(source, transforms, seed, slice(shard_index * share, (shard_index + 1) * share))
    batches = order.batch(batch_size, drop_remainder=drop_remainder).map(rows)
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch)
    dataset = batches.to_iter_dataset(options)
    if worker_count:
        if not flags.FLAGS.is_parsed():  # grain's worker processes read absl flags
            flags.FLAGS(["data.loader"])
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=worker_count))
    return iter(dataset)


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
