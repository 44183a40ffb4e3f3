"""The basic layers of all networks."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.nn.quantized import ROUNDED, Rounded, multiply
from colorize_jax.sharding import gather
from colorize_jax.types import Array

LAYER_NORM_EPSILON = 1e-5

# Residual branches start near zero, but not at zero: a zero kernel would give everything before it
# in the branch no gradient in the first step.
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
    # A pixel size times a frequency is a large angle: the last bit of the frequency shows in the
    # embedding. Rounding the exponents to float32 in this order keeps to the published bits.
    exponents = np.float32(-math.log(max_period)) * np.arange(half, dtype=np.float32)
    frequencies = np.exp((exponents / np.float32(half)).astype(np.float64)).astype(np.float32)
    angles = jnp.asarray(x, jnp.float32)[..., None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def size_embedding(size: Array, score: Array, dim: int) -> Array:
    """Embeds an image's size and aesthetic score: [sinusoid(size), sinusoid(score)].

    Args:
        size: (B,) pixels; at inference sqrt(H W).
        score: (B,) aesthetic score, about 0..10; at inference 7.
        dim: even size of each half.

    Returns:
        (B, 2 dim) float32.
    """
    return jnp.concatenate([sinusoid(size, dim), sinusoid(score, dim)], axis=-1)


class Dense(nn.Module):
    """A dense layer whose kernel's storage may be sharded (see `sharding`).

    Of an input that is `Rounded` the product is one of 8 bits.
    """

    features: int
    use_bias: bool = True
    kernel_init: Any = nn.initializers.lecun_normal()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array | Rounded) -> Array:
        if not isinstance(x, Rounded):
            x = x.astype(self.dtype)
        if self.has_variable("params", ROUNDED):
            kernel = self.get_variable("params", ROUNDED)
        else:
            kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
            kernel = gather(kernel.astype(self.dtype), self.path)
        y = multiply(x, kernel)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            y = y + bias.astype(self.dtype)
        return y


class Conv(nn.Module):
    """A square convolution, padded by k // 2 zeros on all sides unless `padding` says otherwise.

    The storage of its kernel may be sharded (see `sharding`).
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    padding: tuple[int, int] | None = None
    use_bias: bool = True
    kernel_init: Any = nn.initializers.lecun_normal()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        k, pad = self.kernel_size, self.kernel_size // 2
        kernel = self.param("kernel", self.kernel_init, (k, k, x.shape[-1], self.features))
        x, whole = x.astype(self.dtype), gather(kernel.astype(self.dtype), self.path)
        if k == self.stride == 1 and self.padding is None:
            y = x @ whole[0, 0]  # cuDNN's convolutions want kernels transposed, products do not
        else:
            y = jax.lax.conv_general_dilated(
                x,
                whole,
                (self.stride, self.stride),
                (self.padding or (pad, pad),) * 2,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            y = y + bias.astype(self.dtype)
        return y


def group_norm(epsilon: float, dtype: Any, num_groups: int = 32, name: str | None = None):
    """GroupNorm with statistics in float32."""
    return nn.GroupNorm(num_groups=num_groups, epsilon=epsilon, dtype=dtype, name=name)


@jax.custom_vjp
def gelu(x: Array) -> Array:
    """The exact GELU, x * (1 + erf(x / sqrt 2)) / 2.

    `jax.nn.gelu` takes erfc for 1 + erf, whose instructions take longer on GPUs than memory does.
    On TPUs that form is the better one: with float32 inside, products are written as float32.
    """
    return jax.lax.platform_dependent(x, cuda=_by_erf, default=_by_erfc)


def _by_erf(x: Array) -> Array:
    x32 = x.astype(jnp.float32)
    return (0.5 * x32 * (1 + jax.lax.erf(x32 * math.sqrt(0.5)))).astype(x.dtype)


def _by_erfc(x: Array) -> Array:
    return nn.gelu(x, approximate=False)


def _gelu_forward(x: Array) -> tuple[Array, Array]:
    return gelu(x), x


def _gelu_backward(x: Array, gradient: Array) -> tuple[Array]:
    def of(form: Any) -> Any:
        return lambda x, gradient: jax.vjp(form, x)[1](gradient)[0]

    return (jax.lax.platform_dependent(x, gradient, cuda=of(_by_erf), default=of(_by_erfc)),)


gelu.defvjp(_gelu_forward, _gelu_backward)


class LayerNorm(nn.Module):
    """LayerNorm, eps 1e-5, with statistics in float32."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return _normalize(x, scale, bias).astype(self.dtype)

    def largest(self) -> Array:
        """A magnitude () that no value of the output exceeds, whatever the input."""
        scale, bias = (self.get_variable("params", name) for name in ("scale", "bias"))
        normed = math.sqrt(scale.shape[-1])  # one value takes all of the variance
        return normed * jnp.max(jnp.abs(scale)) + jnp.max(jnp.abs(bias))


@jax.custom_vjp
def _normalize(x: Array, scale: Array, bias: Array) -> Array:
    """The norm over the last axis, in float32.

    A mean that is subtracted before squares are taken is what XLA makes one kernel of on GPUs; with
    sums of x and of its squares side by side it makes three. Backward, the sums are faster.
    """
    x32 = x.astype(jnp.float32)
    centered = x32 - jnp.mean(x32, -1, keepdims=True)
    variance = jnp.mean(jnp.square(centered), -1, keepdims=True)
    return centered * jax.lax.rsqrt(variance + LAYER_NORM_EPSILON) * scale + bias


def _normalize_by_sums(x: Array, scale: Array, bias: Array) -> Array:
    x32 = x.astype(jnp.float32)
    mean = jnp.mean(x32, -1, keepdims=True)
    variance = jnp.maximum(0, jnp.mean(jnp.square(x32), -1, keepdims=True) - jnp.square(mean))
    factor = jax.lax.rsqrt(variance + LAYER_NORM_EPSILON) * scale
    return (x32 - mean) * factor + bias


def _normalize_forward(x: Array, scale: Array, bias: Array) -> tuple[Array, tuple[Array, ...]]:
    return _normalize(x, scale, bias), (x, scale, bias)


def _normalize_backward(saved: tuple[Array, ...], gradient: Array) -> tuple[Array, ...]:
    return jax.vjp(_normalize_by_sums, *saved)[1](gradient)


_normalize.defvjp(_normalize_forward, _normalize_backward)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, eps 1e-6, in float32."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        x32 = x.astype(jnp.float32)
        x32 = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + 1e-6)
        return (x32 * scale).astype(self.dtype)


class MLP(nn.Module):
    """Linear to `features`, exact GELU, linear back to the input's width."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        hidden = Dense(self.features, dtype=self.dtype, name="fc1")(x)
        hidden = gelu(hidden)
        return Dense(x.shape[-1], dtype=self.dtype, name="fc2")(hidden)
