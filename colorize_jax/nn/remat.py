"""Rematerialization: what the backward pass computes again instead of reading it from memory."""

import math
from collections.abc import Callable
from typing import Any

import jax

Policy = Callable[..., bool]

# Names (`jax.ad_checkpoint.checkpoint_name`) of what is kept: sums instead of their summands, so
# that a product can add what is there before in its own kernel; and results of attention, of which
# what a kernel of TPUs returns itself repeats a number 128 times. By "norms" GEGLU's result too.
RESIDUAL = "residual"
ATTENTION = "attention"
GATED = "gated"
# The widest product that is kept by "wide", in widths of its input: GEGLU's projection is 8.
_WIDE = 4


def _costly(primitive: Any, *operands: Any, **params: Any) -> bool:
    """Whether a result costs more to compute again than to keep.

    Of products, those with parameters: logits are large and little work. cuDNN's attention is a
    primitive; all other attention has a name.
    """
    if primitive.name == "dot_general":
        (_, (batch, _)) = params["dimension_numbers"]
        return not batch
    return primitive.name in ("conv_general_dilated", "dot_product_attention_fwd_wrapper")


def _costly_and_narrow(primitive: Any, *operands: Any, **params: Any) -> bool:
    if primitive.name == "dot_general":
        ((_, contracted), _) = params["dimension_numbers"]
        inner = math.prod(operands[1].shape[axis] for axis in contracted)
        if math.prod(operands[1].shape) >= _WIDE * inner**2:
            return False
    return _costly(primitive, *operands, **params)


def _and_named(policy: Policy, *names: str) -> Policy:
    named = jax.checkpoint_policies.save_only_these_names(RESIDUAL, ATTENTION, *names)
    return jax.checkpoint_policies.save_from_both_policies(policy, named)


# Of "auto", which a run replaces by one of the others (`analysis.rematerialization`), it is what
# networks have that are not trained.
POLICIES: dict[str, Policy | None] = {
    "auto": None,
    "none": None,
    "norms": _and_named(_costly, GATED),
    "elementwise": _and_named(_costly),
    "wide": _and_named(_costly_and_narrow),
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "block": jax.checkpoint_policies.nothing_saveable,
}
