"""How far apart the colours of two pictures are, wherever in the picture they stand."""

import numpy as np
from scipy.optimize import linprog

from colorize_jax.errors import UserError
from colorize_jax.evaluation.color import ciede2000, to_lab

CELL = 8.0  # side of a cell of CIELAB whose colours count as one while they are grouped
NUM_COLORS = 24  # groups that both pictures' colours are sorted into
NUM_ROUNDS = 10  # of k-means
SAMPLE_SIDE = 256  # px: of larger pictures, every second, third, ... pixel is looked at


def palette_distance(
    result: np.ndarray,
    reference: np.ndarray,
    mask_a: np.ndarray | None = None,
    mask_b: np.ndarray | None = None,
) -> float:
    """Earth mover's distance of two palettes: mean CIEDE2000 by which pixels must be recoloured.

    0 for the same colours in the same shares, about 10 for clearly other ones; geometry does not
    enter. Nothing is random.

    Args:
        result, reference: images (H, W, 3) float sRGB in [-1, 1], of any two sizes.
        mask_a, mask_b: (H, W) or (H, W, 1) in [0, 1] of each; pixels above 0.5 count, all by
            default.

    Raises:
        UserError: a mask has another size than its picture, or leaves no pixel.
    """
    pixels = [_sample(result, mask_a), _sample(reference, mask_b)]
    groups = _groups(*pixels)
    (colors_a, shares_a), (colors_b, shares_b) = map(_palette, pixels, groups)
    return _earth_movers_distance(shares_a, shares_b, ciede2000(colors_a[:, None], colors_b[None]))


def _sample(image: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """The pixels that count, (P, 3) in CIELAB."""
    step = max(1, min(image.shape[:2]) // SAMPLE_SIDE)
    pixels = to_lab(image[::step, ::step])
    if mask is not None:
        pixels = pixels[_inside(image, mask)[::step, ::step]]
    pixels = pixels.reshape(-1, 3)
    if not len(pixels):
        raise UserError(
            "got a mask without a pixel above 0.5, expected a figure; leave the mask out"
        )
    return pixels


def _inside(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    if mask.shape[:2] != image.shape[:2]:
        raise UserError(
            f"got a mask of {mask.shape[:2]} px for a picture of {image.shape[:2]} px, expected "
            "one size; resize it"
        )
    return np.asarray(mask).reshape(image.shape[:2]) > 0.5


def _groups(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Group (P,) and (Q,) of every pixel of two pictures, by k-means of both pictures' colours.

    Groups of each picture by itself would differ where nothing but a few pixels do.
    """
    both = np.concatenate([a, b])
    cells = np.floor(both / CELL).astype(int)
    cells -= cells.min(axis=0)
    # One number a pixel is sorted much faster than a row of three.
    _, cells = np.unique(np.ravel_multi_index(cells.T, cells.max(axis=0) + 1), return_inverse=True)
    # Both pictures count as much, whatever their sizes.
    weights = np.repeat([1 / len(a), 1 / len(b)], [len(a), len(b)])
    colors, shares = _means(both, weights, cells)
    # The commonest colours first; of equally common ones, the darkest.
    centres = colors[np.argsort(-shares, kind="stable")[:NUM_COLORS]]
    for _ in range(NUM_ROUNDS):
        nearest = _nearest(colors, centres)
        centres, _ = _means(colors, shares, nearest)
    groups = _nearest(colors, centres)[cells]
    return groups[: len(a)], groups[len(a) :]


def _nearest(colors: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The nearest centre to every colour, numbered without gaps."""
    squared = ((colors[:, None] - centres[None]) ** 2).sum(axis=-1)
    return np.unique(np.argmin(squared, axis=1), return_inverse=True)[1]


def _palette(pixels: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean colours (G, 3) of the groups that a picture has, and their shares (G,)."""
    _, own = np.unique(groups, return_inverse=True)
    return _means(pixels, np.full(len(pixels), 1 / len(pixels)), own)


def _means(
    colors: np.ndarray, weights: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean colour, and weight, of every group 0, 1, ..."""
    totals = np.bincount(groups, weights=weights)
    sums = [np.bincount(groups, weights=weights * channel) for channel in colors.T]
    return np.stack(sums, axis=-1) / totals[:, None], totals


def _earth_movers_distance(a: np.ndarray, b: np.ndarray, cost: np.ndarray) -> float:
    """Least total cost of moving shares (P,) to shares (Q,), with cost (P, Q) a unit."""
    rows, columns = cost.shape
    # What leaves each colour, then what arrives at each; the last constraint follows from the rest.
    leaving = np.kron(np.eye(rows), np.ones((1, columns)))
    arriving = np.kron(np.ones((1, rows)), np.eye(columns))
    constraints = np.concatenate([leaving, arriving[:-1]])
    solution = linprog(cost.ravel(), A_eq=constraints, b_eq=np.concatenate([a, b[:-1]]))
    if solution.status != 0:
        raise RuntimeError(f"transport of palettes was not solved: {solution.message}")
    return float(solution.fun)
