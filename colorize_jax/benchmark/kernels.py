"""A device's measured ceilings (matrix product, copy), and attention relative to them."""

import functools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from colorize_jax.nn.attention import KERNELS, attention
from colorize_jax.types import Array

SECONDS = 0.5  # that a measurement lasts about
CHECKED_QUERIES = 257  # odd: what is padded is checked
GRADIENT_COST = 3  # forward and backward, in forwards, nothing counted twice


@dataclass(frozen=True)
class Shape:
    """One of the model's attentions.

    Attributes:
        name: where it is.
        queries, keys: tokens.
        heads, channels: of them.
    """

    name: str
    queries: int
    keys: int
    heads: int
    channels: int


# Those of the published networks at 1024 px.
SHAPES = (
    Shape("UNet, 64 x 64", 4096, 4096, 10, 64),
    Shape("UNet, 32 x 32", 1024, 1024, 20, 64),
    Shape("UNet, 64 x 64 over a reference", 4096, 196, 10, 64),
    Shape("sketch encoder, 128 x 128", 16384, 22529, 10, 128),
    Shape("reference projection", 257, 257, 10, 128),
    Shape("CLIP", 257, 257, 16, 104),
)
SMALL_SHAPES = (Shape("square", 256, 256, 2, 64), Shape("odd", 64, 257, 2, 64))


def matrix_product(size: int) -> dict[str, Any]:
    """FLOP/s of a square product in bfloat16, the ceiling of all others."""
    # Random numbers: a product of constants draws less power and runs faster than any real one.
    x = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16)
    seconds = time_call(jax.jit(lambda x: x @ x), x)
    return {"seconds": seconds, "flops_per_second": 2 * size**3 / seconds}


def copy(count: int) -> dict[str, Any]:
    """Bytes/s that a device reads and writes, of `count` float32 numbers."""
    x = jnp.ones(count, jnp.float32)
    seconds = time_call(jax.jit(lambda x: x + 1), x)
    return {"seconds": seconds, "bytes_per_second": 2 * 4 * count / seconds}


def attentions(
    shapes: tuple[Shape, ...], batch: int, dtype: Any
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Measurements of attention: what it is of, and a call that makes it.

    Args:
        shapes: see `SHAPES`.
        batch: samples.
        dtype: of queries, keys and values.
    """
    kernel = KERNELS.get(jax.default_backend())
    for implementation in filter(None, (kernel, "blockwise")):
        for shape in shapes:
            for backward in (False, True):
                way = "forward and backward" if backward else "forward"
                call = functools.partial(_attention, shape, batch, dtype, implementation, backward)
                yield f"{shape.name}, {implementation}, {way}", call


def _attention(
    shape: Shape, batch: int, dtype: Any, implementation: str, backward: bool
) -> dict[str, Any]:
    function = _gradients if backward else attention
    q, k, v = _arrays(shape, batch, dtype)
    call = jax.jit(functools.partial(function, implementation=implementation))
    seconds = time_call(call, q, k, v)
    flops = 4 * batch * math.prod((shape.queries, shape.keys, shape.heads, shape.channels))
    return {
        "seconds": seconds,
        "flops_per_second": flops * (GRADIENT_COST if backward else 1) / seconds,
        "error": _error(call, function, *_arrays(shape, 1, dtype, CHECKED_QUERIES)),
    }


def _error(call: Callable[..., Any], function: Any, *arrays: Array) -> float:
    """Largest difference from plain attention in float32, as a share of the largest value."""
    plain = jax.jit(functools.partial(function, implementation="plain"))
    with jax.default_matmul_precision("highest"):
        expected = plain(*(x.astype(jnp.float32) for x in arrays))
    pairs = zip(jax.tree.leaves(call(*arrays)), jax.tree.leaves(expected), strict=True)
    return max(
        float(jnp.max(jnp.abs(a.astype(jnp.float32) - b)) / jnp.max(jnp.abs(b))) for a, b in pairs
    )


def _gradients(q: Array, k: Array, v: Array, implementation: str) -> Any:
    def loss(q: Array, k: Array, v: Array) -> Array:
        out = attention(q, k, v, implementation=implementation)
        return jnp.sum(jnp.sin(out.astype(jnp.float32)))

    return jax.grad(loss, (0, 1, 2))(q, k, v)


def _arrays(shape: Shape, batch: int, dtype: Any, most: int | None = None) -> tuple[Array, ...]:
    queries = shape.queries if most is None else min(most, shape.queries)
    tokens = (queries, shape.keys, shape.keys)
    streams = jax.random.split(jax.random.key(0), 3)
    return tuple(
        jax.random.normal(stream, (batch, n, shape.heads, shape.channels), dtype)
        for stream, n in zip(streams, tokens, strict=True)
    )


def time_call(call: Callable[..., Any], *args: Any) -> float:
    """Mean seconds of a call, of as many as go one after another in about `SECONDS`."""
    jax.block_until_ready(call(*args))  # compiles it
    start = time.perf_counter()
    jax.block_until_ready(call(*args))
    count = max(3, min(1000, int(SECONDS / max(time.perf_counter() - start, 1e-6))))
    start = time.perf_counter()
    for _ in range(count):
        result = call(*args)
    jax.block_until_ready(result)
    return (time.perf_counter() - start) / count
