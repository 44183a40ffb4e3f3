"""Products of 8 bits, of which libraries do twice as many a second as of 16.

What a product multiplies is rounded to float8 (E4M3) or int8, and nothing has to be calibrated:

    float8    one scale for all of an input, from what its LayerNorm can put out at most, and one
              for all of a kernel. A number keeps its relative precision wherever it lies in the
              range, and the product itself applies scales and bias: no pass over memory is added.
    int8      a scale for every row of an input and every column of a kernel, from the largest
              value: all of them share one absolute precision, and one scale would lose small rows.

Rounded are the inputs of those products that read a LayerNorm's output, where two thirds of a
transformer block's FLOPs are: GEGLU's projection, queries, and keys and values of self-attention.

Training rounds the forward product and the gradient of its input; the kernel's gradient, a sum over
all tokens, is taken in the module's own dtype (Wortsman et al. 2023, "Stable and low-precision
training for large-scale vision-language models").
"""

from collections.abc import Mapping
from typing import Any, Self

import flax.struct
import jax
import jax.numpy as jnp

from colorize_jax.types import Array, Params

WIDE = "dtype"  # products in the module's own dtype
PRODUCTS = (WIDE, "float8", "int8")
ROUNDED = "rounded_kernel"  # a layer's parameter, instead of "kernel"


@flax.struct.dataclass
class Rounded:
    """An input or a kernel of 8 bits: values * scale is what it stands for.

    Attributes:
        values: (..., C) float8 or int8.
        scale: float32, () or of every row (..., 1).
        wide: (..., C), what was rounded, to which gradients go; None for kernels that have none.
    """

    values: Array
    scale: Array
    wide: Array | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def rows(self, count: int) -> Self:
        """The first rows of a batch."""
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
    values, scale = _round(jax.lax.stop_gradient(x), products, largest)
    return Rounded(values, scale, x)


def round_kernel(kernel: Array, products: str) -> Rounded:
    """(..., C, F) -> (..., F, C): products read both sides along C, as libraries want it."""
    kernel = jnp.swapaxes(kernel, -1, -2)
    largest = jnp.max(jnp.abs(kernel), (-2, -1), keepdims=True).astype(jnp.float32)
    values, scale = _round(kernel, products, largest)
    return Rounded(values, scale[..., 0, 0] if products == "float8" else scale)


def multiply(x: Array | Rounded, kernel: Array | Rounded) -> Array:
    """x (..., C) times a kernel (C, F), or one that is rounded (F, C), in x's dtype.

    Of 8 bits where x is rounded; otherwise a rounded kernel is widened.
    """
    if isinstance(x, Rounded):
        if isinstance(kernel, Rounded):
            return _multiply(x.values, x.scale, kernel, x.wide.dtype)
        return _rounding_product(x.wide, kernel, x.values, x.scale)
    if isinstance(kernel, Rounded):
        kernel = (kernel.values.astype(jnp.float32) * kernel.scale).astype(x.dtype).T
    return x @ kernel


def round_kernels(params: Params, products: str) -> Params:
    """Replace kernels by rounded ones where `multiply` is called with them.

    For programs that call a network often with the same parameters: there rounding would be work,
    and wide kernels memory.

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


def _round(x: Array, products: str, largest: Array) -> tuple[Array, Array]:
    x = x.astype(jnp.float32)
    if products == "int8":
        scale = jnp.maximum(jnp.max(jnp.abs(x), -1, keepdims=True), 1e-30) / 127
        return jnp.round(x / scale).astype(jnp.int8), scale
    return _round_float(x, largest, jnp.float8_e4m3fn)


def _round_float(x: Array, largest: Array, dtype: Any) -> tuple[Array, Array]:
    # A power of two: exact in every dtype, and it costs floating-point numbers no precision.
    exponent = jnp.ceil(jnp.log2(jnp.maximum(largest, 1e-30) / float(jnp.finfo(dtype).max)))
    scale = jnp.exp2(exponent).astype(jnp.float32)
    return (x / scale).astype(dtype), scale


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
        rounded = _round(gradient, "int8", jnp.zeros(()))
        other = round_kernel(kernel.T, "int8")
    else:
        wide = gradient.astype(jnp.float32)
        rounded = _round_float(wide, jnp.max(jnp.abs(wide)), jnp.float8_e5m2)
        other = round_kernel(kernel.T, "float8")
    to_x = _multiply(*rounded, other, x.dtype)
    rows = tuple(range(x.ndim - 1))
    to_kernel = jax.lax.dot_general(x, gradient.astype(x.dtype), ((rows, rows), ((), ())))
    return to_x, to_kernel.astype(kernel.dtype), jnp.zeros_like(values), jnp.zeros_like(scale)


_rounding_product.defvjp(_forward, _backward)
