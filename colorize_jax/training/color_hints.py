"""Hints of colour as a user would give them, drawn from the pictures that training shows.

A hint is a point or a stroke in the colour that the picture has where it begins; it covers what of
it looks alike, as a user stays inside of lines. In some pictures the part that the first hint lies
on gets another colour, in picture and hints: where reference and hints contradict each other, the
model learns to believe the hints, and how far they reach.
"""

import jax
import jax.numpy as jnp

from colorize_jax.config.method import ColorHintsConfig
from colorize_jax.types import Array

# Euclidean distances of colours in [-1, 1]: up to the first they are one, from the second not. A
# part is what hangs together in shades of a colour, and what has just that colour elsewhere.
SHADES, SAME = (0.4, 0.6), (0.15, 0.3)
GRID = 128  # largest side that parts are searched at
NEAR_RATE, NEAR = 0.5, 0.1  # of hints that lie near the first one; deviation, share of a side


def draw_hints(
    image: Array, sketch: Array, key: Array, options: ColorHintsConfig
) -> tuple[Array, Array]:
    """Draw the hints of a batch.

    Args:
        image: (B, H, W, 3) in [-1, 1].
        sketch: (B, H, W, 3), line = +1: no hint begins on a line.
        key: of this use in this step.
        options: how many there are, and of which kinds.

    Returns:
        The pictures (B, H, W, 3) that the hints belong to, and the hints (B, H, W, 4): colours
        times the mask, and the mask, 0 or 1.
    """
    keys = jax.random.split(key, image.shape[0])
    return jax.vmap(lambda *one: _draw(*one, options))(image, sketch, keys)


def _draw(
    image: Array, sketch: Array, key: Array, options: ColorHintsConfig
) -> tuple[Array, Array]:
    """As `draw_hints`, for one picture (H, W, 3)."""
    many, places, shapes, other = jax.random.split(key, 4)
    size = jnp.array(image.shape[:2], jnp.float32)
    centers = _centers(places, options.maximum) * size
    ends, radii = _shapes(shapes, options, min(image.shape[:2]))
    kept = jnp.arange(options.maximum) < _count(many, options)
    kept &= jax.vmap(lambda place: _at(sketch, place).mean() < 0)(centers)
    changed = _recolor(image, centers[0], other, options.recolor_rate)
    image = jnp.where(kept[0], changed, image)
    pixels = jnp.stack(jnp.indices(image.shape[:2]), axis=-1) + 0.5

    def paint(hints: Array, one: tuple[Array, ...]) -> tuple[Array, None]:
        kept, center, end, radius = one
        color = _at(image, center)
        # Distance to the segment center + share * end.
        along = jnp.sum((pixels - center) * end, axis=-1) / jnp.maximum(jnp.sum(end**2), 1e-6)
        nearest = center + jnp.clip(along, 0, 1)[..., None] * end
        inside = jnp.sum((pixels - nearest) ** 2, axis=-1) <= radius**2
        inside &= kept & (_distance(image, color) <= SHADES[0])
        painted = jnp.append(color, 1.0)
        return jnp.where(inside[..., None], painted, hints), None

    blank = jnp.zeros((*image.shape[:2], 4))
    hints, _ = jax.lax.scan(paint, blank, (kept, centers, ends, radii))
    return image, hints


def _count(key: Array, options: ColorHintsConfig) -> Array:
    """How many hints a picture has: none, or 1..maximum, whose logarithm is uniform."""
    kept, many = jax.random.split(key)
    count = jnp.floor((options.maximum + 1.0) ** jax.random.uniform(many))
    # Where the power is rounded up there would be one more.
    count = jnp.minimum(count, options.maximum)
    return jnp.where(jax.random.bernoulli(kept, options.dropout), 0, count)


def _centers(key: Array, number: int) -> Array:
    """(number, 2) row and column of hints, as shares of the sides; half of them near the first."""
    anywhere, near, chosen = jax.random.split(key, 3)
    centers = jax.random.uniform(anywhere, (number, 2))
    gathered = centers[0] + NEAR * jax.random.normal(near, (number, 2))
    first = jnp.arange(number) == 0
    gathers = jax.random.bernoulli(chosen, NEAR_RATE, (number,)) & ~first
    return jnp.clip(jnp.where(gathers[:, None], gathered, centers), 0, 1)


def _shapes(key: Array, options: ColorHintsConfig, side: int) -> tuple[Array, Array]:
    """Where strokes end (number, 2) from where they begin, 0 for points, and radii, all in px."""
    number, ranged = options.maximum, jnp.array((options.min_radius, options.max_radius))
    strokes, lengths, turns, radii = jax.random.split(key, 4)
    length = jax.random.uniform(lengths, (number,), maxval=options.max_length)
    length *= jax.random.bernoulli(strokes, options.stroke_rate, (number,))
    angle = jax.random.uniform(turns, (number,), maxval=2 * jnp.pi)
    direction = jnp.stack((jnp.sin(angle), jnp.cos(angle)), axis=-1)
    low, high = jnp.log(ranged)
    radius = jnp.exp(jax.random.uniform(radii, (number,), minval=low, maxval=high))
    # A point is at least the pixel that it lies in.
    return side * length[:, None] * direction, jnp.maximum(side * radius, 0.75)


def _recolor(image: Array, center: Array, key: Array, rate: float) -> Array:
    """Shift the shades of the part around a place to those of another colour, at a rate."""
    chosen, new = jax.random.split(key)
    old = _at(image, center)
    distance = _distance(image, old)
    share = jnp.maximum(_part(distance, center) * _ramp(distance, SHADES), _ramp(distance, SAME))
    shift = jax.random.uniform(new, (3,), minval=-1, maxval=1) - old
    shift *= jax.random.bernoulli(chosen, rate)
    return jnp.clip(image + share[..., None] * shift, -1, 1)


def _part(distance: Array, center: Array) -> Array:
    """Whether pixels hang together with a place (H, W), by distances of colours to its own."""
    height, width = distance.shape
    step = -(-max(height, width) // GRID)
    coarse = distance[::step, ::step] < SHADES[1]
    row, column = _pixel(center, (height, width))
    seed = jnp.zeros_like(coarse).at[row // step, column // step].set(True)

    def grow(_: Array, part: Array) -> Array:
        padded = jnp.pad(part, 1)
        beside = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
        return coarse & (part | beside)

    part = jax.lax.fori_loop(0, 2 * GRID, grow, seed & coarse)
    return part.repeat(step, axis=0)[:height].repeat(step, axis=1)[:, :width]


def _ramp(distance: Array, limits: tuple[float, float]) -> Array:
    """1 up to the first limit, falling to 0 at the second."""
    low, high = limits
    return jnp.clip((high - distance) / (high - low), 0, 1)


def _distance(image: Array, color: Array) -> Array:
    """Euclidean distance (H, W) of pixels to a colour."""
    return jnp.sqrt(jnp.sum((image - color) ** 2, axis=-1))


def _at(image: Array, place: Array) -> Array:
    """The pixel (C,) that a place in px lies in."""
    row, column = _pixel(place, image.shape[:2])
    return image[row, column]


def _pixel(place: Array, size: tuple[int, int]) -> Array:
    """Row and column (2,) of the pixel that a place in px lies in."""
    return jnp.minimum(jnp.floor(place).astype(jnp.int32), jnp.array(size) - 1)
