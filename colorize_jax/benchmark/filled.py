"""Arrays of plausible values made on the host, without compiling an initializer."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.sharding import join

BLOCK = 2**20  # random numbers, repeated as often as a tensor needs them
DEVIATION = 0.02


def filled(abstract: Any, shardings: Any, seed: int = 0) -> Any:
    """Make arrays of the shapes of a training state or of parameters.

    Scales of norms are one, kernels small, biases, moments and counts zero, so that activations are
    about one: the power that a device draws, and so its clock, depends on the values it computes.

    Args:
        abstract: tree of shapes; names of dictionaries on the way say what a leaf is.
        shardings: like it.
        seed: of the random numbers.
    """
    block = np.random.default_rng(seed).normal(0, DEVIATION, BLOCK).astype(np.float32)
    # On CPUs an array may keep the host's memory, which a donated one would overwrite.
    shared = True if jax.default_backend() == "cpu" else None
    leaves = jax.tree.leaves(abstract)
    # One array per dtype, of which every tensor takes the beginning: memory that is written once.
    pools = {
        dtype: np.resize(block.astype(dtype), max(x.size for x in leaves if x.dtype == dtype))
        for dtype in {x.dtype for x in leaves}
        if jnp.issubdtype(dtype, jnp.floating)
    }

    def one(path: Any, leaf: Any, sharding: Any) -> jax.Array:
        name, moment = join(path).rsplit("/", 1)[-1], "opt_state" in jax.tree_util.keystr(path)
        if moment or name == "bias" or not jnp.issubdtype(leaf.dtype, jnp.floating):
            values = np.zeros(leaf.shape, leaf.dtype)
        elif name == "scale":
            values = np.ones(leaf.shape, leaf.dtype)
        else:
            values = pools[leaf.dtype][: leaf.size].reshape(leaf.shape)
        return jax.make_array_from_callback(
            leaf.shape, sharding, lambda place: np.array(values[place], copy=shared)
        )

    return jax.tree_util.tree_map_with_path(one, abstract, shardings)
