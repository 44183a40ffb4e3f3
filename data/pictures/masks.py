"""Foreground masks: what a mask's file says, and estimates where there is none."""

import numpy as np
from PIL import Image
from scipy import ndimage

from data.pictures.reading import Picture, on_paper

# Estimates are made at this size, px along the longer side: masks meet latents of an eighth of it.
WORKING_SIZE = 384
_SKETCH_WORKING_SIZE = 512
_COLOR_TOLERANCE = 0.12  # of the range, in the channel that differs most
_GROWTH_TOLERANCE = 0.03  # likewise, from the mean of the background nearby
_GROWTH_REACH = 5  # px
_GROWTH_STEPS = 40
_PALETTE_BINS = 12
_MAX_PALETTE = 12
_MIN_SHARE = 0.04  # of the border: fewer pixels make no background colour
_SIDE_SHARE = 0.6  # of the left and right borders, from the top: figures stand on the bottom
_BAND = 0.02  # of the shorter side: width of the border that is looked at
_LINE_THRESHOLD = 0.2  # line darkness that stops the flood
_OPENING = 3  # px: thinner foreground goes
_MIN_ISLAND = 0.15  # of the largest foreground part: smaller ones go


def read_mask(colors: Image.Image, alpha: Image.Image | None) -> Image.Image:
    """Read a mask from a picture, whose white is foreground.

    Masks of 0 and 1 are masks of 0 and 255. A silhouette on transparency is a mask too: where the
    visible colours are all alike, the transparency is taken.

    Args:
        colors: greys, mode L.
        alpha: transparency, mode L, or None.

    Returns:
        Mode L, 255 = foreground.
    """
    if alpha is not None:
        visible = np.asarray(colors)[np.asarray(alpha) > 127]
        if not visible.size or np.ptp(visible.astype(np.int16)) < 8:
            return alpha
    grey = on_paper(colors, alpha, 0)
    return grey.point(lambda level: 255 * level) if grey.getextrema()[1] == 1 else grey


def has_solid_alpha(picture: Picture) -> bool:
    """Whether transparency cuts a figure out, and not just lines on a transparent layer."""
    if picture.alpha is None:
        return False
    small = _small(picture.alpha, _SKETCH_WORKING_SIZE)
    opaque = small > 127
    if not opaque.any():
        return False
    return bool(opaque.sum() > 0.5 * ndimage.binary_fill_holes(opaque).sum())


def estimate_foreground(image: Image.Image) -> np.ndarray:
    """Estimate the foreground of a coloured picture.

    The colours that fill the border (its bottom aside) are the background's; what is connected to
    the border through them is background, grown into gradients; enclosed holes and what is left
    of islands belong to what surrounds them.

    Args:
        image: an RGB picture.

    Returns:
        (H, W) float32, 0 or 1.
    """
    small = _small(np.asarray(image), WORKING_SIZE)
    colors = ndimage.median_filter(small, size=(3, 3, 1)).astype(np.float32) / 255
    palette = _border_palette(colors)
    distance = np.min([_apart(colors, color) for color in palette], axis=0)
    background = _flood(distance < _COLOR_TOLERANCE)
    return _finish(_grow(background, colors), image.height, image.width)


def estimate_sketch_foreground(lines: np.ndarray) -> np.ndarray:
    """Estimate the foreground of a sketch: what lines keep apart from the border.

    Args:
        lines: (H, W) float32 in [0, 1], 1 = line.

    Returns:
        (H, W) float32, 0 or 1.
    """
    height, width = lines.shape
    levels = np.rint(np.clip(lines, 0, 1) * 255).astype(np.uint8)
    is_line = _small(levels, _SKETCH_WORKING_SIZE) > _LINE_THRESHOLD * 255
    # Gaps of up to two pixels are closed while the flood runs.
    gap = _disk(1)
    background = _flood(~ndimage.binary_dilation(is_line, gap))
    background = ndimage.binary_dilation(background, gap) & ~is_line
    return _finish(background, height, width)


def _small(image: np.ndarray, side: int) -> np.ndarray:
    """Shrink uint8 (H, W) or (H, W, 3) until its longer side is at most `side` px."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def _apart(colors: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How far colours (..., 3) are from others, in the channel that differs most."""
    apart = np.abs(colors - others)
    return np.maximum(np.maximum(apart[..., 0], apart[..., 1]), apart[..., 2])


def _disk(radius: int) -> np.ndarray:
    rows, columns = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return rows**2 + columns**2 <= radius**2 + 0.5


def _border_palette(colors: np.ndarray) -> list[np.ndarray]:
    """Colours (3,) that fill the top and the upper sides of a picture, most frequent first."""
    height, width = colors.shape[:2]
    band = max(1, round(_BAND * min(height, width)))
    upper = max(1, round(_SIDE_SHARE * height))
    border = np.concatenate(
        [
            part.reshape(-1, 3)
            for part in (colors[:band], colors[:upper, :band], colors[:upper, -band:])
        ]
    )
    palette, rest = [], border
    while len(rest) > _MIN_SHARE * len(border) and len(palette) < _MAX_PALETTE:
        bins = np.minimum((rest * _PALETTE_BINS).astype(int), _PALETTE_BINS - 1)
        keys = bins @ np.array([_PALETTE_BINS**2, _PALETTE_BINS, 1])
        color = rest[keys == np.bincount(keys).argmax()].mean(axis=0)
        is_near = _apart(rest, color) < _COLOR_TOLERANCE
        if is_near.sum() < _MIN_SHARE * len(border):
            break
        palette.append(color)
        rest = rest[~is_near]
    return palette or [border.mean(axis=0)]


def _flood(free: np.ndarray) -> np.ndarray:
    """What is connected to the border through free pixels (H, W) bool.

    Of the bottom border only the stretches at its corners count: figures are cut off there, and
    what lies between their outlines is not background.
    """
    seeds = np.zeros(free.shape, bool)
    seeds[0] = seeds[:, 0] = seeds[:, -1] = True
    for row, seed_row in ((free[-1], seeds[-1]), (free[-1, ::-1], seeds[-1, ::-1])):
        seed_row[: len(row) if row.all() else int(row.argmin())] = True
    return ndimage.binary_propagation(seeds & free, mask=free)


def _grow(background: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Extend background into neighbours that hardly differ from it: gradients."""
    window = 2 * _GROWTH_REACH + 1
    for _ in range(_GROWTH_STEPS):
        weight = ndimage.uniform_filter(background.astype(np.float32), window, mode="constant")
        total = ndimage.uniform_filter(
            colors * background[..., None], (window, window, 1), mode="constant"
        )
        mean = total / np.maximum(weight, 1e-6)[..., None]
        is_alike = (_apart(colors, mean) < _GROWTH_TOLERANCE) & (weight > 1e-3)
        grown = ndimage.binary_propagation(background, mask=background | is_alike)
        if np.array_equal(grown, background):
            break
        background = grown
    return background


def _finish(background: np.ndarray, height: int, width: int) -> np.ndarray:
    """Close holes, drop thin parts and islands, and return the foreground at full size."""
    foreground = ndimage.binary_fill_holes(~background)
    padded = np.pad(foreground, _OPENING, mode="edge")
    opened = ndimage.binary_opening(padded, _disk(_OPENING))
    opened = opened[_OPENING:-_OPENING, _OPENING:-_OPENING]
    # Small pictures may be thin all over.
    foreground = opened if opened.any() else foreground
    labels, count = ndimage.label(foreground)
    if count > 1:
        areas = np.bincount(labels.ravel())
        areas[0] = 0
        foreground = (areas >= _MIN_ISLAND * areas.max())[labels]
    mask = Image.fromarray(foreground.astype(np.uint8) * 255)
    resized = np.asarray(mask.resize((width, height), Image.Resampling.BILINEAR))
    return (resized > 127).astype(np.float32)
