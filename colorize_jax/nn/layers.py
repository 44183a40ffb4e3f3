"""The small layers that every network here is made of."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from colorize_jax.types import Array

# Branches that end in a sum start close to the identity, but not at zero: a zero kernel would stop the first
# gradient of everything behind it.
near_zero_init = nn.initializers.variance_scaling(1e-4, "fan_in", "truncated_normal")


def sinusoid(x: Array, dim: int, max_period: float = 10_000.0) -> Array:
    """Embeds scalars as [cos, sin] of `dim // 2` geometric frequencies, in float32.

    Args:
        x: (...,) any real numbers: timesteps, pixels, scores.
        dim: even size of the embedding.

    Returns:
        (..., dim) float32.
    """
    half = dim // 2
    frequencies = max_period ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = jnp.asarray(x, jnp.float32)[..., None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class Conv(nn.Module):
    """A square convolution with the symmetric zero padding of PyTorch's `Conv2d(k, padding=k // 2)`."""

    features: int
    kernel_size: int = 3
    stride: int = 1
    kernel_init: Any = nn.initializers.lecun_normal()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        k, pad = self.kernel_size, self.kernel_size // 2
        kernel = self.param("kernel", self.kernel_init, (k, k, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            (self.stride, self.stride),
            ((pad, pad), (pad, pad)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + bias.astype(self.dtype)


class LoRADense(nn.Module):
    """A dense layer y = Wx with optional labelled low-rank additions: + scale * up(down(x)).

    Attributes:
        loras: (label, rank) pairs; their kernels lie beside the base kernel as lora_down_LABEL, lora_up_LABEL.
    """

    features: int
    use_bias: bool = True
    loras: tuple[tuple[str, int], ...] = ()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, lora_scales: dict[str, Array] | None = None) -> Array:
        """Args: x (..., C_in); lora_scales: scale of each label, 1 where a label is not named."""
        kernel_init = nn.initializers.lecun_normal()
        kernel = self.param("kernel", kernel_init, (x.shape[-1], self.features))
        y = x.astype(self.dtype) @ kernel.astype(self.dtype)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            y = y + bias.astype(self.dtype)
        for label, rank in self.loras:
            down = nn.Dense(rank, use_bias=False, dtype=self.dtype, name=f"lora_down_{label}")
            up = nn.Dense(
                self.features,
                use_bias=False,
                dtype=self.dtype,
                kernel_init=nn.initializers.zeros,
                name=f"lora_up_{label}",
            )
            scale = jnp.asarray((lora_scales or {}).get(label, 1.0), self.dtype)
            y = y + scale * up(down(x))
        return y


class MLP(nn.Module):
    """Linear, SiLU, Linear under the published names `{prefix}_0` and `{prefix}_2` of its parent's choice."""

    features: Sequence[int]
    names: Sequence[str] = ("0", "2")
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.Dense(self.features[0], dtype=self.dtype, name=self.names[0])(x)
        return nn.Dense(self.features[1], dtype=self.dtype, name=self.names[1])(nn.silu(x))


def group_norm(epsilon: float, dtype: Any, num_groups: int = 32, name: str | None = None):
    """GroupNorm with statistics in float32."""
    return nn.GroupNorm(num_groups=num_groups, epsilon=epsilon, dtype=dtype, name=name)


def layer_norm(dtype: Any, name: str | None = None):
    """LayerNorm, eps 1e-5, with statistics in float32."""
    return nn.LayerNorm(epsilon=1e-5, dtype=dtype, name=name)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, eps 1e-6, in float32."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        x32 = x.astype(jnp.float32)
        x32 = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + 1e-6)
        return (x32 * scale).astype(self.dtype)
