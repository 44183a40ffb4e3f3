"""Drawn pictures of which it is known what hints of colour should do."""

from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from colorize_jax.evaluation.protocols.pairs import (
    DRAWN_KINDS,
    HINTS,
    DrawnPairs,
    Hint,
    Pair,
)

NUM_DOTS, RADIUS = 3, 2.0  # of a hint; px at 64
LEAST = 0.03  # share of a picture that a hinted part must cover


class DrawnHints:
    """Drawn pairs, with dots on one part in the colour of a part of another picture.

    Args:
        num: how many.
        height, width: px.
        seed: which, and which parts and colours.
    """

    def __init__(self, num: int, height: int, width: int, seed: int = 0):
        self.kinds, self._seed = DRAWN_KINDS[HINTS], seed
        self._pairs = DrawnPairs(HINTS, num, height, width, seed)

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Pair:
        """Draw pair `index`."""
        random = np.random.default_rng((self._seed, index))
        pair, other = self._pairs[index], self._pairs[(index + 1) % len(self)]
        part, source = (random.choice(large_parts(one)) for one in (pair, other))
        color = np.median(other.truth[other.parts[..., 0] == source], axis=0).astype(np.uint8)
        mask = dots(pair.parts[..., 0] == part)
        drawn = np.zeros((*mask.shape, 4), np.uint8)
        drawn[mask] = (*color, 255)
        return replace(pair, hint=Hint(Image.fromarray(drawn), mask, int(part), color))

    def fingerprint(self) -> dict[str, Any]:
        """Which are drawn."""
        return {**self._pairs.fingerprint(), "hints": self._seed}


def large_parts(pair: Pair) -> list[int]:
    """Parts that cover enough of a picture."""
    labels, counts = np.unique(pair.parts, return_counts=True)
    found = labels[counts >= LEAST * pair.parts.size]
    return [int(part) for part in found if part > 0]


def dots(inside: np.ndarray) -> np.ndarray:
    """Discs (H, W) where a part is broadest, apart from each other."""
    rows, columns = np.indices(inside.shape)
    scale = min(inside.shape) / 64
    room = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
    mask = np.zeros_like(inside)
    for _ in range(NUM_DOTS):
        y, x = np.unravel_index(room.argmax(), room.shape)
        distance = np.hypot(rows - y, columns - x) / scale
        mask |= (distance <= RADIUS) & inside
        room = np.where(distance <= 3 * RADIUS, 0, room)
    return mask
