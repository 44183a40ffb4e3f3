"""Randomness of a run: one seed, the step folded in, and a name for every use.

A resumed run draws what the uninterrupted one would have drawn, and a new use never shifts the
draws of the others.
"""

import zlib

import jax
import numpy as np

from colorize_jax.types import Array


def stream(key_or_seed: Array | int, step: Array | int, name: str) -> Array:
    """Return the key of one use of randomness in one step.

    Args:
        key_or_seed: the run's key or seed.
        step: the step that draws; may be traced.
        name: what is drawn, e.g. "noise".
    """
    key = jax.random.key(key_or_seed) if isinstance(key_or_seed, int) else key_or_seed
    return jax.random.fold_in(jax.random.fold_in(key, step), np.uint32(zlib.crc32(name.encode())))
