"""Labelled low-rank additions to dense layers, applied beside the kernel or merged into it."""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp

from colorize_jax.nn.layers import Dense
from colorize_jax.nn.quantized import Rounded
from colorize_jax.types import Array, Params

DOWN, UP = "lora_down_", "lora_up_"


class LoRADense(Dense):
    """A dense layer y = Wx with optional labelled low-rank additions: + scale * up(down(x)).

    Attributes:
        loras: (label, rank) pairs; their kernels lie beside the base kernel as lora_down_LABEL and
            lora_up_LABEL. Those begin at noise of deviation 1 / rank and at zero.
    """

    loras: tuple[tuple[str, int], ...] = ()

    @nn.compact
    def __call__(self, x: Array | Rounded, lora_scales: Mapping[str, Array] | None = None) -> Array:
        """Args: x (..., C_in); lora_scales: scale of each label, 1 where a label is not named."""
        y = super().__call__(x)
        wide = x.wide if isinstance(x, Rounded) else x
        for label, rank in self.loras:
            down = nn.Dense(
                rank,
                use_bias=False,
                dtype=self.dtype,
                kernel_init=nn.initializers.normal(1 / rank),
                name=f"lora_down_{label}",
            )
            up = nn.Dense(
                self.features,
                use_bias=False,
                dtype=self.dtype,
                kernel_init=nn.initializers.zeros,
                name=f"lora_up_{label}",
            )
            scale = jnp.asarray((lora_scales or {}).get(label, 1.0), self.dtype)
            y = y + scale * up(down(wide))
        return y


def merge_loras(params: Params, scales: Mapping[str, float]) -> Params:
    """Fold every addition into its kernel, W + scale * down up, and drop it from the tree.

    Args:
        params: any tree of nested dicts; kernels may have a leading axis of blocks.
        scales: label -> scale; 1 where a label is not named.
    """
    if not isinstance(params, Mapping):
        return params
    labels = [name.removeprefix(DOWN) for name in params if name.startswith(DOWN)]
    merged = {
        name: merge_loras(value, scales)
        for name, value in params.items()
        if not name.startswith((DOWN, UP))
    }
    for label in labels:
        down, up = params[DOWN + label]["kernel"], params[UP + label]["kernel"]
        addition = scales.get(label, 1.0) * jnp.matmul(
            jnp.asarray(down, jnp.float32), jnp.asarray(up, jnp.float32)
        )
        kernel = merged["kernel"]
        merged["kernel"] = (jnp.asarray(kernel, jnp.float32) + addition).astype(kernel.dtype)
    return merged
