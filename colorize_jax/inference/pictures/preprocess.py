"""Pictures -> what the networks take: sketches, references and masks, as numpy arrays.

Sketches and masks are fitted into the output's size and padded; references keep their own.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from colorize_jax.errors import UserError
from colorize_jax.inference.pictures.arrays import Picture, to_array
from colorize_jax.inference.pictures.masks import (
    ForegroundExtractor,
    given_mask,
    mask_from_alpha,
    resize_mask,
)
from colorize_jax.inference.pictures.sizes import Box, fit_box
from data.pictures.lines import LineExtractor, extract_lines
from data.pictures.masks import (
    estimate_foreground,
    estimate_sketch_foreground,
    has_solid_alpha,
)

PREPROCESSORS = ("invert", "none", "extract")
MASK_SOURCES = ("automatic", "alpha", "estimate")

# Paper is -1 in a sketch tensor whatever the preprocessor.
PAPER = -1.0


@dataclass(frozen=True)
class PreparedSketch:
    """A sketch as the sketch encoder takes it.

    Attributes:
        tensor: (H, W, 3) float32 in [-1, 1], line = +1, paper = -1; H and W are the asked size,
            rounded up to `multiple`.
        frame: the asked size inside `tensor`, at its top left.
        box: where the sketch itself lies inside `tensor`; crop an output by it to get the sketch's
            own aspect.
    """

    tensor: np.ndarray
    frame: Box
    box: Box

    @property
    def lines(self) -> np.ndarray:
        """(h, w) float32 in [0, 1] inside `box`, 1 = line: the strongest channel."""
        return self.box.crop(self.tensor).max(axis=-1) * 0.5 + 0.5

    def doubt(self) -> str | None:
        """Say in one line what looks wrong with the sketch, if anything does."""
        darkness = float(self.lines.mean())
        if darkness > 0.5:
            return (
                'the sketch is mostly line; for white lines on black use the preprocessor "none", '
                'for a coloured picture "extract"'
            )
        if float(self.lines.max()) < 0.1:
            return "the sketch is blank: nothing but paper was found in it"
        return None


def prepare_sketch(
    picture: Picture,
    height: int,
    width: int,
    preprocessor: str = "invert",
    extractor: LineExtractor = extract_lines,
    multiple: int = 1,
) -> PreparedSketch:
    """Fit a sketch into (height, width), keep its aspect, pad it with paper.

    Args:
        picture: the sketch; transparent parts are paper.
        height, width: size of the output, px.
        preprocessor: "invert": black lines on white, tensor = -image. "none": white lines on
            black, tensor = image. "extract": a picture, whose lines `extractor` draws.
        extractor: see `LineExtractor`; runs at the fitted size.
        multiple: round the tensor's sides up to it, with paper at the right and bottom.

    Raises:
        UserError: an unknown preprocessor, or an extractor's result that is no line map.
    """
    if preprocessor not in PREPROCESSORS:
        raise UserError(
            f'got preprocessor "{preprocessor}", expected one of {", ".join(PREPROCESSORS)}'
        )
    box = fit_box(picture.height, picture.width, height, width)
    sheet = picture.on(0 if preprocessor == "none" else 255)
    image = to_array(_resize(sheet, box.height, box.width))
    if preprocessor == "invert":
        image = -image
    elif preprocessor == "extract":
        lines = np.asarray(extractor(image), np.float32)
        if lines.shape != image.shape[:2]:
            raise UserError(
                f"got lines of shape {lines.shape} from the extractor, expected {image.shape[:2]}"
            )
        image = np.broadcast_to(np.clip(lines, 0, 1)[..., None] * 2 - 1, image.shape)
    sides = (-(-side // multiple) * multiple for side in (height, width))
    tensor = np.full((*sides, 3), PAPER, np.float32)
    tensor[box.slices] = image
    return PreparedSketch(tensor, Box(0, 0, height, width), box)


def prepare_reference(picture: Picture) -> np.ndarray:
    """Return a reference as (h, w, 3) float32 in [-1, 1] at its own size; transparency is white."""
    return to_array(picture.on(255))


def sketch_mask(
    picture: Picture,
    sketch: PreparedSketch,
    given: Picture | None = None,
    source: str = "automatic",
    extractor: ForegroundExtractor | None = None,
) -> np.ndarray:
    """Return the sketch's foreground, placed as the sketch is.

    Args:
        picture: the sketch as it was read.
        sketch: the same, prepared.
        given: a mask of the sketch's aspect; goes before every other source.
        source: "alpha": the sketch's transparency. "estimate": by `extractor`. "automatic": the
            transparency where it cuts a figure out, else the estimate.
        extractor: see `ForegroundExtractor`; by default what the lines keep apart from the border.

    Returns:
        (H, W) float32 in [0, 1] at the size of `sketch.tensor`; margins are background.

    Raises:
        UserError: the mask's aspect differs, or there is no transparency where it was asked for.
    """

    def estimate() -> np.ndarray:
        if extractor is None:
            return estimate_sketch_foreground(sketch.lines)
        return extractor(-sketch.box.crop(sketch.tensor))

    mask = _find_mask(picture, given, source, estimate)
    placed = np.zeros(sketch.tensor.shape[:2], np.float32)
    placed[sketch.box.slices] = resize_mask(mask, sketch.box.height, sketch.box.width)
    return placed


def reference_mask(
    picture: Picture,
    given: Picture | None = None,
    source: str = "automatic",
    extractor: ForegroundExtractor | None = None,
) -> np.ndarray:
    """Return the reference's foreground (h, w) float32 in [0, 1] at its own size.

    Arguments and errors are those of `sketch_mask`; the default extractor takes for background what
    is connected to the border through the border's colours.
    """

    def estimate() -> np.ndarray:
        if extractor is None:
            return estimate_foreground(picture.on(255))
        return extractor(prepare_reference(picture))

    mask = _find_mask(picture, given, source, estimate)
    return resize_mask(mask, picture.height, picture.width)


def paint_out(image: np.ndarray, mask: np.ndarray, threshold: float, what: str) -> np.ndarray:
    """Paint the foreground or the background of a picture white.

    Args:
        image: (h, w, 3) float32 in [-1, 1].
        mask: (h, w) float32 in [0, 1], 1 = foreground.
        threshold: from it on a pixel is foreground.
        what: "foreground" or "background".
    """
    is_foreground = mask >= threshold
    painted = is_foreground if what == "foreground" else ~is_foreground
    return np.where(painted[..., None], np.float32(1), image)


def to_pictures(images: np.ndarray) -> list[Image.Image]:
    """Convert a batch (B, H, W, 3) of floats in [-1, 1] to RGB pictures.

    Raises:
        UserError: they are not numbers.
    """
    values = np.asarray(images, np.float32) * 127.5 + 127.5
    if np.isnan(values).any():
        raise UserError(
            "got a picture of NaN, expected numbers: its sampler does not work at the noise levels "
            "of this model; choose another sampler, schedule or number of steps"
        )
    levels = np.rint(np.clip(values, 0, 255)).astype(np.uint8)
    return [Image.fromarray(level) for level in levels]


def _find_mask(
    picture: Picture, given: Picture | None, source: str, estimate: Callable[[], np.ndarray]
) -> np.ndarray:
    if source not in MASK_SOURCES:
        raise UserError(f'got mask source "{source}", expected one of {", ".join(MASK_SOURCES)}')
    if given is not None:
        return given_mask(given, picture)
    if source == "alpha" or (source == "automatic" and has_solid_alpha(picture)):
        return mask_from_alpha(picture)
    return np.asarray(estimate(), np.float32)


def _resize(image: Image.Image, height: int, width: int) -> Image.Image:
    """Resize without ringing beyond paper and ink; a no-op at its own size."""
    if image.size == (width, height):
        return image
    return image.resize((width, height), Image.Resampling.LANCZOS)
