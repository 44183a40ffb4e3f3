"""Drawn pictures of which it is known what a control should do: regions and hints of colour."""

from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from colorize_jax.evaluation.protocols.pairs import (
    CROSS,
    DRAWN_KINDS,
    HINTS,
    SCENES,
    DrawnPairs,
    Hint,
    Pair,
)
from colorize_jax.inference.controls.scenes import RegionReference, Scene

NUM_DOTS, RADIUS = 3, 2.0  # of a hint; px at 64
LEAST = 0.03  # share of a picture that a hinted part must cover


class DrawnScenes:
    """Two drawn pictures side by side, each figure with a reference of its own.

    Args:
        num: how many.
        height, width: of both together, px.
        seed: which.
    """

    def __init__(self, num: int, height: int, width: int, seed: int = 0):
        self.kinds = DRAWN_KINDS[SCENES]
        self._pairs = DrawnPairs(CROSS, 2 * num, height, width // 2, seed)

    def __len__(self) -> int:
        return len(self._pairs) // 2

    def __getitem__(self, index: int) -> Pair:
        """Draw picture `index`."""
        sides = [self._pairs[2 * index + i] for i in range(2)]

        def beside(images: Any) -> np.ndarray:
            return np.concatenate(list(images), axis=1)

        one, other = (side.references["cross"] for side in sides)
        left = np.zeros(sides[0].truth.shape[:2], np.uint8)
        left = beside((left + 255, left))
        both = Scene((RegionReference(one), RegionReference(other)))
        shown = beside((one, other))
        return Pair(
            name=f"scene {index}",
            sketch=beside(side.sketch for side in sides),
            truth=beside(side.truth for side in sides),
            references={name: shown for name in ("regions", "everywhere", "concatenated")}
            | {"left": one, "right": other},
            parts=beside(side.parts for side in sides),
            scenes={
                "regions": Scene((RegionReference(one, left), RegionReference(other, 255 - left))),
                "everywhere": both,
                "concatenated": replace(both, joined=True),
            },
        )

    def fingerprint(self) -> dict[str, Any]:
        """Which are drawn."""
        return {"scenes": self._pairs.fingerprint()["drawn"]}


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
