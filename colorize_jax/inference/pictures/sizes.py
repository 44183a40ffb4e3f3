"""Sizes of outputs, and where a sketch lies inside one."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from colorize_jax.errors import UserError


class Box(NamedTuple):
    """A rectangle of pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of its rows and columns in an array (H, W, ...)."""
        return (
            slice(self.top, self.top + self.height),
            slice(self.left, self.left + self.width),
        )

    def crop(self, image: np.ndarray) -> np.ndarray:
        """Return the part of an image (H, W, ...) that is inside."""
        return image[self.slices]


@dataclass(frozen=True)
class SizeLimits:
    """The sizes that a model can draw, px; the published model's by default.

    Attributes:
        default: side of the square it draws where nothing is asked for; `autofit_size` keeps its
            area.
        minimum: the least height or width.
        multiple: heights and widths are multiples of it.
        autofit_multiple: and those that `autofit_size` chooses, of this.
    """

    default: int = 1024
    minimum: int = 256
    multiple: int = 8
    autofit_multiple: int = 32


PUBLISHED_LIMITS = SizeLimits()

# Sizes that the published tool offers, px: start, stop (included), step.
PUBLISHED_RANGE = (768, 1536, 32)


def check_size(height: int, width: int, limits: SizeLimits = PUBLISHED_LIMITS) -> None:
    """Raise UserError unless a model draws pictures of `height` x `width` px."""
    for name, side in (("height", height), ("width", width)):
        if side < limits.minimum or side % limits.multiple:
            nearest = max(limits.minimum, _round_to(side, limits.multiple))
            raise UserError(
                f"got {name} {side} px, expected a multiple of {limits.multiple} from "
                f"{limits.minimum} up; nearest: {nearest}"
            )


def autofit_size(height: int, width: int, limits: SizeLimits = PUBLISHED_LIMITS) -> tuple[int, int]:
    """Choose a height and width of the model's usual area at a sketch's aspect.

    Both are rounded to `limits.autofit_multiple`; beyond the aspect at which the shorter side
    would fall under the minimum the sketch gets margins instead.

    Args:
        height, width: the sketch's, px.
        limits: the model's.
    """
    step = limits.autofit_multiple
    least = step * math.ceil(limits.minimum / step)
    steepest = (limits.default / least) ** 2
    aspect = min(max(height / width, 1 / steepest), steepest)
    root = math.sqrt(aspect)
    sides = limits.default * root, limits.default / root
    fitted = tuple(max(least, _round_to(side, step)) for side in sides)
    return fitted[0], fitted[1]


def fit_box(height: int, width: int, canvas_height: int, canvas_width: int) -> Box:
    """Return where a picture lies when it is fitted inside a canvas, centred, its aspect kept."""
    scale = min(canvas_height / height, canvas_width / width)
    fitted_height = min(canvas_height, max(1, round(height * scale)))
    fitted_width = min(canvas_width, max(1, round(width * scale)))
    top, left = (canvas_height - fitted_height) // 2, (canvas_width - fitted_width) // 2
    return Box(top, left, fitted_height, fitted_width)


def _round_to(value: float, multiple: int) -> int:
    """The nearest multiple; halves go up."""
    return multiple * math.floor(value / multiple + 0.5)
