"""Metrics of a colorization: colours of parts, lines, dependence on the reference's geometry.

All functions take single pictures: images (H, W, 3) float sRGB in [-1, 1], sketches (H, W), (H, W,
1) or (H, W, 3) float with lines at +1 on paper at -1, part maps (H, W) or (H, W, 1) of integers.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from colorize_jax.errors import UserError
from colorize_jax.evaluation.color import ciede2000, to_lab

# Lengths in pictures of 64 px, shorter side; they grow with the picture.
BASE_SIZE = 64
LINE_TOLERANCE = 1.0
RIDGE_RADIUS = 2.0

# A pixel belongs to a drawn line if it is this much darker than its surroundings, as a share.
RIDGE_CONTRAST = 0.12
# Lightness added to the surroundings, so that noise in dark ones does not count as a line.
RIDGE_FLOOR = 0.1

# A pixel belongs to a border if a channel changes by this share of its range across it.
BORDER_RADIUS = 0.5
BORDER_CONTRAST = 0.35


def part_color_errors(
    result: np.ndarray, truth: np.ndarray, parts: np.ndarray, min_share: float = 0.005
) -> dict[int, float]:
    """CIEDE2000 between a part's mean colour in the result and in the truth.

    Args:
        result, truth: images of one size.
        parts: index of the part that each pixel belongs to.
        min_share: parts that cover a smaller share of the picture are left out.

    Returns:
        part -> difference, for the parts that cover enough.
    """
    check_sizes(result, truth, parts)
    labels = np.asarray(parts).reshape(result.shape[:2]).ravel()
    lab_result, lab_truth = (to_lab(image).reshape(-1, 3) for image in (result, truth))
    errors = {}
    for part in np.unique(labels):
        inside = labels == part
        if inside.mean() >= min_share:
            means = lab_result[inside].mean(axis=0), lab_truth[inside].mean(axis=0)
            errors[int(part)] = float(ciede2000(*means))
    return errors


def part_color_error(
    result: np.ndarray, truth: np.ndarray, parts: np.ndarray, min_share: float = 0.005
) -> float:
    """Mean of `part_color_errors`: 0 for the right colours, about 10 for clearly different ones.

    Raises:
        UserError: no part covers enough of the picture.
    """
    errors = part_color_errors(result, truth, parts, min_share)
    if not errors:
        raise UserError(
            f"got no part that covers {min_share:.1%} of the picture, expected one; lower min_share"
        )
    return float(np.mean(list(errors.values())))


@dataclass(frozen=True)
class LineScore:
    """How well the lines of a result are those of the sketch, each in 0..1.

    Attributes:
        precision: share of the result's line pixels that lie on a line of the sketch.
        recall: share of the sketch's line pixels that the result draws.
    """

    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """Harmonic mean of both."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def find_lines(image: np.ndarray) -> np.ndarray:
    """Find dark lines: thin, and darker than what surrounds them on both sides.

    Relative black top-hat: a closing with a window wider than a line removes lines, but leaves
    edges between two colours, shading and wider texture unchanged.

    Args:
        image: (H, W, 3) in [-1, 1].

    Returns:
        bool (H, W).
    """
    light = (np.clip(np.asarray(image, np.float64), -1, 1) + 1) / 2
    window = 2 * round(_scaled(RIDGE_RADIUS, image)) + 1
    around = ndimage.grey_closing(light, size=(window, window, 1), mode="nearest")
    contrast = (around - light).mean(axis=-1) / (around.mean(axis=-1) + RIDGE_FLOOR)
    return contrast > RIDGE_CONTRAST


def find_borders(image: np.ndarray) -> np.ndarray:
    """Find where two colours meet sharply; image (H, W, 3) in [-1, 1], result bool (H, W)."""
    light = (np.clip(np.asarray(image, np.float64), -1, 1) + 1) / 2
    window = 2 * max(1, round(_scaled(BORDER_RADIUS, image))) + 1
    change = ndimage.morphological_gradient(light, size=(window, window, 1), mode="nearest")
    return change.max(axis=-1) > BORDER_CONTRAST


def line_score(
    result: np.ndarray, sketch: np.ndarray, where: np.ndarray | None = None
) -> LineScore:
    """Compare the lines of a result with the sketch, within one pixel at 64 px.

    A line of the sketch also counts as drawn where the result has a border of two colours, because
    a line around dark hair is not darker than the hair. Only thin, dark lines count as false
    positives, because shading and patterns have borders, too.

    At 64 px, where lines and their neighbourhood cover half a picture, the exact answer scores an
    F1 of about 0.96, a picture with other lines or white noise 0.65, one blurred by 2 px 0.15.

    Args:
        result: image.
        sketch: of the same size.
        where: bool (H, W) in which lines of the result count; everywhere by default.

    Returns:
        precision and recall; 1 where the result or the sketch, respectively, has no lines.
    """
    check_sizes(result, sketch)
    ink = _ink(sketch)
    found = find_lines(result)
    if where is not None:
        found &= where
    line = ink > 0.5
    tolerance = _scaled(LINE_TOLERANCE, result)
    # Faint, antialiased pixels of the sketch may be drawn, but need not be.
    on_line = _dilate(ink > 0.25, tolerance)[found]
    drawn = (_dilate(found, tolerance) | find_borders(result))[line]
    return LineScore(
        precision=float(on_line.mean()) if on_line.size else 1.0,
        recall=float(drawn.mean()) if drawn.size else 1.0,
    )


def line_f1(result: np.ndarray, sketch: np.ndarray, where: np.ndarray | None = None) -> float:
    """F1 of `line_score`."""
    return line_score(result, sketch, where).f1


def entanglement(result: np.ndarray, other: np.ndarray, sketch: np.ndarray) -> float:
    """Mean CIEDE2000, away from lines, between two results for one sketch and one identity.

    The references differ in geometry alone: a model that takes only their colours scores 0.

    Args:
        result, other: images of one size.
        sketch: whose lines, and their neighbourhood of two pixels at 64 px, are left out.

    Raises:
        UserError: the sketch leaves nothing to compare.
    """
    check_sizes(result, other, sketch)
    away = ~_dilate(_ink(sketch) > 0.25, _scaled(2 * LINE_TOLERANCE, result))
    if not away.any():
        raise UserError(
            "got a sketch without blank areas, expected lines on paper; check its polarity"
        )
    return float(ciede2000(to_lab(result[away]), to_lab(other[away])).mean())


def check_sizes(image: np.ndarray, *others: np.ndarray) -> None:
    """Raise UserError unless all pictures have the height and width of the first."""
    for other in others:
        if other.shape[:2] != image.shape[:2]:
            raise UserError(
                f"got pictures of {image.shape[:2]} and {other.shape[:2]} px, expected one size; "
                "resize one"
            )


def _scaled(length: float, image: np.ndarray) -> float:
    """A length at BASE_SIZE in pixels of this picture; not below that of BASE_SIZE."""
    return length * max(1.0, min(image.shape[:2]) / BASE_SIZE)


def _dilate(mask: np.ndarray, radius: float) -> np.ndarray:
    """Whether a pixel lies within `radius` px of the mask."""
    if not mask.any():
        return np.zeros_like(mask)
    return ndimage.distance_transform_edt(~mask) <= radius


def _ink(sketch: np.ndarray) -> np.ndarray:
    """How much a pixel of the sketch is line, (H, W) in 0..1."""
    sketch = np.asarray(sketch, np.float64)
    return ((sketch if sketch.ndim == 2 else sketch.mean(axis=-1)) + 1) / 2
