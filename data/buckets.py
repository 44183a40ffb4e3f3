"""Aspect-ratio buckets, and batches that hold one bucket each."""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from data.errors import DataError

Bucket = tuple[int, int]
"""Height and width of all pictures of a batch, px."""

_WIDE = (
    (1024, 1024), (992, 1056), (960, 1088), (928, 1120), (896, 1152), (864, 1184), (832, 1216),
    (800, 1248), (768, 1280), (736, 1312),
)  # fmt: skip
BUCKETS: tuple[Bucket, ...] = (*_WIDE, *((w, h) for h, w in _WIDE[1:]))
"""The published buckets, about 1024 x 1024 px each."""


def scaled_buckets(size: int, multiple: int = 32) -> tuple[Bucket, ...]:
    """`BUCKETS` at another size, sides rounded to a multiple, equal ones once.

    Raises:
        DataError: if the sides would vanish.
    """
    if size < multiple:
        raise DataError(
            f"got buckets of size {size}, expected at least {multiple}, their sides' multiple; "
            "raise the size"
        )
    scaled = [tuple(multiple * round(s * size / 1024 / multiple) for s in b) for b in BUCKETS]
    return tuple(dict.fromkeys(scaled))


def bucket_of(shapes: np.ndarray, buckets: Sequence[Bucket]) -> np.ndarray:
    """(N,) number of the bucket of each (N, 2) height and width.

    The most elongated one that a picture covers when its short side fits, so that only the long
    side is cropped; the nearest one for a picture that covers none.
    """
    stretch = np.log(shapes[:, 1] / shapes[:, 0])[:, None]  # > 0 wide, < 0 tall
    of_bucket = np.array([math.log(w / h) for h, w in buckets])
    fits = (np.abs(of_bucket) <= np.abs(stretch) + 1e-9) & (of_bucket * stretch >= 0)
    rank = np.where(fits, np.abs(of_bucket), -1.0 - np.abs(of_bucket - stretch))
    return rank.argmax(axis=1)


class BucketSampler:
    """Which pictures form batch b of an epoch, and their bucket; from (seed, epoch) alone.

    Pictures are sorted by aspect ratio and shuffled inside blocks of similar ones, then cut into
    batches of one bucket, and the batches shuffled. What does not fill a batch joins the next less
    elongated bucket, so that an epoch leaves out fewer than one batch.

    Args:
        shapes: (N, 2) heights and widths of the pictures.
        batch_size: pictures in a batch.
        seed: of the shuffling.
        buckets: sizes to choose from.
        block_batches: batches' worth of pictures in a block.

    Raises:
        DataError: when the pictures do not fill a batch, or there is no bucket.
    """

    def __init__(
        self,
        shapes: np.ndarray,
        batch_size: int,
        seed: int,
        buckets: Sequence[Bucket] = BUCKETS,
        block_batches: int = 16,
    ) -> None:
        self._shapes = np.asarray(shapes, np.int64).reshape(-1, 2)
        if not buckets:
            raise DataError("got no buckets, expected at least one; give (height, width) pairs")
        if not 1 <= batch_size <= len(self._shapes):
            raise DataError(
                f"got {len(self._shapes)} pictures for batches of {batch_size}, expected at least "
                "one full batch; lower the batch size"
            )
        self.batch_size, self.seed = batch_size, seed
        self.buckets, self.block_batches = tuple(buckets), block_batches
        self._bucket = bucket_of(self._shapes, self.buckets)
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)

    def __repr__(self) -> str:
        return (
            f"BucketSampler({len(self._shapes)} pictures, batch_size={self.batch_size}, "
            f"seed={self.seed}, buckets={self.buckets}, block_batches={self.block_batches})"
        )

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name != "_epoch"}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._shapes) // self.batch_size

    def batch(self, epoch: int, number: int) -> tuple[np.ndarray, Bucket]:
        """(B,) picture indices of batch `number` of `epoch`, and the batch's bucket."""
        batches, numbers = self._epoch(epoch)
        return batches[number], self.buckets[numbers[number]]

    def _make_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """(M, B) picture indices and (M,) bucket numbers."""
        rng = np.random.default_rng((self.seed, epoch))
        batches: list[np.ndarray] = []
        numbers: list[int] = []
        for number, waiting in self._steps(rng):
            for start in range(0, len(waiting) - self.batch_size + 1, self.batch_size):
                batches.append(waiting[start : start + self.batch_size])
                numbers.append(number)
        order = rng.permutation(len(batches))
        return np.stack(batches)[order], np.array(numbers)[order]

    def _steps(self, rng: np.random.Generator) -> Iterator[tuple[int, np.ndarray]]:
        """Pairs of a bucket and the pictures that wait for it, the most elongated first."""
        stretch = [math.log(w / h) for h, w in self.buckets]
        elongated = sorted(range(len(stretch)), key=lambda n: -abs(stretch[n]))
        least = elongated.pop()
        rest = []
        for tall in (False, True):
            left = np.empty(0, np.int64)
            for number in elongated:
                if (stretch[number] < 0) != tall:
                    continue
                waiting = np.concatenate([left, self._shuffled(rng, self._bucket == number)])
                yield number, waiting
                left = waiting[len(waiting) // self.batch_size * self.batch_size :]
            rest.append(left)
        yield least, np.concatenate([*rest, self._shuffled(rng, self._bucket == least)])

    def _shuffled(self, rng: np.random.Generator, members: np.ndarray) -> np.ndarray:
        """Indices of the members, sorted by aspect ratio and shuffled inside blocks."""
        indices = np.flatnonzero(members)
        height, width = self._shapes[indices].T
        indices = indices[np.argsort(-np.abs(np.log(width / height)), kind="stable")]
        block = self.block_batches * self.batch_size
        parts = [rng.permutation(indices[i : i + block]) for i in range(0, len(indices), block)]
        return np.concatenate(parts) if parts else indices
