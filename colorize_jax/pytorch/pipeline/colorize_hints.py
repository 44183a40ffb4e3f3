"""Hints of colour: points and strokes that a picture should have where they lie."""

import re
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from .colorize_pictures import Sketch, check_aspect, open_picture

RADIUS = 0.02  # of a point, share of the shorter side
_NUMBER = r"\s*(\d+(?:\.\d*)?|\.\d+)\s*"
_POINT = re.compile(rf"{_NUMBER},{_NUMBER},\s*(#[0-9a-fA-F]{{6}})\s*(?:,{_NUMBER})?")


def check_hints(given, sketch_encoder) -> None:
    """Raise ValueError where there are hints for a model that takes none."""
    if given is not None and not sketch_encoder.config.color_hints:
        raise ValueError(
            "got color_hints, expected a folder of a model that was trained with them; hints that "
            "need no training are not here"
        )


def read_hints(source, picture: Image.Image, sketch: Sketch) -> Tensor:
    """Hints as the sketch encoder takes them: (4, H, W), colours times the mask, and the mask.

    Args:
        source: a picture that is transparent but for the hints, of the sketch's aspect; or points
            "x,y,#rrggbb" or "x,y,#rrggbb,radius", shares of the sketch's width, height and shorter
            side.
        picture: the sketch as it was read.
        sketch: the same on its canvas.

    Raises:
        ValueError: a point is none, or the picture has no transparency or another aspect.
    """
    size = sketch.box.width, sketch.box.height
    if isinstance(source, list | tuple):
        drawn = _draw(source, *size)
    else:
        drawn = open_picture(source)
        if drawn.mode != "RGBA":
            raise ValueError("got color_hints without transparency, expected it around the hints")
        check_aspect(drawn, picture, "color_hints", "sketch")
    # Colours of transparent pixels do not bleed into the hints.
    resized = drawn.convert("RGBa").resize(size, Image.Resampling.BOX).convert("RGBA")
    values = torch.from_numpy(np.array(resized)).float().permute(2, 0, 1)
    mask = values[3:] / 255
    hints = torch.zeros(4, *sketch.tensor.shape[1:])
    sketch.box.crop(hints)[:] = torch.cat([(values[:3] / 127.5 - 1) * mask, mask])
    return hints


def _draw(points: Sequence[str], width: int, height: int) -> Image.Image:
    sheet = Image.new("RGBA", (width, height))
    draw = ImageDraw.Draw(sheet)
    for point in points:
        match = _POINT.fullmatch(point)
        x, y, radius = (float(match[i] or RADIUS) for i in (1, 2, 4)) if match else (-1, 0, 0)
        if not (0 <= x <= 1 and 0 <= y <= 1 and 0 < radius <= 1):
            raise ValueError(
                f"got hint {point!r}, expected x,y,#rrggbb or x,y,#rrggbb,radius with shares of 0 "
                "to 1"
            )
        x, y, r = x * width, y * height, max(0.5, radius * min(height, width))
        draw.ellipse((x - r, y - r, x + r, y + r), fill=match[3])
    return sheet
