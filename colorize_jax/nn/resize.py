"""Resizing as PyTorch computes it, as two small matrix products: inside jit, on any backend.

Each axis is a linear map whose matrix depends on the two sizes alone, so it is made in NumPy while
tracing. Results are not clamped: a cubic overshoots the range of its input, as published.
"""

from collections.abc import Callable
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.types import Array

# The cubic convolution's free parameter (Keys 1981): PyTorch has one for each of its two forms.
PLAIN_CUBIC = -0.75
ANTIALIASED_CUBIC = -0.5


def resize_antialiased(x: Array, height: int, width: int) -> Array:
    """Resize bicubically with antialiasing and aligned corners: the encoders' preprocessing.

    Equals `interpolate(mode="bicubic", antialias=True, align_corners=True)` of PyTorch 2.

    Args:
        x: (B, H, W, C) float, any range.
        height: new height in pixels.
        width: new width in pixels.

    Returns:
        (B, height, width, C) in the dtype of `x`, computed in float32, not clamped.
    """
    return _resize(x, height, width, _antialiased_matrix)


def resize_bicubic(x: Array, height: int, width: int) -> Array:
    """Resize bicubically at half-pixel centres, without antialiasing: what masks go through.

    Args and result as in `resize_antialiased`.
    """
    return _resize(x, height, width, _bicubic_matrix)


def resize_as_pillow(x: Array, height: int, width: int) -> Array:
    """Resize bicubically with antialiasing at half-pixel centres: Pillow's resize of floats.

    Args and result as in `resize_antialiased`.
    """
    return _resize(x, height, width, _pillow_matrix)


def resize_bilinear_uncentred(x: Array, height: int, width: int) -> Array:
    """Resize bilinearly, without antialiasing, from pixel i * old / new: half a pixel off.

    Equals TensorFlow 1's `resize_bilinear`, which FID is defined with. Args and result as in
    `resize_antialiased`.
    """
    return _resize(x, height, width, _uncentred_matrix)


def resize_nearest(x: Array, height: int, width: int) -> Array:
    """Resize by taking pixel floor(i * old / new), PyTorch's "nearest".

    Args:
        x: (B, H, W, C) any dtype.
        height: new height in pixels.
        width: new width in pixels.

    Returns:
        (B, height, width, C) in the dtype of `x`.
    """
    return x[:, _nearest(x.shape[1], height)][:, :, _nearest(x.shape[2], width)]


def _resize(x: Array, height: int, width: int, matrix: Callable[[int, int], np.ndarray]) -> Array:
    rows, columns = matrix(x.shape[1], height), matrix(x.shape[2], width)
    # Full precision: resized masks are compared with thresholds, and rounding would move edges.
    exact = jax.lax.Precision.HIGHEST
    y = jnp.einsum("hH,BHWC->BhWC", rows, x.astype(jnp.float32), precision=exact)
    y = jnp.einsum("wW,BhWC->BhwC", columns, y, precision=exact)
    return y.astype(x.dtype)


def _nearest(old: int, new: int) -> np.ndarray:
    scale = np.float32(old) / np.float32(new)  # rounded to float32 as PyTorch rounds it
    taps = np.floor(np.arange(new, dtype=np.float32) * scale).astype(int)
    return np.minimum(taps, old - 1)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel, zero beyond a distance of 2."""
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


@lru_cache(maxsize=128)
def _bicubic_matrix(old: int, new: int) -> np.ndarray:
    centres = _centres(new, np.float32(old) / np.float32(new))
    first = np.floor(centres).astype(int)
    matrix = np.zeros((new, old), np.float32)
    for offset in (-1, 0, 1, 2):
        taps = first + offset
        weights = _cubic(centres - taps, PLAIN_CUBIC)
        # Taps beyond the border read the border's pixel.
        np.add.at(matrix, (np.arange(new), np.clip(taps, 0, old - 1)), weights)
    return matrix


@lru_cache(maxsize=128)
def _uncentred_matrix(old: int, new: int) -> np.ndarray:
    places = np.arange(new, dtype=np.float32) * np.float32(old / new)
    first = places.astype(int)
    second = places - first
    matrix = np.zeros((new, old), np.float32)
    for taps, weights in ((first, 1 - second), (np.minimum(first + 1, old - 1), second)):
        np.add.at(matrix, (np.arange(new), taps), weights)
    return matrix


@lru_cache(maxsize=128)
def _antialiased_matrix(old: int, new: int) -> np.ndarray:
    scale = np.float32(old - 1) / np.float32(new - 1) if new > 1 else np.float32(0)
    # PyTorch takes the scale of aligned corners but keeps half-pixel centres, so that the corners
    # do not align after all. Published weights were trained on that.
    centres = _centres(new, scale)
    return _widened_cubic(centres, scale, old)


@lru_cache(maxsize=128)
def _pillow_matrix(old: int, new: int) -> np.ndarray:
    scale = old / new
    return _widened_cubic(scale * (np.arange(new) + 0.5) - 0.5, scale, old)


def _widened_cubic(centres: np.ndarray, scale: float, old: int) -> np.ndarray:
    """The cubic kernel around each centre, as wide as a new pixel where that is larger."""
    stretch = max(scale, type(scale)(1))
    matrix = _cubic((np.arange(old)[None, :] - centres[:, None]) / stretch, ANTIALIASED_CUBIC)
    # Taps beyond the border are left out and the rest renormalized.
    return (matrix / matrix.sum(axis=1, keepdims=True)).astype(np.float32)


def _centres(new: int, scale: np.float32) -> np.ndarray:
    """Positions of new pixels between old ones, rounded to float32 as PyTorch rounds them."""
    return scale * (np.arange(new, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)
