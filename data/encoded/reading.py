"""Pictures for the encoders: every one once a variant, in a given order, damaged ones left out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import grain
import numpy as np

from data.encoded.shards import Shard
from data.errors import PictureError
from data.loader import Place, Skipped, Transform, make_record, name_of
from data.records import Record, Source


@dataclass(frozen=True)
class _Reader:
    """Number of a picture, counted through all shards -> its record, or why there is none."""

    source: Source
    transforms: tuple[Transform, ...]
    seed: int
    shards: tuple[Shard, ...]
    edges: np.ndarray

    def __call__(self, number: int) -> Record | Skipped:
        which = int(np.searchsorted(self.edges, number, side="right")) - 1
        shard = self.shards[which]
        index = int(shard.indices[number - self.edges[which]])
        try:
            place = Place(shard.variant, index, shard.bucket)
            return make_record(self.source, self.transforms, self.seed, place)
        except PictureError as error:
            return Skipped(name_of(self.source, index), str(error))


def read_pictures(
    source: Source,
    transforms: Sequence[Transform],
    seed: int,
    shards: Sequence[Shard],
    *,
    num_threads: int,
    num_ahead: int,
) -> Iterator[Record | Skipped]:
    """The records of shards, one after the other, as training makes them in epoch `variant`.

    Args:
        source: of the pictures.
        transforms: with the streams that training gives them.
        seed: of the data.
        shards: in their order.
        num_threads: threads that make records.
        num_ahead: records made ahead.
    """
    counts = [len(shard.indices) for shard in shards]
    edges = np.cumsum([0, *counts])
    reader = _Reader(source, tuple(transforms), seed, tuple(shards), edges)
    options = grain.ReadOptions(
        num_threads=num_threads, prefetch_buffer_size=max(num_ahead, num_threads)
    )
    return iter(grain.MapDataset.range(sum(counts)).map(reader).to_iter_dataset(options))
