"""Decoding in overlapping tiles, so that memory does not grow with the picture."""

from collections.abc import Callable

import numpy as np

from colorize_jax.types import Array

TILE, OVERLAP = 96, 24  # latents


def decode_tiled(
    decode: Callable[[Array], Array],
    latents: np.ndarray,
    cell: int,
    tile: int = TILE,
    overlap: int = OVERLAP,
) -> np.ndarray:
    """Decode in tiles of one shape and blend them linearly where they overlap.

    Group norms take statistics of a tile instead of the whole picture, so that colours differ
    slightly from a whole decode; blending hides the seams.

    Args:
        decode: latents (B, h, w, C) -> images (B, h * cell, w * cell, 3).
        latents: (B, h, w, C).
        cell: side of a latent's square of pixels.
        tile: side of a tile, latents.
        overlap: of neighbouring tiles at least, latents.

    Returns:
        (B, H, W, 3) float32.
    """
    batch, height, width = latents.shape[:3]
    rows, columns = _starts(height, tile, overlap), _starts(width, tile, overlap)
    sides = min(tile, height), min(tile, width)
    window = np.outer(
        _ramp(sides[0] * cell, overlap * cell), _ramp(sides[1] * cell, overlap * cell)
    )
    window = window[..., None].astype(np.float32)
    total = np.zeros((batch, height * cell, width * cell, 3), np.float32)
    weight = np.zeros((height * cell, width * cell, 1), np.float32)
    for top in rows:
        for left in columns:
            part = latents[:, top : top + sides[0], left : left + sides[1]]
            place = (
                slice(top * cell, (top + sides[0]) * cell),
                slice(left * cell, (left + sides[1]) * cell),
            )
            total[:, *place] += np.asarray(decode(part)) * window
            weight[place] += window
    return total / weight


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin, evenly, the last one flush with the end."""
    if length <= tile:
        return [0]
    count = -(-(length - overlap) // (tile - overlap))
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def _ramp(length: int, overlap: int) -> np.ndarray:
    """Weights along a side, rising from both ends over the overlap, never zero."""
    distance = np.minimum(np.arange(length), np.arange(length)[::-1]) + 1
    return np.minimum(distance / (overlap + 1), 1.0)
