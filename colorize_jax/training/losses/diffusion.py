"""The diffusion loss: how far the network's prediction lies from its target."""

import jax.numpy as jnp

from colorize_jax.types import Array


def diffusion_loss(
    prediction: Array,
    target: Array,
    *,
    weights: Array | None = None,
    mask: Array | None = None,
) -> Array:
    """Mean squared error in float32.

    Args:
        prediction: (B, h, w, C) network output of any float dtype.
        target: (B, h, w, C) velocity or noise.
        weights: (B,) of each sample, e.g. min-SNR-gamma; 1 by default.
        mask: (B, H, W, 1) in [0, 1], H and W multiples of h and w; errors outside count nothing.
            The mean stays one over the whole picture, so that a small mask does not weigh more.

    Returns:
        A float32 scalar.
    """
    squared = jnp.square(prediction.astype(jnp.float32) - target.astype(jnp.float32))
    if mask is not None:
        squared = squared * cell_means(mask, squared.shape[1:3])
    per_sample = jnp.mean(squared, axis=(1, 2, 3))
    return jnp.mean(per_sample if weights is None else weights * per_sample)


def cell_means(mask: Array, grid: tuple[int, int]) -> Array:
    """Average a mask over the cells of a coarser grid: (B, H, W, 1) -> (B, h, w, 1) float32."""
    batch, height, width, _ = mask.shape
    h, w = grid
    if height % h or width % w:
        raise ValueError(f"got a mask of {height}x{width}, expected a multiple of {h}x{w}")
    cells = mask.astype(jnp.float32).reshape(batch, h, height // h, w, width // w, 1)
    return jnp.mean(cells, axis=(2, 4))
