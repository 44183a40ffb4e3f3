"""Line art from a picture, by a filter without weights: flow-guided differences of Gaussians.

Winnemoeller, Kyprianidis, Olsen: "XDoG: an extended difference-of-Gaussians compendium" (2012),
with three changes that suit drawings: contrast is measured on a logarithmic scale, so that lines in
dark hair count as much as those on skin; thresholds follow the local texture, so that fur and wood
do not fill with strokes; and weak lines stay where they continue strong ones (hysteresis), specks
go.
Flat dark areas stay paper: line art has outlines, not fills.
"""

from typing import Protocol

import numpy as np
from PIL import Image
from scipy import ndimage

# All lengths are px at 1024 x 1024 and grow with the picture's side.
_LINE_SIGMA = 0.9
_MIN_SIGMA = 0.8
_SURROUND = 1.6  # ratio of the two Gaussians
_COARSE = 2.0  # scale of the second, coarser pair, which fills broad strokes
_COARSE_WEIGHT = 0.5
_CHANNEL_WEIGHTS = (1.0, 0.6, 0.6, 0.6)  # luma, red, green, blue: colour edges count for less
_DARK_OFFSET = 0.1  # of the logarithm; smaller favours dark regions
_FLOW_SIGMA = 3.0  # how far lines are smoothed along themselves
_TEXTURE_SIGMA = 10.0
_TEXTURE_WEIGHT = 0.6
_NOISE_WEIGHT = 4.0  # thresholds in robust standard deviations of the response
_MIN_THRESHOLD = 0.009
_WEAK = 0.45  # of the threshold: what continues a line
_SOFTNESS = 1.6  # thresholds from paper to full line
_SPECK = 60.0  # px times squared peak: smaller components go

# Larger pictures are filtered at this many pixels: lines get no finer beyond.
_MAX_PIXELS = 1536 * 1536

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


class LineExtractor(Protocol):
    """What finds lines in a picture; learned extractors follow it too."""

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Image (H, W, 3) float32 in [-1, 1] -> lines (H, W) float32 in [0, 1], 1 = line."""
        ...


def extract_lines(image: np.ndarray, sensitivity: float = 1.0) -> np.ndarray:
    """Draw the lines of a picture.

    Args:
        image: (H, W, 3) float32 in [-1, 1].
        sensitivity: above 1 finds fainter lines, below 1 only stronger ones.

    Returns:
        (H, W) float32 in [0, 1], 1 = line.
    """
    height, width = image.shape[:2]
    shrink = (_MAX_PIXELS / (height * width)) ** 0.5
    if shrink < 1:
        small = _resize(image, max(1, int(height * shrink)), max(1, int(width * shrink)))
        return np.clip(_resize(extract_lines(small, sensitivity), height, width), 0, 1)
    scale = (height * width) ** 0.5 / 1024
    sigma = max(_MIN_SIGMA, _LINE_SIGMA * scale)
    # Lengths other than the line's own follow it, small pictures included.
    unit = sigma / _LINE_SIGMA
    tone = _log_tone(np.clip(image, -1, 1).astype(np.float32) * 0.5 + 0.5)
    response = _smooth_along(_response(tone, sigma), *_tangents(tone, unit), _FLOW_SIGMA * unit)
    deviation = 1.4826 * np.median(np.abs(response - np.median(response)))
    texture = np.sqrt(_blur(np.maximum(response, 0) ** 2, _TEXTURE_SIGMA * unit))
    threshold = max(_MIN_THRESHOLD, _NOISE_WEIGHT * deviation) + _TEXTURE_WEIGHT * texture
    ratio = response * sensitivity / threshold
    lines = np.clip((ratio - _WEAK) / (_SOFTNESS * (1 - _WEAK)), 0, 1)
    return (lines * _kept(ratio, _SPECK * unit**2)).astype(np.float32)


def _log_tone(image: np.ndarray) -> np.ndarray:
    """Luma, red, green, blue (H, W, 4) on a logarithmic scale in [0, 1]."""
    tone = np.concatenate([(image @ _LUMA)[..., None], image], axis=-1)
    return np.log1p(tone / np.float32(_DARK_OFFSET)) / np.float32(np.log1p(1 / _DARK_OFFSET))


def _response(tone: np.ndarray, sigma: float) -> np.ndarray:
    """How much darker than its surround each pixel is, in the channel that says most (H, W)."""
    weights = np.array(_CHANNEL_WEIGHTS, np.float32)

    def difference(scale: float) -> np.ndarray:
        surround = _blur(tone, _SURROUND * scale)
        surround -= _blur(tone, scale)
        return (surround * weights).max(axis=-1)

    coarse = difference(_COARSE * sigma)
    return np.maximum(difference(sigma), np.float32(_COARSE_WEIGHT) * coarse)


def _tangents(tone: np.ndarray, unit: float) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors (x, y) along the edges, from the smoothed structure tensor of the colours."""
    colors = _blur(tone[..., 1:], 0.6 * unit)
    dy, dx = (ndimage.sobel(colors, axis, mode="nearest") for axis in (0, 1))
    xx, yy, xy = (
        _blur((a * b).sum(axis=-1), 1.8 * unit) for a, b in ((dx, dx), (dy, dy), (dx, dy))
    )
    normal = 0.5 * np.arctan2(2 * xy, xx - yy)
    return -np.sin(normal), np.cos(normal)


def _smooth_along(
    values: np.ndarray, tangent_x: np.ndarray, tangent_y: np.ndarray, sigma: float
) -> np.ndarray:
    """Gaussian mean of `values` along the flow lines (line integral convolution, px steps).

    Only where a line may pass: far from all values that could reach a threshold nothing changes.
    """
    height, width = values.shape
    reach = round(2 * sigma)
    is_near = ndimage.maximum_filter(values, 2 * reach + 1) > _WEAK * _MIN_THRESHOLD
    start = np.nonzero(is_near)
    total, total_weight = values[start], 1.0
    for sign in (1, -1):
        y, x = (places.astype(np.float32) for places in start)
        step_x, step_y = sign * tangent_x[start], sign * tangent_y[start]
        for distance in range(1, reach + 1):
            x += step_x
            y += step_y
            weight = float(np.exp(-0.5 * (distance / sigma) ** 2))
            total += weight * ndimage.map_coordinates(values, [y, x], order=1, mode="nearest")
            total_weight += weight
            nearest = (
                np.clip(np.rint(y), 0, height - 1).astype(np.int32),
                np.clip(np.rint(x), 0, width - 1).astype(np.int32),
            )
            next_x, next_y = tangent_x[nearest], tangent_y[nearest]
            # A tangent has no direction: go on, never back.
            turn = np.where(next_x * step_x + next_y * step_y < 0, np.float32(-1), np.float32(1))
            step_x, step_y = turn * next_x, turn * next_y
    smoothed = values.copy()
    smoothed[start] = total / np.float32(total_weight)
    return smoothed


def _kept(ratio: np.ndarray, speck: float) -> np.ndarray:
    """Where the lines are that reach their threshold somewhere and are no specks (H, W) bool."""
    is_weak = ratio > _WEAK
    labels, count = ndimage.label(is_weak, np.ones((3, 3)))
    peaks = np.zeros(count + 1, np.float32)
    np.maximum.at(peaks, labels[is_weak], ratio[is_weak])
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    kept = (peaks > 1) & (areas * np.minimum(peaks, 4) ** 2 >= speck)
    kept[0] = False
    return kept[labels]


def _blur(values: np.ndarray, sigma: float) -> np.ndarray:
    sigmas = (sigma, sigma) + (0,) * (values.ndim - 2)
    return ndimage.gaussian_filter(values, sigmas, truncate=3.0, mode="nearest")


def _resize(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize (H, W) or (H, W, 3) floats, antialiased."""
    planes = values[..., None] if values.ndim == 2 else values
    resized = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(planes[..., i])).resize(
                (width, height), Image.Resampling.BICUBIC
            )
        )
        for i in range(planes.shape[-1])
    ]
    return resized[0] if values.ndim == 2 else np.stack(resized, axis=-1)
