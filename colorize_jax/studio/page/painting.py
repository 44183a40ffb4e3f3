"""What a person painted over a picture: lines, foreground and background."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageColor

from colorize_jax.inference.pictures.arrays import Picture, read_picture

FOREGROUND, BACKGROUND, LINE = "#00c853", "#d50000", "#000000"
PAINTS = (FOREGROUND, BACKGROUND, LINE)
REGIONS = ("#2962ff", "#ff6d00", "#aa00ff", "#00b8d4")  # of references, first to fourth
OPAQUE = 127  # from it on a pixel is painted


def read_editor(value: Mapping[str, Any] | None, name: str) -> Picture | None:
    """The picture in an editor, with the lines that were drawn into it; None: there is none.

    Args:
        value: of Gradio's ImageEditor: "background", "layers" and "composite", PIL pictures.
        name: what error messages call the picture.

    Raises:
        UserError: it cannot be used.
    """
    painted = _painted(value, PAINTS)
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
    painted = _painted(value, PAINTS)
    if painted is None or not (painted < 2).any():
        return None
    mask = Image.fromarray((estimate() * 255).astype(np.uint8))
    mask = np.array(mask.resize(painted.shape[::-1], Image.Resampling.NEAREST))
    mask[painted == 0], mask[painted == 1] = 255, 0
    return read_picture(Image.fromarray(mask), name, mask=True)


def painted_regions(value: Mapping[str, Any] | None, count: int) -> list[Picture | None]:
    """Where each of some references counts, by the colours of `REGIONS`.

    Args:
        value: of the editor.
        count: of references; paint of others is none.

    Returns:
        A mask for each; a reference of which nothing is painted takes what the others leave. Of
        fewer than two references, or where nothing is painted, None for each.
    """
    painted = _painted(value, REGIONS)
    if painted is None or count < 2 or not (painted < count).any():
        return [None] * count
    found = []
    for k in range(count):
        own = painted == k
        mask = (own if own.any() else painted >= count).astype(np.uint8) * 255
        found.append(
            read_picture(Image.fromarray(mask), f"the region of reference {k + 1}", mask=True)
        )
    return found


def painted_hints(value: Mapping[str, Any] | None) -> Picture | None:
    """The strokes of an editor as colour hints, transparent elsewhere; None: there are none."""
    layers = _layers(value)
    if not layers:
        return None
    hints = Image.new("RGBA", layers[0].size)
    for layer in layers:
        hints.alpha_composite(layer.convert("RGBA"))
    return read_picture(hints, "the colour hints") if hints.getbbox() else None


def _layers(value: Mapping[str, Any] | None) -> list[Image.Image]:
    return [] if value is None else [layer for layer in value["layers"] if layer is not None]


def _painted(value: Mapping[str, Any] | None, paints: Sequence[str]) -> np.ndarray | None:
    """(H, W) number of the paint at each pixel, their count where none is."""
    layers = _layers(value)
    if not layers:
        return None
    colors = np.array([ImageColor.getrgb(paint) for paint in paints], np.int32)
    result = np.full(layers[0].size[::-1], len(paints))
    for layer in layers:
        rgba = np.asarray(layer.convert("RGBA"), np.int32)
        distance = np.abs(rgba[..., None, :3] - colors).sum(-1)
        result = np.where(rgba[..., 3] > OPAQUE, distance.argmin(-1), result)
    return result
