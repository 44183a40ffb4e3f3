"""Aspect-ratio buckets, and batches that hold one bucket each."""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np

from data.errors import DataError

Bucket = tuple[int, int]
"""Height and width of all pictures of a batch, px."""

_WIDE = (
    (1024, 1024), (992, 1056), (960, 1088), (928, 1120), (896, 1152), (864, 1184), (832, 1216),
    (800, 1248), (768, 1280), (736, 1312),
)  # fmt: skip
_ROWS = 100_000
BUCKETS: tuple[Bucket, ...] = (*_WIDE, *((w, h) for h, w in _WIDE[1:]))
"""The published buckets, about 1024 x 1024 px each."""


def scaled_buckets(size: int, multiple: int = 32, count: int = len(BUCKETS)) -> tuple[Bucket, ...]:
    """`BUCKETS` at another size, sides rounded to a multiple, equal ones once.

    Args:
        size: side of the square one, px.
        multiple: of all sides.
        count: how many at most: the square, and as many wide as tall ones at even distances; each
            is a program of its own to compile.

    Raises:
        DataError: if the sides would vanish, or there is no such choice.
    """
    if not 1 <= count <= len(BUCKETS) or count % 2 == 0:
        raise DataError(
            f"got {count} buckets, expected an odd number from 1 to {len(BUCKETS)}: the square, "
            "and as many wide as tall ones; change it"
        )
    if size < multiple:
        raise DataError(
            f"got buckets of size {size}, expected at least {multiple}, their sides' multiple; "
            "raise the size"
        )
    steps = len(_WIDE) - 1
    chosen = [round(i * steps / (count // 2)) for i in range(1, count // 2 + 1)]
    wide = [_WIDE[0], *(_WIDE[i] for i in chosen)]
    published = (*wide, *((w, h) for h, w in wide[1:]))
    scaled = [tuple(multiple * round(s * size / 1024 / multiple) for s in b) for b in published]
    return tuple(dict.fromkeys(scaled))


def bucket_of(shapes: np.ndarray, buckets: Sequence[Bucket]) -> np.ndarray:
    """(N,) number of the bucket of each (N, 2) height and width.

    The most elongated one that a picture covers when its short side fits, so that only the long
    side is cropped; the nearest one for a picture that covers none.
    """
    found = np.empty(len(shapes), np.int8)
    of_bucket = np.array([math.log(w / h) for h, w in buckets])
    for start in range(0, len(shapes), _ROWS):  # millions at once would take gigabytes
        part = shapes[start : start + _ROWS]
        stretch = np.log(part[:, 1] / part[:, 0])[:, None]  # > 0 wide, < 0 tall
        fits = (np.abs(of_bucket) <= np.abs(stretch) + 1e-9) & (of_bucket * stretch >= 0)
        rank = np.where(fits, np.abs(of_bucket), -1.0 - np.abs(of_bucket - stretch))
        found[start : start + _ROWS] = rank.argmax(axis=1)
    return found


class BucketSampler:
    """Which pictures form batch b of an epoch, and their bucket; from (seed, epoch) alone.

    Pictures are sorted by aspect ratio and shuffled inside blocks of similar ones, then cut into
    batches of one bucket, and the batches shuffled. What does not fill a batch joins the next less
    elongated bucket, so that an epoch leaves out fewer than one batch.

    Worker processes are sent the function that says the shapes, not millions of them.

    Args:
        shapes: (N, 2) heights and widths of the pictures, or a function that returns them.
        batch_size: pictures in a batch.
        seed: of the shuffling.
        buckets: sizes to choose from.
        block_batches: batches' worth of pictures in a block.
        joins: whether what does not fill a batch joins another bucket; else it is left out of the
            epoch.

    Raises:
        DataError: when the pictures do not fill a batch, or there is no bucket.
    """

    def __init__(
        self,
        shapes: np.ndarray | Callable[[], np.ndarray],
        batch_size: int,
        seed: int,
        buckets: Sequence[Bucket] = BUCKETS,
        block_batches: int = 16,
        joins: bool = True,
    ) -> None:
        self._shapes = shapes
        if not buckets:
            raise DataError("got no buckets, expected at least one; give (height, width) pairs")
        self.batch_size, self.seed = batch_size, seed
        self.buckets, self.block_batches = tuple(buckets), block_batches
        self.joins = joins
        self._prepare()
        if not 1 <= batch_size <= self._count or not len(self):
            raise DataError(
                f"got {self._count} pictures for batches of {batch_size}, expected at least "
                "one full batch; lower the batch size"
            )

    def _prepare(self) -> None:
        """Sort the pictures: by bucket, then by aspect ratio."""
        shapes = np.asarray(self._shapes() if callable(self._shapes) else self._shapes)
        shapes = shapes.reshape(-1, 2)
        self._count = len(shapes)
        self._bucket = bucket_of(shapes, self.buckets)
        stretch = np.empty(len(shapes), np.float32)
        for start in range(0, len(shapes), _ROWS):
            part = shapes[start : start + _ROWS]
            stretch[start : start + _ROWS] = np.abs(np.log(part[:, 1] / part[:, 0]))
        self._sorted = np.lexsort((-stretch, self._bucket)).astype(np.int32)
        self._edges = np.searchsorted(self._bucket[self._sorted], range(len(self.buckets) + 1))
        self._epoch, self._lock = lru_cache(maxsize=2)(self._make_epoch), threading.Lock()

    def __repr__(self) -> str:
        return (
            f"BucketSampler({self._count} pictures, batch_size={self.batch_size}, "
            f"seed={self.seed}, buckets={self.buckets}, block_batches={self.block_batches})"
        )

    def __getstate__(self) -> dict:
        names = ("_shapes", "batch_size", "seed", "buckets", "block_batches", "joins")
        return {name: vars(self)[name] for name in names}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._prepare()

    def __len__(self) -> int:
        """Batches in an epoch."""
        if self.joins:
            return self._count // self.batch_size
        return int((np.diff(self._edges) // self.batch_size).sum())

    def counts(self) -> dict[Bucket, int]:
        """How many pictures each bucket has."""
        return dict(zip(self.buckets, np.diff(self._edges).tolist(), strict=True))

    def members(self) -> dict[Bucket, np.ndarray]:
        """The pictures of each bucket."""
        return {bucket: self._members(number) for number, bucket in enumerate(self.buckets)}

    def shapes(self) -> list[Bucket]:
        """The buckets that batches come in, the most frequent first."""
        numbers = self._epoch_of(0)[1]
        counts = np.bincount(numbers, minlength=len(self.buckets))
        order = np.argsort(-counts, kind="stable")
        return [self.buckets[n] for n in order.tolist() if counts[n]]

    def alike(self, index: int, rng: np.random.Generator) -> int:
        """Another picture of the same bucket, where there is one."""
        members = self._members(int(self._bucket[index]))
        return int(members[rng.integers(len(members))])

    def batch(self, epoch: int, number: int) -> tuple[np.ndarray, Bucket]:
        """(B,) picture indices of batch `number` of `epoch`, and the batch's bucket."""
        batches, numbers = self._epoch_of(epoch)
        return batches[number], self.buckets[numbers[number]]

    def _epoch_of(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        with self._lock:  # threads that ask for a new epoch wait for one of them to shuffle it
            return self._epoch(epoch)

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
        return np.stack(batches)[order], np.array(numbers, np.int16)[order]

    def _steps(self, rng: np.random.Generator) -> Iterator[tuple[int, np.ndarray]]:
        """Pairs of a bucket and the pictures that wait for it, the most elongated first."""
        if not self.joins:
            yield from (
                (number, self._shuffled(rng, number)) for number in range(len(self.buckets))
            )
            return
        stretch = [math.log(w / h) for h, w in self.buckets]
        elongated = sorted(range(len(stretch)), key=lambda n: -abs(stretch[n]))
        least = elongated.pop()
        rest = []
        for tall in (False, True):
            left = np.empty(0, np.int32)
            for number in elongated:
                if (stretch[number] < 0) != tall:
                    continue
                waiting = np.concatenate([left, self._shuffled(rng, number)])
                yield number, waiting
                left = waiting[len(waiting) // self.batch_size * self.batch_size :]
            rest.append(left)
        yield least, np.concatenate([*rest, self._shuffled(rng, least)])

    def _members(self, number: int) -> np.ndarray:
        """Pictures of a bucket, the most elongated first."""
        return self._sorted[self._edges[number] : self._edges[number + 1]]

    def _shuffled(self, rng: np.random.Generator, number: int) -> np.ndarray:
        """Pictures of a bucket, shuffled inside blocks of similar ones."""
        indices, block = self._members(number), self.block_batches * self.batch_size
        parts = [rng.permutation(indices[i : i + block]) for i in range(0, len(indices), block)]
        return np.concatenate(parts) if parts else indices
