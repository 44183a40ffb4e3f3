"""Attention on TPUs by the Pallas splash kernel, which never writes probabilities to memory."""

import functools

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jax.sharding import PartitionSpec as P

from colorize_jax.nn.remat import ATTENTION
from colorize_jax.sharding import BATCH, TENSOR, fitting_spec
from colorize_jax.types import Array

LANES = 128
BLOCKS = (1024, 512, 256, LANES)  # queries and keys at a time
MAX_PADDING = 0.05  # share of tokens that may only fill up blocks, for the sake of larger ones
MAX_HEAD_DIM = 128
# With fewer tokens the logits are small anyway, and padding costs more.
MIN_TOKENS = 512


def refusal(q: Array, k: Array) -> str | None:
    """Why the kernel cannot take queries (B, N, K, D) and keys (B, S, K, D); None where it can."""
    del k
    head_dim = q.shape[-1]
    if head_dim > MAX_HEAD_DIM or head_dim % 8:
        return f"heads of {head_dim} channels, expected a multiple of 8 up to {MAX_HEAD_DIM}"
    return None


def pays(q: Array, k: Array) -> bool:
    """Whether there are tokens enough."""
    return min(q.shape[1], k.shape[1]) >= MIN_TOKENS


def attention(q: Array, k: Array, v: Array, scale: float, *, interpret: bool = False) -> Array:
    """Scaled dot-product attention; every device computes its own samples and heads.

    Args:
        q: (B, N, K, D) queries.
        k: (B, S, K, D) keys.
        v: (B, S, K, D) values.
        scale: factor of the logits.
        interpret: run the kernel without a TPU, slowly, for tests.

    Returns:
        (B, N, K, D) in v's dtype.
    """
    local = functools.partial(_attention, scale=scale, interpret=interpret)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return local(q, k, v)
    spec = P(*fitting_spec(q.shape, (BATCH, None, TENSOR), mesh.shape))
    return jax.shard_map(local, in_specs=(spec,) * 3, out_specs=spec, check_vma=False)(q, k, v)


def _attention(q: Array, k: Array, v: Array, *, scale: float, interpret: bool) -> Array:
    queries, keys, heads = q.shape[1], k.shape[1], q.shape[2]
    rows, columns = _block(queries), _block(keys)
    # The kernel does not scale the logits, and takes heads before tokens.
    q = _padded((q * scale).astype(q.dtype).swapaxes(1, 2), rows)
    k, v = (_padded(x.swapaxes(1, 2), columns) for x in (k, v))
    kernel = _kernel(q.shape[2], k.shape[2], heads, rows, columns, interpret)
    segments = None
    if k.shape[2] > keys:
        # Padded keys get another segment id, so that no query attends to them.
        own = jnp.zeros(q.shape[2], jnp.int32)
        filled = (jnp.arange(k.shape[2]) >= keys).astype(jnp.int32)
        segments = kernels.SegmentIds(own, filled)
    out = jax.vmap(lambda q, k, v: kernel(q, k, v, segment_ids=segments))(q, k, v)
    return out[:, :, :queries].swapaxes(1, 2).astype(v.dtype)


def _block(tokens: int) -> int:
    """The largest block that needs little padding."""
    return next((b for b in BLOCKS if -tokens % b <= MAX_PADDING * tokens), LANES)


def _padded(x: Array, block: int) -> Array:
    """(B, K, N, D) with zeros up to whole blocks of tokens."""
    return jnp.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % block), (0, 0)))


def _kernel(
    queries: int, keys: int, heads: int, rows: int, columns: int, interpret: bool
) -> kernels.SplashAttentionKernel:
    sizes = kernels.BlockSizes(
        block_q=rows,
        block_kv=columns,
        block_q_dkv=rows,
        block_kv_dkv=columns,
        block_q_dq=rows,
        block_kv_dq=columns,
    )
    mask = masks.MultiHeadMask([masks.FullMask((queries, keys)) for _ in range(heads)])
    return kernels.make_splash_mha(
        mask,
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=ATTENTION,
        interpret=interpret,
    )
