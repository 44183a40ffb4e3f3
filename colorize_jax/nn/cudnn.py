"""Attention on NVIDIA GPUs by cuDNN's fused kernels, which never write probabilities to memory."""

import jax
import jax.numpy as jnp

from colorize_jax.types import Array

DTYPES = (jnp.bfloat16, jnp.float16)
# Of every card that it is compiled for; forward passes on newer ones take more.
MAX_HEAD_DIM = 128
HEAD_DIM_MULTIPLE = 8


def refusal(q: Array, k: Array) -> str | None:
    """Why the kernel cannot take queries (B, N, K, D) and keys (B, S, K, D); None where it can."""
    head_dim = q.shape[-1]
    if q.dtype not in DTYPES or k.dtype != q.dtype:
        return f"{q.dtype} queries and {k.dtype} keys, expected bfloat16 or float16"
    if head_dim > MAX_HEAD_DIM or head_dim % HEAD_DIM_MULTIPLE:
        return (
            f"heads of {head_dim} channels, expected a multiple of {HEAD_DIM_MULTIPLE} up to "
            f"{MAX_HEAD_DIM}"
        )
    return None


def attention(
    q: Array, k: Array, v: Array, scale: float, *, implementation: str = "cudnn"
) -> Array:
    """Scaled dot-product attention over any number of tokens.

    Under gradients the kernels need even numbers of tokens. An odd number is padded with one row,
    which the sequence lengths mask, so that it gets no attention and gives no gradient.

    Args:
        q: (B, N, K, D) queries.
        k: (B, S, K, D) keys.
        v: (B, S, K, D) values.
        scale: factor of the logits.
        implementation: of `jax.nn.dot_product_attention`; "xla" takes the same padding and lengths
            on any platform, for tests.

    Returns:
        (B, N, K, D) in v's dtype.
    """
    queries, keys = q.shape[1], k.shape[1]
    lengths = {}
    if queries % 2 or keys % 2:
        lengths = {
            "query_seq_lengths": jnp.full(q.shape[0], queries, jnp.int32),
            "key_value_seq_lengths": jnp.full(q.shape[0], keys, jnp.int32),
        }
    out = jax.nn.dot_product_attention(
        _even(q), _even(k), _even(v), scale=scale, implementation=implementation, **lengths
    )
    return out[:, :queries]


def _even(x: Array) -> Array:
    """(B, N, K, D) with a row of zeros behind an odd number of tokens."""
    return jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0)))
