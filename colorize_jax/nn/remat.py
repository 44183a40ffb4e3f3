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


def _costly_saveable(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive.name in _COSTLY


POLICIES = {
    "none": None,
    "elementwise": jax.checkpoint_policies.save_from_both_policies(
        _costly_saveable, jax.checkpoint_policies.save_only_these_names(RESIDUAL)
    ),
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "block": jax.checkpoint_policies.nothing_saveable,
}
