"""Line art from a picture, by a filter without weights: flow-guided differences of Gaussians.

Winnemoeller, Kyprianidis, Olsen: "XDoG: an extended difference-of-Gaussians compendium" (2012),
with three changes that suit drawings: contrast is measured on a logarithmic scale, so that lines in
dark hair count as much as those on skin; thresholds follow the local texture, so that fur and wood
do not fill with strokes; and weak lines stay where they continue strong ones (hysteresis), specks
go.
Flat dark areas stay paper: line art has outlines, not fills.

What several styles of one picture have in common is computed once. Broad differences are taken at
half the size, where they cost a quarter and lose nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
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
_TEXTURE_SIGMA = 10.0
_TEXTURE_WEIGHT = 0.6
_NOISE_WEIGHT = 4.0  # thresholds in robust standard deviations of the response
_NOISE_STRIDE = 3  # px between the values that noise is judged by
_MIN_THRESHOLD = 0.009
_WEAK = 0.45  # of the threshold: what continues a line
_SPECK = 60.0  # px times squared peak: smaller components go
_MAX_PEAK = 4.0

# Larger pictures are filtered at this many pixels: lines get no finer beyond.
_MAX_PIXELS = 1536 * 1536

# Smaller ones are not halved for broad differences.
_HALVED_PIXELS = 384 * 384

_LUMA = (0.299, 0.587, 0.114)
_STEP = 2  # px along the flow
_NEAR = 2  # px, side of the blocks in which a line may pass or not


@dataclass(frozen=True)
class LineStyle:
    """A character of lines.

    Attributes:
        broad: whether only differences of twice the width and more are seen.
        flow: how far lines are smoothed along themselves, px at 1024 x 1024; 0: not at all.
        sensitivity: above 1 finds fainter lines, below 1 only stronger ones.
        softness: thresholds from paper to full line.
        speck: weight of the limit below which components go.
    """

    broad: bool = False
    flow: float = 3.0
    sensitivity: float = 1.0
    softness: float = 1.6
    speck: float = 1.0


STYLES = {
    "clean": LineStyle(),
    "thick": LineStyle(broad=True, sensitivity=0.9, softness=0.9, speck=2.0),
    "pencil": LineStyle(flow=0.0, sensitivity=1.3, softness=5.0, speck=0.25),
}


class LineExtractor(Protocol):
    """What finds lines in a picture; learned extractors follow it too."""

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Image (H, W, 3) float32 in [-1, 1] -> lines (H, W) float32 in [0, 1], 1 = line."""
        ...


def extract_lines(image: np.ndarray, sensitivity: float = 1.0) -> np.ndarray:
    """Draw the lines of a picture in the style "clean".

    Args:
        image: (H, W, 3) float32 in [-1, 1].
        sensitivity: above 1 finds fainter lines, below 1 only stronger ones.

    Returns:
        (H, W) float32 in [0, 1], 1 = line.
    """
    return extract_styles(image, ("clean",), sensitivity)["clean"]


def extract_styles(
    image: np.ndarray, names: Sequence[str], sensitivity: float = 1.0
) -> dict[str, np.ndarray]:
    """Draw the lines of a picture in several styles.

    Args:
        image: (H, W, 3) float32 in [-1, 1].
        names: of `STYLES`.
        sensitivity: times that of each style.

    Returns:
        Name of the style -> (H, W) float32 in [0, 1], 1 = line.
    """
    height, width = image.shape[:2]
    shrink = (_MAX_PIXELS / (height * width)) ** 0.5
    if shrink < 1:
        small = _resize(image, max(1, int(height * shrink)), max(1, int(width * shrink)))
        drawn = extract_styles(small, names, sensitivity)
        return {name: np.clip(_resize(lines, height, width), 0, 1) for name, lines in drawn.items()}
    tone, scale = _log_tone(image), (height * width) ** 0.5 / 1024
    sigma = max(_MIN_SIGMA, _LINE_SIGMA * scale)
    # Lengths other than the line's own follow it, small pictures included.
    unit = sigma / _LINE_SIGMA
    # Where lines are a pixel wide, half the size would lose them.
    ratio = 2 if height * width >= _HALVED_PIXELS else 1
    half = _halved(tone) if ratio == 2 else tone

    def enlarged(plane: np.ndarray) -> np.ndarray:
        return _doubled(plane, height, width) if ratio == 2 else plane

    flow = _tangents(half, unit / ratio)
    broad = _difference(half, _COARSE * sigma / ratio)
    fine, drawn = None, {}
    for name in names:
        style = STYLES[name]
        if style.broad:
            response = _difference(half, _COARSE**2 * sigma / ratio)
            response = np.maximum(broad, np.float32(_COARSE_WEIGHT) * response)
            response = _smooth_along(response, *flow, 1, style.flow * unit / ratio)
            response = enlarged(response)
        else:
            if fine is None:
                colors = _difference(half, sigma / ratio, slice(1, 4))
                colors = np.maximum(colors, np.float32(_COARSE_WEIGHT) * broad)
                fine = _difference(tone, sigma, slice(0, 1))
                fine = np.maximum(fine, enlarged(colors))
            response = _smooth_along(fine, *flow, ratio, style.flow * unit)
        drawn[name] = _thresholded(response, style, sensitivity, unit)
    return drawn


def _thresholded(
    response: np.ndarray, style: LineStyle, sensitivity: float, unit: float
) -> np.ndarray:
    """A response -> lines, by the noise of all of it and the texture around each pixel."""
    values = response[::_NOISE_STRIDE, ::_NOISE_STRIDE]
    deviation = 1.4826 * np.median(np.abs(values - np.median(values)))
    threshold = np.float32(_TEXTURE_WEIGHT) * _texture(response, _TEXTURE_SIGMA * unit)
    threshold += np.float32(max(_MIN_THRESHOLD, _NOISE_WEIGHT * deviation))
    ratio = response * np.float32(sensitivity * style.sensitivity) / threshold
    lines = np.clip((ratio - np.float32(_WEAK)) / np.float32(style.softness * (1 - _WEAK)), 0, 1)
    return lines * _kept(ratio, style.speck * _SPECK * unit**2)


def _log_tone(image: np.ndarray) -> np.ndarray:
    """Luma, red, green, blue (4, H, W) on a logarithmic scale in [0, 1]."""
    tone = np.empty((4, *image.shape[:2]), np.float32)
    for channel, weight in enumerate(_LUMA):
        tone[channel + 1] = np.clip(image[..., channel], -1, 1)
        tone[channel + 1] *= np.float32(0.5)
        tone[channel + 1] += np.float32(0.5)
        part = np.float32(weight) * tone[channel + 1]
        tone[0] = part if channel == 0 else tone[0] + part
    tone /= np.float32(_DARK_OFFSET)
    np.log1p(tone, out=tone)
    tone /= np.float32(np.log1p(1 / _DARK_OFFSET))
    return tone


def _difference(tone: np.ndarray, sigma: float, channels: slice = slice(None)) -> np.ndarray:
    """How much darker than its surround each pixel is, in the channel that says most (H, W)."""
    most = None
    for plane, weight in zip(tone[channels], _CHANNEL_WEIGHTS[channels], strict=True):
        difference = _blur(plane, _SURROUND * sigma)
        difference -= _blur(plane, sigma)
        difference *= np.float32(weight)
        most = difference if most is None else np.maximum(most, difference, out=most)
    return most


def _tangents(tone: np.ndarray, unit: float) -> tuple[np.ndarray, np.ndarray]:
    """Steps (x, y) along the edges, from the smoothed structure tensor of the colours."""
    xx = xy = yy = 0
    for plane in tone[1:]:
        smooth = np.pad(_blur(plane, 0.6 * unit), 1, mode="edge")
        across = smooth[:, 2:] - smooth[:, :-2]
        dx = across[:-2] + 2 * across[1:-1] + across[2:]
        across = smooth[2:] - smooth[:-2]
        dy = across[:, :-2] + 2 * across[:, 1:-1] + across[:, 2:]
        xx, xy, yy = xx + dx * dx, xy + dx * dy, yy + dy * dy
    xx, xy, yy = (_blur(part, 1.8 * unit) for part in (xx, xy, yy))
    normal = 0.5 * np.arctan2(2 * xy, xx - yy)
    return -_STEP * np.sin(normal), _STEP * np.cos(normal)


def _smooth_along(
    values: np.ndarray, tangent_x: np.ndarray, tangent_y: np.ndarray, ratio: int, sigma: float
) -> np.ndarray:
    """Gaussian mean of `values` along the flow lines (line integral convolution).

    Only where a line may pass: far from all values that could reach a threshold nothing changes.

    Args:
        values: (H, W).
        tangent_x, tangent_y: the flow, at 1/`ratio` of their size.
        ratio: 1 or 2.
        sigma: px; 0 changes nothing.
    """
    steps = round(2 * sigma / _STEP)
    if not steps:
        return values
    height, width = values.shape
    start = np.nonzero(_near_lines(values))
    flat, flow_width = values.ravel(), tangent_x.shape[1]
    flow_x, flow_y = tangent_x.ravel(), tangent_y.ravel()
    here = (start[0] // ratio) * flow_width + start[1] // ratio
    total, total_weight = values[start], 1.0
    for sign in (np.float32(1), np.float32(-1)):
        y, x = (places.astype(np.float32) for places in start)
        step_x, step_y = sign * flow_x[here], sign * flow_y[here]
        for step in range(1, steps + 1):
            x = np.clip(x + step_x, 0, width - 1)
            y = np.clip(y + step_y, 0, height - 1)
            weight = np.float32(np.exp(-0.5 * (step * _STEP / sigma) ** 2))
            total += weight * _between(flat, height, width, y, x)
            total_weight += weight
            if step == steps:
                break
            place = (y + np.float32(0.5)).astype(np.int64) // ratio * flow_width
            place += (x + np.float32(0.5)).astype(np.int64) // ratio
            next_x, next_y = flow_x[place], flow_y[place]
            # A tangent has no direction: go on, never back.
            turn = np.copysign(np.float32(1), next_x * step_x + next_y * step_y)
            step_x, step_y = turn * next_x, turn * next_y
    smoothed = values.copy()
    smoothed[start] = total / np.float32(total_weight)
    return smoothed


def _between(flat: np.ndarray, height: int, width: int, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Values (H * W,) at places between pixels, bilinear."""
    top, left = y.astype(np.int64), x.astype(np.int64)
    down, right = y - top.astype(np.float32), x - left.astype(np.float32)
    first = top * width + left
    below = np.where(top < height - 1, width, 0)
    beside = (left < width - 1).astype(np.int64)
    upper, lower = flat[first], flat[first + below]
    upper += right * (flat[first + beside] - upper)
    lower += right * (flat[first + below + beside] - lower)
    return upper + down * (lower - upper)


def _near_lines(values: np.ndarray) -> np.ndarray:
    """Where a value that continues a line is in this block of pixels or in a neighbour (H, W)."""
    height, width = values.shape
    rows, columns = -(-height // _NEAR), -(-width // _NEAR)
    padded = np.zeros((rows * _NEAR, columns * _NEAR), bool)
    padded[:height, :width] = values > _WEAK * _MIN_THRESHOLD
    blocks = padded.reshape(rows, _NEAR, columns, _NEAR).any(axis=(1, 3))
    blocks = ndimage.binary_dilation(blocks, np.ones((3, 3)))
    return blocks.repeat(_NEAR, axis=0).repeat(_NEAR, axis=1)[:height, :width]


def _texture(response: np.ndarray, sigma: float) -> np.ndarray:
    """Root of the local mean square of what is darker than its surround (H, W)."""
    squares = np.maximum(response, 0)
    squares *= squares
    sizes = []
    while sigma > 3 and min(squares.shape) > 1:
        sizes.append(squares.shape)
        squares, sigma = _halved(squares), sigma / 2
    squares = _blur(squares, sigma)
    for size in reversed(sizes):
        squares = _doubled(squares, *size)
    return np.sqrt(squares)


def _kept(ratio: np.ndarray, speck: float) -> np.ndarray:
    """Where the lines are that reach their threshold somewhere and are no specks (H, W) bool."""
    is_weak = ratio > _WEAK
    labels, count = ndimage.label(is_weak, np.ones((3, 3)))
    peaks = np.zeros(count + 1, np.float32)
    np.maximum.at(peaks, labels[is_weak], ratio[is_weak])
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    kept = (peaks > 1) & (areas * np.minimum(peaks, _MAX_PEAK) ** 2 >= speck)
    kept[0] = False
    return kept[labels]


def _blur(plane: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian mean of (H, W) float32, borders repeated.

    By whole rows and columns: on small radii that is several times faster than a loop over pixels,
    and the same everywhere to the last bit.
    """
    radius = int(3 * sigma + 0.5)
    if not radius:
        return plane.copy()
    weights = np.exp(-0.5 * (np.arange(radius + 1) / sigma) ** 2)
    weights = (weights / (2 * weights.sum() - weights[0])).astype(np.float32)
    for axis in (0, 1):
        padding = [(radius, radius) if axis == a else (0, 0) for a in (0, 1)]
        padded, length = np.pad(plane, padding, mode="edge"), plane.shape[axis]

        def shifted(by: int, padded=padded, length=length, axis=axis) -> np.ndarray:
            part = slice(radius + by, radius + by + length)
            return padded[part] if axis == 0 else padded[:, part]

        plane, pair = weights[0] * shifted(0), np.empty_like(plane)
        for distance in range(1, radius + 1):
            np.add(shifted(-distance), shifted(distance), out=pair)
            pair *= weights[distance]
            plane += pair
    return plane


def _halved(planes: np.ndarray) -> np.ndarray:
    """(..., H, W) -> (..., ceil(H / 2), ceil(W / 2)), means of two by two."""
    for axis in (-2, -1):
        size = planes.shape[axis]
        first = _part(planes, axis, slice(0, None, 2))
        second = _part(planes, axis, slice(1, None, 2))
        if size % 2:
            second = np.concatenate([second, _part(planes, axis, slice(size - 1, size))], axis)
        planes = (first + second) * np.float32(0.5)
    return planes


def _doubled(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    """The other way: (ceil(H / 2), ceil(W / 2)) -> (H, W), bilinear."""
    for axis, size in ((0, height), (1, width)):
        padding = [(1, 1) if axis == a else (0, 0) for a in (0, 1)]
        padded = np.pad(plane, padding, mode="edge")
        middle = np.float32(0.75) * plane
        doubled = np.empty((*plane.shape[:axis], 2 * plane.shape[axis], *plane.shape[axis + 1 :]),
                           np.float32)  # fmt: skip
        for offset, neighbours in ((0, slice(0, -2)), (1, slice(2, None))):
            part = np.float32(0.25) * _part(padded, axis - 2, neighbours)
            part += middle
            _part(doubled, axis - 2, slice(offset, None, 2))[...] = part
        plane = _part(doubled, axis - 2, slice(0, size))
    return plane


def _part(planes: np.ndarray, axis: int, part: slice) -> np.ndarray:
    """A slice of the last axis but one (-2) or of the last (-1)."""
    return planes[..., part, :] if axis == -2 else planes[..., part]


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
