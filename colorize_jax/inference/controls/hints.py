"""Colour hints: points and strokes of colour that a picture should have where they lie.

No training is needed: in every step the expected clean latents are led to the hints' colours inside
of them, by a linear map from latents to colours that is fitted to the autoencoder. The same change
of colour spreads to places that lie near and that the network expects in the same colour: to the
rest of a sleeve of which a dot was painted.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw

from colorize_jax.errors import UserError
from colorize_jax.inference.pictures.arrays import Picture, PictureSource, read_picture, to_array
from colorize_jax.inference.pictures.masks import check_mask_aspect
from colorize_jax.inference.pictures.preprocess import PreparedSketch
from colorize_jax.types import Array

_POINT = re.compile(r"\s*([\d.]+)\s*,\s*([\d.]+)\s*,\s*#([0-9a-fA-F]{6})\s*(?:,\s*([\d.]+)\s*)?")
RADIUS = 0.02  # of a point, share of the shorter side
LIKENESS = 0.2  # deviation of colours, in [-1, 1], that count as one
MAX_PLACES = 256
_GRID = 12  # colours a side of the picture that the map is fitted to
_CELLS = 6  # latents a side of one of them; the outermost see their neighbours


@flax.struct.dataclass
class ColorMap:
    """A linear map from latents to the colours that they decode to.

    Attributes:
        matrix: (C, 3), offset: (3,) colours in [-1, 1] of latents.
        inverse: (3, C) the least change of latents for a change of colour.
    """

    matrix: Array
    offset: Array
    inverse: Array

    def colors(self, latents: Array) -> Array:
        """(..., C) -> (..., 3)."""
        return latents @ self.matrix + self.offset

    def pixels(self, latents: Array) -> np.ndarray:
        """What latents (..., C) roughly decode to, (..., 3) uint8: a preview in no time."""
        return np.asarray(jnp.round(jnp.clip(self.colors(latents) + 1, 0, 2) * 127.5), np.uint8)


@flax.struct.dataclass
class Hints:
    """The hints of B pictures at the latents' resolution.

    Attributes:
        colors: (B, h, w, 3) in [-1, 1].
        mask: (B, h, w, 1) how far a place is hinted at, 0..1.
        places: (B, P) row-major numbers of hinted places that spread, at most `MAX_PLACES`, padded
            with some that are not hinted at.
        map: of the autoencoder.
    """

    colors: Array
    mask: Array
    places: Array
    map: ColorMap

    def lead(self, clean: Array, strength: Array, reach: Array) -> Array:
        """Lead expected clean latents to the hints' colours.

        Args:
            clean: (B, h, w, C).
            strength: (B,) how far, 0..1.
            reach: () how far hints spread, as a share of the shorter side; 0: not at all.
        """
        expected = self.map.colors(clean)
        change = self.colors - expected
        spread, share = self._spread(expected, change, reach)
        led = self.mask * change + (1 - self.mask) * share * spread
        return clean + strength[:, None, None, None] * (led @ self.map.inverse)

    def _spread(self, expected: Array, change: Array, reach: Array) -> tuple[Array, Array]:
        """The change that reaches every place (B, h, w, 3), and how far it counts there."""
        batch, height, width, _ = expected.shape
        flat = expected.reshape(batch, height * width, 3)

        def pick(x: Array) -> Array:
            flat = x.reshape(batch, height * width, -1)
            return jnp.take_along_axis(flat, self.places[..., None], axis=1)

        # Likeness to each hinted place: in the expected colour, and by distance.
        unlike = jnp.sum((flat[:, :, None] - pick(expected)[:, None]) ** 2, axis=-1)
        rows = jnp.stack(jnp.divmod(jnp.arange(height * width), width), axis=-1)
        there = jnp.stack(jnp.divmod(self.places, width), axis=-1)
        far = jnp.sum((rows[None, :, None] - there[:, None]) ** 2, axis=-1)
        deviation = jnp.maximum(reach * min(height, width), 1e-3)
        weights = jnp.exp(-unlike / (2 * LIKENESS**2) - far / (2 * deviation**2))
        weights = weights * pick(self.mask)[:, None, :, 0]
        total = weights.sum(axis=-1, keepdims=True)
        spread = weights @ pick(change) / jnp.maximum(total, 1e-6)
        shape = (batch, height, width, -1)
        return spread.reshape(shape), jnp.minimum(total, 1).reshape(shape)


def fit_color_map(encode: Callable[[np.ndarray], Any], cell: int) -> ColorMap:
    """Fit a map to an autoencoder, on a picture of flat patches of many colours.

    Args:
        encode: image (1, H, W, 3) in [-1, 1] -> scaled latents (1, h, w, C).
        cell: px of a latent.
    """
    levels = np.random.default_rng(0).uniform(-1, 1, (_GRID * _GRID, 3)).astype(np.float32)
    colors = levels.reshape(_GRID, _GRID, 3)
    image = colors.repeat(_CELLS * cell, axis=0).repeat(_CELLS * cell, axis=1)
    latents = np.asarray(encode(image[None]), np.float64)[0]
    blocks = latents.reshape(_GRID, _CELLS, _GRID, _CELLS, -1)[:, 2:-2, :, 2:-2]
    means = blocks.mean(axis=(1, 3)).reshape(_GRID * _GRID, -1)
    known = np.concatenate([means, np.ones((len(means), 1))], axis=1)
    solution, *_ = np.linalg.lstsq(known, levels.astype(np.float64), rcond=None)
    matrix, offset = solution[:-1], solution[-1]
    arrays = (matrix, offset, np.linalg.pinv(matrix))
    return ColorMap(*(jnp.asarray(array, jnp.float32) for array in arrays))


def read_hints(
    source: PictureSource | Picture | Sequence[str], sketch: PreparedSketch, drawn: Picture
) -> tuple[np.ndarray, np.ndarray]:
    """Hints as colours and mask at the size of a sketch's canvas.

    Args:
        source: a picture that is transparent but for the hints, of the sketch's aspect; or points
            "x,y,#rrggbb" or "x,y,#rrggbb,radius", shares of the sketch's width, height and shorter
            side.
        sketch: in its canvas.
        drawn: the sketch as it was read, for its aspect.

    Returns:
        (H, W, 3) in [-1, 1], and (H, W) in 0..1.

    Raises:
        UserError: a point is none, or the picture has no transparency or another aspect.
    """
    box, shape = sketch.box, sketch.tensor.shape[:2]
    if isinstance(source, list | tuple):
        rgba = _draw(source, box.height, box.width)
    else:
        picture = source if isinstance(source, Picture) else read_picture(source)
        if picture.alpha is None:
            raise UserError(
                f"got hints {picture.name} without transparency, expected a picture that is "
                "transparent but for the hints; erase what is none"
            )
        check_mask_aspect(picture.alpha, drawn, picture.name)
        rgba = Image.fromarray(np.dstack([picture.rgb, picture.alpha]))
    # Colours of transparent pixels do not bleed into the hints.
    premultiplied = rgba.convert("RGBa").resize((box.width, box.height), Image.Resampling.BOX)
    resized = premultiplied.convert("RGBA")
    colors = np.zeros((*shape, 3), np.float32)
    mask = np.zeros(shape, np.float32)
    colors[box.slices] = to_array(resized.convert("RGB"))
    mask[box.slices] = np.asarray(resized)[..., 3] / np.float32(255)
    return colors, mask


def make_hints(
    hints: Sequence[tuple[np.ndarray, np.ndarray] | None],
    shape: tuple[int, int],
    cell: int,
    color_map: ColorMap,
) -> Hints:
    """Bring the hints of a batch to the latents' resolution.

    Args:
        hints: of every picture colours and mask of `read_hints`, or None: it has none.
        shape: (H, W) of the canvas.
        cell: px of a latent.
        color_map: of the autoencoder.
    """
    size = len(hints), shape[0] // cell, shape[1] // cell
    colors = np.zeros((*size, 3), np.float32)
    masks = np.zeros((*size, 1), np.float32)
    for i, found in enumerate(hints):
        if found is None:
            continue
        color, mask = (
            part.reshape(size[1], cell, size[2], cell, -1)
            for part in (found[0] * found[1][..., None], found[1])
        )
        covered = mask.mean(axis=(1, 3))
        colors[i] = color.mean(axis=(1, 3)) / np.maximum(covered, 1e-6)
        masks[i] = np.minimum(1, 2 * covered)  # of a cell that a hint half covers it is the colour
    return Hints(colors, masks, _places(masks.reshape(len(hints), -1)), color_map)


def _places(masks: np.ndarray) -> np.ndarray:
    """(B, P) numbers of the places that are hinted at, evenly some of them where there are many."""
    found = []
    for mask in masks:
        hinted = np.flatnonzero(mask)
        few = np.linspace(0, len(hinted) - 1, min(len(hinted), MAX_PLACES)).round().astype(int)
        blank = int(mask.argmin())
        own = np.full(MAX_PLACES, blank, np.int32)
        own[: len(few)] = hinted[few]
        found.append(own)
    return np.stack(found)


def _draw(points: Sequence[str], height: int, width: int) -> Image.Image:
    sheet = Image.new("RGBA", (width, height))
    draw = ImageDraw.Draw(sheet)
    for point in points:
        x, y, color, radius = parse_point(point)
        x, y, r = x * width, y * height, max(0.5, radius * min(height, width))
        draw.ellipse((x - r, y - r, x + r, y + r), fill=f"#{color}")
    return sheet


def parse_point(text: str) -> tuple[float, float, str, float]:
    """x, y, colour and radius of a point; UserError where it is none."""
    match = _POINT.fullmatch(text)
    if match:
        try:
            x, y, radius = float(match[1]), float(match[2]), float(match[4] or RADIUS)
        except ValueError:
            radius = -1.0
        if radius > 0 and 0 <= x <= 1 and 0 <= y <= 1 and radius <= 1:
            return x, y, match[3], radius
    raise UserError(
        f"got hint {text!r}, expected x,y,#rrggbb or x,y,#rrggbb,radius with shares of 0 to 1, "
        "such as 0.5,0.3,#cc2244,0.05; correct it"
    )
