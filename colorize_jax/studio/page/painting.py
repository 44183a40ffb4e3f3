"""What a person painted over a picture: lines, foreground and background."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image

from colorize_jax.inference.pictures.arrays import Picture, read_picture

FOREGROUND, BACKGROUND, LINE = "#00c853", "#d50000", "#000000"
_COLORS = np.array([[0, 200, 83], [213, 0, 0], [0, 0, 0]], np.int32)
OPAQUE = 127  # from it on a pixel is painted


def read_editor(value: Mapping[str, Any] | None, name: str) -> Picture | None:
    """The picture in an editor, with the lines that were drawn into it; None: there is none.

    Args:
        value: of Gradio's ImageEditor: "background", "layers" and "composite", PIL pictures.
        name: what error messages call the picture.

    Raises:
        UserError: it cannot be used.
    """
    painted = _painted(value)
    own = None if value is None else value["background"]
    if own is None and (painted is None or not (painted == 2).any()):
        return None
    if own is None:
        own = Image.new("RGB", (painted.shape[1], painted.shape[0]), "white")
    if painted is not None and (painted == 2).any():
        lines = Image.fromarray((painted == 2).astype(np.uint8) * 255).resize(own.size)
        own = own.convert("RGBA" if "A" in own.mode else "RGB")
        own.paste(Image.new(own.mode, own.size, "black"), mask=lines)
    return read_picture(own, name)


def painted_mask(
    value: Mapping[str, Any] | None, estimate: Callable[[], np.ndarray], name: str
) -> Picture | None:
    """The estimate with what was painted over it; None where nothing was.

    Args:
        value: of the editor.
        estimate: (H, W) in [0, 1], of the picture itself.
        name: what error messages call the mask.
    """
    painted = _painted(value)
    if painted is None or not (painted < 2).any():
        return None
    mask = Image.fromarray((estimate() * 255).astype(np.uint8))
    mask = np.array(mask.resize(painted.shape[::-1], Image.Resampling.NEAREST))
    mask[painted == 0], mask[painted == 1] = 255, 0
    return read_picture(Image.fromarray(mask), name, mask=True)


def _painted(value: Mapping[str, Any] | None) -> np.ndarray | None:
    """(H, W) number of the colour that is painted at each pixel, 3 where none is."""
    layers = [] if value is None else [layer for layer in value["layers"] if layer is not None]
    if not layers:
        return None
    result = np.full(layers[0].size[::-1], 3)
    for layer in layers:
        rgba = np.asarray(layer.convert("RGBA"), np.int32)
        distance = np.abs(rgba[..., None, :3] - _COLORS).sum(-1)
        result = np.where(rgba[..., 3] > OPAQUE, distance.argmin(-1), result)
    return result
