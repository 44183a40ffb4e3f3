"""Records kept in memory once rendered or decoded: for small pictures on a laptop."""

from typing import SupportsIndex

import numpy as np

from data.records import Record, Source, checked_index


class CachedSource:
    """The records of a source, each made when first asked for and then kept.

    Grows up to all records of the source: at 64 px a drawn example takes about 40 KB. Its arrays
    are read-only, as later epochs get them again. Threads may share it; processes do not (with
    `worker_count` in `make_loader` every process fills its own).

    Args:
        source: whose records never change.
        names: which fields to keep, where a record has them; all of them if None.
    """

    def __init__(self, source: Source, names: tuple[str, ...] | None = None) -> None:
        self.source, self.names = source, names
        self._records: list[Record | None] = [None] * len(source)

    def __repr__(self) -> str:
        return f"CachedSource({self.source!r}, names={self.names})"

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: SupportsIndex) -> Record:
        """The source's record `index`, as a new dictionary of the same read-only arrays."""
        index = checked_index(index, len(self))
        record = self._records[index]
        if record is None:
            made = self.source[index]
            record = {name: made[name] for name in self.names or made if name in made}
            for value in record.values():
                if isinstance(value, np.ndarray):
                    value.setflags(write=False)
            self._records[index] = record
        return dict(record)

    def name(self, index: int) -> str:
        """What the source calls record `index`."""
        name = getattr(self.source, "name", None)
        return f"record {index}" if name is None else name(index)

    @property
    def nbytes(self) -> int:
        """Memory held by the records so far, bytes; an array under two names counts once."""
        arrays = {
            id(value): value.nbytes
            for record in self._records
            if record is not None
            for value in record.values()
        }
        return sum(arrays.values())
