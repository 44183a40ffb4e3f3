"""Random numbers: a seed for each example and purpose, a generator for each seed."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")

SPLITS = ("train", "heldout")
_SPLIT_SHIFT = 60


def example_seed(split: str, stream: str, seed: int, index: int) -> int:
    """Seed of one example's `stream` ("geometry", "identity", ...), uniform below 2**61.

    Bit 60 holds the split: a held-out seed differs from every training seed by construction.

    Raises:
        ValueError: if the split is not one of `SPLITS`.
    """
    words = np.frombuffer(stream.encode().ljust(16, b"\0")[:16], dtype="<u4").tolist()
    state = np.random.SeedSequence((seed, index, *words)).generate_state(1, np.uint64)
    return (int(state[0]) >> (64 - _SPLIT_SHIFT)) | (SPLITS.index(split) << _SPLIT_SHIFT)


class Dice:
    """A stream of decisions, the same for the same key on every machine."""

    _BLOCK = 64

    def __init__(self, *key: int):
        self._generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))
        self._values: list[float] = []

    def unit(self) -> float:
        """The next number in [0, 1)."""
        if not self._values:
            self._values = self._generator.random(self._BLOCK).tolist()
        return self._values.pop()

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self.unit()

    def chance(self, rate: float) -> bool:
        return self.unit() < rate

    def sign(self) -> int:
        return 1 if self.unit() < 0.5 else -1

    def integer(self, low: int, high: int) -> int:
        """An integer in [low, high], both included."""
        return low + int(self.unit() * (high - low + 1))

    def choice(self, options: Sequence[T]) -> T:
        return options[int(self.unit() * len(options))]

    def weighted(self, weights: Mapping[T, float]) -> T:
        """A key of `weights`, with probability proportional to its value."""
        left = self.unit() * sum(weights.values())
        for option, weight in weights.items():
            left -= weight
            if left < 0:
                return option
        return option
