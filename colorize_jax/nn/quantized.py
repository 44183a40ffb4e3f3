"""Products of 8 bits, of which libraries do twice as many a second as of 16.

What a product multiplies is rounded to float8 (E4M3) or int8, and nothing has to be calibrated:

    float8    one scale for all of an input, from what its LayerNorm can put out at most, and one
              for all of a kernel. A number keeps its relative precision wherever it lies in the
              range, and the product itself applies scales and bias: no pass over memory is added.
    int8      a scale for every row of an input and every column of a kernel, from the largest
              value: all of them share one absolute precision, and one scale would lose small rows.

Rounded are the inputs of those products that read a LayerNorm's output, two thirds of the FLOPs
of a transformer block's dense layers: GEGLU's projection, queries, and keys and values of
self-attention.

Training rounds the forward product and the gradient of its input; the kernel's gradient, a sum over
all tokens, is taken in the module's own dtype (Wortsman et al. 2023, "Stable and low-precision
training for large-scale vision-language models").
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Self

import flax.struct
import jax
import jax.numpy as jnp

from colorize_jax.sharding import ROUNDED
from colorize_jax.types import Array, Params

WIDE = "dtype"  # products in the module's own dtype
PRODUCTS = (WIDE, "float8", "int8")


@flax.struct.dataclass
class Rounded:
    """An input or a kernel of 8 bits: values * scale is what it stands for.

    Attributes:
        values: (..., C) float8 or int8.
        scale: float32, () or of every row (..., 1).
        wide: (..., C), what was rounded, to which an input's gradient goes; of kernels None.
    """

    values: Array
    scale: Array
    wide: Array | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def rows(self, count: int) -> Self:
        """The first rows of a batch of inputs."""
        scale = self.scale[:count] if self.scale.ndim else self.scale
        return type(self)(self.values[:count], scale, self.wide[:count])


def round_normed(x: Array, largest: Array, products: str) -> Array | Rounded:
    """Round what a norm has put out.

    Args:
        x: (..., C).
        largest: () that the magnitude of no value exceeds.
        products: one of `PRODUCTS`; `WIDE` leaves x as it is.
    """
    if products == WIDE:
        return x
    narrow = _round_rows if products == "int8" else partial(_round_float, largest=largest)
    return Rounded(*narrow(jax.lax.stop_gradient(x)), x)


def round_kernel(kernel: Array, products: str) -> Rounded:
    """(..., C, F) -> (..., F, C): products read both sides along C, as libraries want it."""
    kernel = jnp.swapaxes(kernel, -1, -2)
    if products == "int8":
        return Rounded(*_round_rows(kernel))
    values, scale = _round_float(kernel, jnp.max(jnp.abs(kernel), (-2, -1), keepdims=True))
    return Rounded(values, scale[..., 0, 0])


def multiply(x: Array | Rounded, kernel: Array | Rounded) -> Array:
    """x (..., C) times a kernel (C, F), or one that is rounded (F, C), in x's dtype.

    Of 8 bits where x is rounded; otherwise a rounded kernel is widened.
    """
    if isinstance(x, Rounded):
        product = _rounded_product if isinstance(kernel, Rounded) else _rounding_product
        return product(x.wide, kernel, x.values, x.scale)
    if isinstance(kernel, Rounded):
        kernel = _widened(kernel, x.dtype)
    return x @ kernel


def round_kernels(params: Params, products: str) -> Params:
    """Replace kernels by rounded ones where `multiply` is called with them.

    For programs that call a network often with the same parameters: there rounding would be work.

    Args:
        params: a network's, in stacks or not.
        products: one of `PRODUCTS`.
    """
    if products == WIDE:
        return params

    def layer(params: Params) -> Params:
        others = {name: value for name, value in params.items() if name != "kernel"}
        return others | {ROUNDED: round_kernel(params["kernel"], products)}

    def walk(tree: Any, path: tuple[str, ...]) -> Any:
        if isinstance(tree, tuple):
            return tuple(walk(block, path) for block in tree)
        if not isinstance(tree, Mapping):
            return tree
        if path[-2:] in NORMED and "transformer_blocks" in path and "kernel" in tree:
            return layer(tree)
        return {name: walk(value, (*path, name)) for name, value in tree.items()}

    return walk(params, ())


# Layers whose inputs a `TransformerBlock` rounds.
NORMED = frozenset(
    {("attn1", "to_q"), ("attn1", "to_k"), ("attn1", "to_v"), ("attn2", "to_q"), ("net_0", "proj")}
)


def _round_rows(x: Array) -> tuple[Array, Array]:
    """To int8, every row by its largest value."""
    x = x.astype(jnp.float32)
    scale = jnp.maximum(jnp.max(jnp.abs(x), -1, keepdims=True), 1e-30) / 127
    return jnp.round(x / scale).astype(jnp.int8), scale


def _round_float(x: Array, largest: Array, dtype: Any = jnp.float8_e4m3fn) -> tuple[Array, Array]:
    """To float8, everything by one scale."""
    share = jnp.maximum(largest.astype(jnp.float32), 1e-30) / float(jnp.finfo(dtype).max)
    # A power of two: exact in every dtype, and it costs floating-point numbers no precision.
    scale = jnp.ldexp(jnp.float32(1), jnp.ceil(jnp.log2(share)).astype(jnp.int32))
    return (x.astype(jnp.float32) / scale).astype(dtype), scale


def _widened(kernel: Rounded, dtype: Any) -> Array:
    """(F, C) -> (C, F)."""
    return (kernel.values.astype(jnp.float32) * kernel.scale).astype(dtype).T


def _multiply(values: Array, scale: Array, kernel: Rounded, dtype: Any) -> Array:
    contracted = ((values.ndim - 1,), (1,))
    if values.dtype == jnp.int8:
        sums = jax.lax.dot_general(
            values, kernel.values, (contracted, ((), ())), preferred_element_type=jnp.int32
        )
        return (sums.astype(jnp.float32) * scale * kernel.scale[:, 0]).astype(dtype)
    # As XLA wants it written: of this form it makes one product of 8 bits.
    x = values.astype(dtype) * scale.astype(dtype)
    return jax.lax.dot_general(
        x, kernel.values.astype(dtype) * kernel.scale.astype(dtype), (contracted, ((), ()))
    )


@jax.custom_vjp
def _rounding_product(x: Array, kernel: Array, values: Array, scale: Array) -> Array:
    products = "int8" if values.dtype == jnp.int8 else "float8"
    return _multiply(values, scale, round_kernel(kernel, products), x.dtype)


def _forward(x: Array, kernel: Array, values: Array, scale: Array) -> tuple[Array, Any]:
    return _rounding_product(x, kernel, values, scale), (x, kernel, values, scale)


def _backward(kept: Any, gradient: Array) -> tuple[Any, ...]:
    x, kernel, values, scale = kept
    if values.dtype == jnp.int8:
        rounded, other = _round_rows(gradient), round_kernel(kernel.T, "int8")
    else:
        rounded = _round_float(gradient, jnp.max(jnp.abs(gradient)), jnp.float8_e5m2)
        other = round_kernel(kernel.T, "float8")
    to_x = _multiply(*rounded, other, x.dtype)
    rows = tuple(range(x.ndim - 1))
    to_kernel = jax.lax.dot_general(x, gradient.astype(x.dtype), ((rows, rows), ((), ())))
    return to_x, to_kernel.astype(kernel.dtype), jnp.zeros_like(values), jnp.zeros_like(scale)


_rounding_product.defvjp(_forward, _backward)


@jax.custom_vjp
def _rounded_product(x: Array, kernel: Rounded, values: Array, scale: Array) -> Array:
    return _multiply(values, scale, kernel, x.dtype)


def _rounded_forward(
    x: Array, kernel: Rounded, values: Array, scale: Array
) -> tuple[Array, tuple[Rounded, Array, Array]]:
    return _rounded_product(x, kernel, values, scale), (kernel, values, scale)


def _rounded_backward(kept: tuple[Rounded, Array, Array], gradient: Array) -> tuple[Any, ...]:
    """To the input alone: kernels that were rounded before have no gradient."""
    zeros = jax.tree.map(jnp.zeros_like, kept)
    return gradient @ _widened(kept[0], gradient.dtype).T, *zeros


_rounded_product.defvjp(_rounded_forward, _rounded_backward)
