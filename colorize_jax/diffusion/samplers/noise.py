"""Fresh noise for stochastic samplers, from a key for each sample."""

import jax
import jax.numpy as jnp

from colorize_jax.diffusion.samplers.loops import NoiseFn
from colorize_jax.types import Array


def noise_from_keys(keys: Array, shape: tuple[int, ...]) -> NoiseFn:
    """Return noise whose k-th draw for a sample depends on that sample's key and k alone.

    Args:
        keys: (B,) typed PRNG keys of the default, counter-based kind, one a sample.
        shape: of one sample's noise, e.g. (h, w, C).

    Returns:
        `noise_fn(k () or (B,)) -> (B, *shape)` float32, the same whatever the batch or device
        count.
    """

    def draw(key, k):
        return jax.random.normal(jax.random.fold_in(key, k), shape, jnp.float32)

    def noise_fn(k):
        return jax.vmap(draw)(keys, jnp.broadcast_to(k, keys.shape))

    return noise_fn
