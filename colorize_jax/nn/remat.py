"""Rematerialization: what the backward pass computes again instead of reading it from memory."""

from typing import Any

import jax

# The name (`jax.ad_checkpoint.checkpoint_name`) of sums that are kept instead of their summands, so
# that a product can add what is there before in its own kernel.
RESIDUAL = "residual"
# Primitives whose results cost more to compute again than to keep: products, convolutions, and the
# attention kernels of GPUs (cuDNN) and TPUs (Pallas).
_COSTLY = frozenset(
    {
        "dot_general",
        "conv_general_dilated",
        "dot_product_attention_fwd_wrapper",
        "pallas_call",
    }
)


def costly_saveable(primitive: Any, *args: Any, **params: Any) -> bool:
    """A policy of `jax.checkpoint`: only norms, activations and sums are computed again."""
    del args
    return primitive.name in _COSTLY or params.get("name") == RESIDUAL


POLICIES = {
    "none": None,
    "elementwise": costly_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "block": jax.checkpoint_policies.nothing_saveable,
}
