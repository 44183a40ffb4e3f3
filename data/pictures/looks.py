"""What a picture looks like, in a few bytes: copies of it are found by them."""

import itertools
from collections.abc import Iterator

import numpy as np
from PIL import Image

SIDE = 256  # px, of pictures that are looked at
_HASH_SIDE = 8
_EDGES = 1 << np.arange(63, -1, -1, dtype=np.uint64)
_FLAT_BITS = 4
_COLOR_SIDE = 4
_WHOLE_BLOCKS = 3  # of a hash, that two near ones share
_NEIGHBOURS = 64  # compared with each, among those that share blocks
MAX_BITS = 6


def looks(image: Image.Image) -> int:
    """A number that alike pictures share but for some bits: which neighbours are brighter."""
    size = _HASH_SIDE + 1, _HASH_SIDE
    grey = np.asarray(image.convert("L").resize(size, Image.Resampling.BOX)).astype(np.int16)
    bits = (grey[:, 1:] > grey[:, :-1]).ravel()
    return int((bits * _EDGES).sum(dtype=np.uint64))


def colors(image: Image.Image) -> bytes:
    """48 bytes, the mean colours of four by four parts: one drawing coloured twice is two."""
    size = _COLOR_SIDE, _COLOR_SIDE
    return np.asarray(image.convert("RGB").resize(size, Image.Resampling.BOX)).tobytes()


def near_pairs(hashes: np.ndarray, bits: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of pictures whose `looks` differ in at most so many bits; some of them repeatedly.

    Hashes are cut into `bits` + 3 blocks: two that are near share three of them. So millions are
    sorted some times instead of compared with one another. Flat pictures look like no other.

    Args:
        hashes: (N,) uint64.
        bits: 0..`MAX_BITS`.

    Yields:
        (M,) positions, and (M,) those of their partners.
    """
    ones = np.bitwise_count(hashes)
    kept = np.flatnonzero((ones >= _FLAT_BITS) & (ones <= 64 - _FLAT_BITS))
    edges = np.linspace(0, 64, bits + _WHOLE_BLOCKS + 1).astype(int)
    blocks = [
        sum(1 << bit for bit in range(low, high))
        for low, high in itertools.pairwise(edges.tolist())
    ]
    for shared in itertools.combinations(blocks, _WHOLE_BLOCKS):
        keys = hashes[kept] & np.uint64(sum(shared))
        order = np.argsort(keys, kind="stable")
        keys, rows = keys[order], kept[order]
        for step in range(1, min(_NEIGHBOURS, len(rows) - 1) + 1):
            together = np.flatnonzero(keys[step:] == keys[:-step])
            if not len(together):
                break
            one, other = rows[together], rows[together + step]
            near = np.bitwise_count(hashes[one] ^ hashes[other]) <= bits
            yield one[near], other[near]
