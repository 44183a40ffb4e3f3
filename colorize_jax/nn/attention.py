"""The one attention of the house: softmax(q k^T / sqrt(D)) v, never with all of q k^T in memory.

Masks that the published system needs are expressed by the callers as several calls on parts of the
keys (scale-causal levels, foreground and background tokens), so none is ever materialized here. The
exception are texts, which are short.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from colorize_jax.sharding import BATCH, TENSOR, constrain
from colorize_jax.types import Array

IMPLEMENTATIONS = ("auto", "blockwise", "cudnn", "splash", "plain")

# Probabilities held at once by the blockwise form, bytes a sample; float32.
BLOCK_BYTES = 128 * 2**20
CUDNN_DTYPES = (jnp.bfloat16, jnp.float16)
CUDNN_MAX_HEAD_DIM = 128


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
        implementation: "blockwise" (XLA, over blocks of queries, every platform), "cudnn" (flash
            attention on NVIDIA GPUs, half precision), "splash" (Pallas, TPU), "plain" (all
            probabilities at once, nothing computed twice: what FLOPs are counted on); "auto" takes
            the best for the default backend's platform and these shapes.
        causal: let query n see keys 0..n alone; for few tokens, all of whose probabilities are held
            at once whatever the implementation.

    Returns:
        (B, N, K, D) in v's dtype.
    """
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    q, k, v = (constrain(x, BATCH, None, TENSOR) for x in (q, k, v))
    if causal:
        return _plain(q, k, v, scale, jnp.tri(q.shape[1], k.shape[1], dtype=bool))
    if implementation == "auto":
        implementation = default_implementation(jax.default_backend())
    if implementation == "cudnn" and _cudnn_takes(q):
        return jax.nn.dot_product_attention(q, k, v, scale=scale, implementation="cudnn")
    if implementation == "splash":
        from colorize_jax.nn import splash

        if splash.takes(q, k):
            return splash.attention(q, k, v, scale)
    if implementation == "plain":
        return _plain(q, k, v, scale)
    return _blockwise(q, k, v, scale)


def default_implementation(platform: str) -> str:
    """The implementation for "cpu", "gpu", "cuda" or "tpu"."""
    return {"gpu": "cudnn", "cuda": "cudnn", "tpu": "splash"}.get(platform, "blockwise")


def _cudnn_takes(q: Array) -> bool:
    head_dim = q.shape[-1]
    return q.dtype in CUDNN_DTYPES and head_dim % 8 == 0 and head_dim <= CUDNN_MAX_HEAD_DIM


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
