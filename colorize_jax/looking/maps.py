"""Maps of numbers over pictures, as pictures."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

# From none to most: dark violet, red, yellow, white; even in lightness.
_COLORS = np.array([(20, 10, 50), (120, 30, 110), (215, 70, 60), (250, 180, 60), (255, 250, 220)])
_SHOWN_SIDE = 256  # px
_MARK = 5  # px, radius of a marked point


def heat(values: np.ndarray, behind: Image.Image | None = None, most: float | None = None):
    """Draw a map.

    Args:
        values: (h, w), none below 0.
        behind: a picture whose light shows through; the map alone without one.
        most: the value that is brightest; by default the largest.

    Returns:
        An RGB picture of the size of what is behind.
    """
    top = float(values.max()) if most is None else most
    shares = np.clip(values / top, 0, 1) if top > 0 else np.zeros_like(values)
    at = shares * (len(_COLORS) - 1)
    low = np.minimum(at.astype(int), len(_COLORS) - 2)
    part = (at - low)[..., None]
    colors = _COLORS[low] * (1 - part) + _COLORS[low + 1] * part
    picture = Image.fromarray(np.rint(colors).astype(np.uint8))
    if behind is None:
        return picture.resize(_shown(picture.size), Image.Resampling.NEAREST)
    picture = picture.resize(behind.size, Image.Resampling.BICUBIC)
    return Image.blend(behind.convert("L").convert("RGB"), picture, 0.7)


def shown(picture: Image.Image) -> Image.Image:
    """A picture at the size of a page's cells."""
    size = _shown(picture.size)
    grows = size[0] >= picture.width
    method = Image.Resampling.NEAREST if grows else Image.Resampling.LANCZOS
    return picture.convert("RGB").resize(size, method)


def mark(picture: Image.Image, point: Sequence[float]) -> Image.Image:
    """A picture with a ring around a point (y, x), as shares of its sides."""
    marked = picture.convert("RGB")
    y, x = point[0] * marked.height, point[1] * marked.width
    draw = ImageDraw.Draw(marked)
    for radius, color in ((_MARK + 1, "white"), (_MARK, (200, 30, 30))):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=color, width=2)
    return marked


def _shown(size: tuple[int, int]) -> tuple[int, int]:
    scale = _SHOWN_SIDE / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
