"""A large picture in overlapping pieces, and their results as one without seams."""

from collections.abc import Callable, Iterator

import numpy as np


def by_tiles(
    image: np.ndarray,
    run: Callable[[np.ndarray], np.ndarray],
    tile: tuple[int, int],
    overlap: int,
) -> np.ndarray:
    """Apply a function to pieces of a picture.

    Near an inner border of a piece, where the function sees less than there is, its result does not
    count for a quarter of the overlap; then it fades in over half of it.

    Args:
        image: (H, W, C), padded by its border's values where it is smaller than a piece.
        run: (*tile, C) -> tile, float32.
        tile: height and width, px.
        overlap: px that neighbours have in common, at least.

    Returns:
        (H, W) float32.
    """
    height, width = image.shape[:2]
    padding = max(0, tile[0] - height), max(0, tile[1] - width)
    if any(padding):
        image = np.pad(image, ((0, padding[0]), (0, padding[1]), (0, 0)), mode="edge")
    total = np.zeros(image.shape[:2], np.float32)
    weight = np.zeros(image.shape[:2], np.float32)
    for top, rows in _pieces(image.shape[0], tile[0], overlap):
        for left, columns in _pieces(image.shape[1], tile[1], overlap):
            part = slice(top, top + tile[0]), slice(left, left + tile[1])
            share = rows[:, None] * columns
            total[part] += share * run(image[part])
            weight[part] += share
    return (total / weight)[:height, :width]


def _pieces(length: int, tile: int, overlap: int) -> Iterator[tuple[int, np.ndarray]]:
    """Start and weights (tile,) of the pieces of a length."""
    count = 1 + -(-max(0, length - tile) // (tile - overlap))
    starts = np.linspace(0, length - tile, count).round().astype(int).tolist()
    place = np.arange(tile, dtype=np.float32) + np.float32(0.5)
    for number, start in enumerate(starts):
        weights = np.ones(tile, np.float32)
        if overlap and number:
            weights = np.minimum(weights, (place - overlap / 4) / (overlap / 2))
        if overlap and number < count - 1:
            weights = np.minimum(weights, (tile - place - overlap / 4) / (overlap / 2))
        yield start, np.clip(weights, 0, 1)
