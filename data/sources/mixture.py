"""Several sources as one, each seen as often as its weight says."""

import hashlib
import operator
from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np

from data.errors import DataError
from data.records import Record, checked_index
from data.sources.array_records import Pictures


class MixedSource:
    """Pictures of several folders; an epoch shows those of weight w w times.

    Of a share of a time an epoch shows that share of a folder's pictures, evenly spread, the same
    ones in every epoch.

    Args:
        sources: folders of pictures, and sets.
        weights: one for each, above 0.

    Raises:
        DataError: there is none, or a weight is not above 0.
    """

    def __init__(self, sources: Sequence[Pictures], weights: Sequence[float]) -> None:
        if not sources or len(sources) != len(weights) or min(weights) <= 0:
            raise DataError(
                f"got {len(sources)} sources with weights {list(weights)}, expected some, and a "
                "weight above 0 for each; correct them"
            )
        self.sources, self.weights = tuple(sources), tuple(map(float, weights))
        counts = [max(1, round(w * len(s))) for s, w in zip(sources, weights, strict=True)]
        self._edges = np.cumsum([0, *counts])

    def __repr__(self) -> str:
        return f"MixedSource({list(self.sources)}, {list(self.weights)})"

    def __len__(self) -> int:
        return int(self._edges[-1])

    def find(self, index: SupportsIndex) -> tuple[Pictures, int]:
        """The source that example `index` is from, and its number there."""
        index = checked_index(index, len(self))
        number = int(np.searchsorted(self._edges, index, side="right")) - 1
        source = self.sources[number]
        place = self._places(number, np.array([index - int(self._edges[number])]))
        return source, int(place[0])

    def _places(self, number: int, local: np.ndarray) -> np.ndarray:
        """Numbers among a source's share -> numbers in the source."""
        length, count = len(self.sources[number]), int(np.diff(self._edges)[number])
        whole = count // length * length
        spread = (local - whole) * length // max(1, count - whole)
        return np.where(local < whole, local % length, spread)

    def __getitem__(self, index: SupportsIndex) -> Record:
        """The record of its source."""
        source, place = self.find(index)
        return source[place]

    def draw(self, index: int, rng: np.random.Generator) -> Record:
        """See `FolderSource.draw`."""
        source, place = self.find(index)
        return source.draw(place, rng)

    def name(self, index: SupportsIndex) -> str:
        """The picture's location, its source's folder included."""
        source, place = self.find(operator.index(index))
        return f"{source.root}/{source.name(place)}"

    def measure(self) -> np.ndarray:
        """(N, 2) heights and widths, px."""
        parts = []
        for number, source in enumerate(self.sources):
            count = int(np.diff(self._edges)[number])
            parts.append(source.shapes[self._places(number, np.arange(count))])
        return np.concatenate(parts)

    def fingerprint(self) -> dict[str, Any]:
        """What tells these examples from others; where they lie does not."""
        parts = [source.fingerprint() for source in self.sources]
        told = repr((parts, self.weights)).encode()
        return {"pictures": len(self), "digest": hashlib.sha256(told).hexdigest()[:16]}

    def describe(self) -> list[str]:
        """What a run sees, source by source."""
        lines = [f"{len(self)} pictures an epoch from {len(self.sources)} folders"]
        for source, weight in zip(self.sources, self.weights, strict=True):
            first, *rest = source.describe()
            lines += [f"{first}; weight {weight:g}", *rest]
        return lines
