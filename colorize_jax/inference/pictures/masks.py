"""Foreground masks of pictures to colour: from a file or from transparency.

A mask is (H, W) float32 in [0, 1], 1 = foreground, at the size of the picture that it belongs to.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from PIL import Image
from scipy import ndimage

from colorize_jax.errors import UserError
from colorize_jax.inference.pictures.arrays import Picture
from data.pictures.masks import read_mask

_ASPECT_TOLERANCE = 0.02
_PUBLISHED_SIZE = 1024  # px, at which the published lengths are meant


class ForegroundExtractor(Protocol):
    """What finds the foreground of a picture; learned extractors follow it."""

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Image (H, W, 3) float32 in [-1, 1] -> mask (H, W) float32 in [0, 1]."""
        ...


def mask_from_picture(mask: Picture) -> np.ndarray:
    """Read a mask from a picture, see `data.pictures.masks.read_mask`."""
    alpha = None if mask.alpha is None else Image.fromarray(mask.alpha)
    grey = read_mask(Image.fromarray(mask.rgb).convert("L"), alpha)
    return np.asarray(grey).astype(np.float32) / 255


def given_mask(mask: Picture, picture: Picture) -> np.ndarray:
    """Read the mask (h, w) that was given for a picture; UserError for another aspect."""
    found = mask_from_picture(mask)
    check_mask_aspect(found, picture, mask.name)
    return found


def mask_from_alpha(picture: Picture) -> np.ndarray:
    """Take a picture's transparency for its mask; UserError where it has none."""
    if picture.alpha is None:
        raise UserError(
            f"got {picture.name} without transparency, expected some to take its mask from; give a "
            "mask or let it be estimated"
        )
    return picture.alpha.astype(np.float32) / 255


def check_mask_aspect(mask: np.ndarray, picture: Picture, name: str) -> None:
    """Raise UserError unless a mask (h, w) has a picture's aspect."""
    ratio = (mask.shape[0] * picture.width) / (mask.shape[1] * picture.height)
    # Rounding to whole pixels is no mistake, however small the pictures.
    slack = _ASPECT_TOLERANCE + 1 / min(*mask.shape, picture.height, picture.width)
    if abs(np.log(ratio)) > slack:
        raise UserError(
            f"got {name} of {mask.shape[1]}x{mask.shape[0]} px for {picture.name} of "
            f"{picture.width}x{picture.height} px, expected the same aspect; crop one of them"
        )


def resize_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a mask (h, w) to (height, width), antialiased, in [0, 1]."""
    if mask.shape == (height, width):
        return mask.astype(np.float32)
    plane = Image.fromarray(np.ascontiguousarray(mask, np.float32))
    resized = np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR))
    return np.clip(resized, 0, 1)


def dilation_reach(shape: Sequence[int], width: int) -> int:
    """How far, in px, a square of `width` px at 1024 px widens a mask of shape (h, w)."""
    return round(width // 2 * math.sqrt(shape[0] * shape[1]) / _PUBLISHED_SIZE)


def dilate_mask(mask: np.ndarray, width: int) -> np.ndarray:
    """Widen a mask (h, w): the greatest value in a square.

    Args:
        mask: in [0, 1].
        width: of the square, px at 1024 px, sqrt(h w).
    """
    reach = dilation_reach(mask.shape, width)
    return ndimage.maximum_filter(mask, size=2 * reach + 1, mode="constant")
