"""How well a figure stands in front of a background: both sides of a mask, and what crosses it.

Images (H, W, 3) are float sRGB in [-1, 1]; masks (H, W) or (H, W, 1) are foreground in [0, 1].
"""

import numpy as np
from scipy import ndimage

from colorize_jax.evaluation.color import ciede2000, to_lab

# Pixels with more or less of the figure in them than this are neither inside nor outside.
INSIDE, OUTSIDE = 0.95, 0.05

# A pixel has leaked if it is this far from its own colour, and so close to one of the other side.
FAR, CLOSE = 10.0, 5.0
PALETTE_STEP = 24  # levels of a channel that count as one colour
PALETTE_SHARE = 0.04  # of a side: rarer colours are none of its own


def background_error(result: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """Mean CIEDE2000 of pixels outside the figure; NaN where there are none."""
    outside = _plane(mask) < OUTSIDE
    return _mean(ciede2000(to_lab(result[outside]), to_lab(truth[outside])))


def gradient_correlation(result: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """Pearson correlation of the edges' strengths outside the figure.

    1 for the same shapes in whatever colours, about 0 for other shapes or none; NaN where the truth
    has none.
    """
    outside = ndimage.binary_erosion(_plane(mask) < OUTSIDE, iterations=1)
    own, other = (_edges(image)[outside] for image in (result, truth))
    if not other.size or np.ptp(other) < 1e-3:
        return float("nan")
    if np.ptp(own) < 1e-6:
        return 0.0
    return float(np.corrcoef(own, other)[0, 1])


def leakage(result: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """Shares of pixels that show a colour of the other side instead of their own.

    Returns:
        of the figure, in colours of the background; of the background, in colours of the figure.
    """
    plane = _plane(mask)
    sides = plane > INSIDE, plane < OUTSIDE
    return tuple(
        _leaked(result[own], truth[own], truth[other]) for own, other in (sides, sides[::-1])
    )


def _leaked(result: np.ndarray, own: np.ndarray, other: np.ndarray) -> float:
    palette = _palette(other)
    if not len(palette) or not len(own):
        return float("nan")
    shown = to_lab(result)
    from_own = ciede2000(shown, to_lab(own))
    from_other = ciede2000(shown[:, None], to_lab(palette)[None]).min(axis=1)
    return float(np.mean((from_own > FAR) & (from_other < CLOSE)))


def _palette(pixels: np.ndarray) -> np.ndarray:
    """The frequent colours (N, 3) of pixels (M, 3)."""
    levels = ((np.clip(pixels, -1, 1) + 1) * 127.5).astype(int) // PALETTE_STEP
    _, where, counts = np.unique(levels, axis=0, return_inverse=True, return_counts=True)
    frequent = np.flatnonzero(counts >= PALETTE_SHARE * len(pixels))
    return np.array([pixels[where.ravel() == i].mean(axis=0) for i in frequent])


def _edges(image: np.ndarray) -> np.ndarray:
    """Strength of the edges, (H, W): length of the channels' gradients."""
    slopes = [ndimage.sobel(np.asarray(image, np.float64), axis=axis) for axis in (0, 1)]
    return np.sqrt(sum(slope**2 for slope in slopes).sum(axis=-1))


def _plane(mask: np.ndarray) -> np.ndarray:
    return np.asarray(mask, np.float64).reshape(np.shape(mask)[:2])


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")
