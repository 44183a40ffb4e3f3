"""The attention of all networks: softmax(q k^T / sqrt(D)) v, without all of q k^T in memory.

There are no masks: callers make several calls on parts of the keys instead (scale-causal levels,
foreground and background tokens). The exception is causal attention over texts, which are short.
"""

import functools
import logging
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from colorize_jax.errors import UserError
from colorize_jax.nn import cudnn
from colorize_jax.nn.platforms import resolve
from colorize_jax.nn.remat import ATTENTION
from colorize_jax.sharding import BATCH, TENSOR, constrain
from colorize_jax.types import Array

logger = logging.getLogger(__name__)

IMPLEMENTATIONS = ("auto", "blockwise", "cudnn", "splash", "plain")
# The implementation that "auto" prefers on each platform.
KERNELS = {"gpu": "cudnn", "tpu": "splash"}

# Probabilities held at once by the blockwise form, bytes a sample; float32.
BLOCK_BYTES = 128 * 2**20


def attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    scale: float | None = None,
    implementation: str = "auto",
    causal: bool = False,
) -> Array:
    """Scaled dot-product attention with a float32 softmax.

    Args:
        q: (B, N, K, D) queries.
        k: (B, S, K, D) keys.
        v: (B, S, K, D) values.
        scale: factor of the logits, 1 / sqrt(D) by default.
        implementation: "blockwise" (XLA, over blocks of queries, every platform), "cudnn" (fused
            attention on NVIDIA GPUs, half precision), "splash" (Pallas, TPU), "plain" (all
            probabilities at once, nothing computed twice: what FLOPs are counted on); "auto" takes
            the best for these shapes on the default backend's platform, "auto:tpu" or "auto:gpu"
            on one that need not be there.
        causal: let query n see keys 0..n alone; for few tokens, all of whose probabilities are held
            at once whatever the implementation.

    Returns:
        (B, N, K, D) in v's dtype.

    Raises:
        UserError: the implementation that is named cannot take these shapes.
    """
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    q, k, v = (constrain(x, BATCH, None, TENSOR) for x in (q, k, v))
    if causal:
        return _plain(q, k, v, scale, jnp.tri(q.shape[1], k.shape[1], dtype=bool))
    chosen = choose(implementation, q, k)
    if chosen == "cudnn":
        return cudnn.attention(q, k, v, scale)
    if chosen == "splash":
        from colorize_jax.nn import splash

        return splash.attention(q, k, v, scale)
    return checkpoint_name((_plain if chosen == "plain" else _blockwise)(q, k, v, scale), ATTENTION)


def choose(implementation: str, q: Array, k: Array) -> str:
    """The implementation that takes queries and keys; arguments as of `attention`.

    Raises:
        UserError: the one that is named cannot.
    """
    if not implementation.startswith("auto"):
        reason = _refusal(implementation, q, k)
        if reason is None:
            return implementation
        raise UserError(
            f'got attention "{implementation}" for {reason}; choose "auto", which takes another '
            "implementation for such shapes"
        )
    name = preferred(implementation)
    if name == "splash":
        from colorize_jax.nn import splash

        name = name if splash.pays(q, k) else "blockwise"
    if _refusal(name, q, k) is not None:
        name = "blockwise"
    _tell(name, *q.shape[1:], k.shape[1], str(q.dtype))
    return name


def _refusal(name: str, q: Array, k: Array) -> str | None:
    if name == "cudnn":
        return cudnn.refusal(q, k)
    if name == "splash":
        from colorize_jax.nn import splash

        return splash.refusal(q, k)
    return None


@functools.cache  # once for shapes that are met again
def _tell(name: str, queries: int, heads: int, channels: int, keys: int, dtype: str) -> None:
    shape = f"{queries} queries, {keys} keys, {heads} heads of {channels} channels, {dtype}"
    logger.info("attention of %s: %s", shape, name)


def preferred(implementation: str) -> str:
    """What an implementation is where shapes allow it: "auto:gpu" is "cudnn"."""
    return resolve(implementation, KERNELS, "blockwise")


def _blockwise(q: Array, k: Array, v: Array, scale: float) -> Array:
    """Attention over blocks of queries; the backward pass recomputes each block's probabilities."""
    queries, heads = q.shape[1:3]
    size = block_size(queries, k.shape[1], heads)
    if size >= queries:
        return _plain(q, k, v, scale)
    count = -(-queries // size)
    padded = jnp.pad(q, ((0, 0), (0, count * size - queries), (0, 0), (0, 0)))
    blocks = jnp.moveaxis(padded.reshape(q.shape[0], count, size, *q.shape[2:]), 1, 0)
    body = jax.checkpoint(functools.partial(_plain, k=k, v=v, scale=scale), prevent_cse=False)
    out = jnp.moveaxis(jax.lax.map(body, blocks), 0, 1)
    return out.reshape(q.shape[0], count * size, *out.shape[3:])[:, :queries]


def block_size(queries: int, keys: int, heads: int) -> int:
    """Queries whose probabilities fit `BLOCK_BYTES`, in blocks that hardly need padding."""
    rows = max(8, BLOCK_BYTES // (4 * keys * heads))
    count = -(-queries // rows)
    return queries if count == 1 else 8 * -(-queries // (8 * count))


def _plain(q: Array, k: Any, v: Any, scale: float, seen: Array | None = None) -> Array:
    logits = jnp.einsum("bnkd,bskd->bkns", q, k, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(logits * scale, axis=-1, where=seen)
    return jnp.einsum("bkns,bskd->bnkd", weights.astype(v.dtype), v)
