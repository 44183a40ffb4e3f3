"""FLOPs of a traced function: 2 per multiply-add of matrix products and convolutions.

Everything else (norms, activations, the optimizer) counts nothing, as is usual for model FLOPs.
The traced program is counted, because its loops have known lengths: from shapes alone, without
weights or compilation, and gives the same number on every platform.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.extend import core
from jax.interpreters import partial_eval

# Calls of kernels, whose work a trace does not show.
OPAQUE = ("pallas_call", "dot_product_attention", "custom_call", "ffi_call")


def count_flops(
    function: Callable[..., Any],
    *args: Any,
    choose: Callable[[Sequence[int]], int] = max,
    while_trips: int = 1,
) -> int:
    """FLOPs of `function(*args)`, all devices together.

    Dead code is left out, as by the compiler. Computation repeated by rematerialization counts: to
    measure utilization, count a function without it.

    Args:
        function: to trace; what is no array is bound in it.
        args: arrays, or their shapes (`jax.ShapeDtypeStruct`).
        choose: which branch of a conditional counts, from the counts of all, e.g. `min`.
        while_trips: how often a loop without a static length runs.

    Raises:
        ValueError: the function calls a kernel that cannot be counted; pick an implementation of
            plain JAX operations for the count.
    """
    return count_jaxpr(trace(function, *args), choose, while_trips)


def trace(function: Callable[..., Any], *args: Any) -> core.Jaxpr:
    """The program of `function(*args)`, without what does not contribute to the result."""
    closed = jax.make_jaxpr(function)(*args)
    return partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))[0]


def count_jaxpr(
    jaxpr: core.Jaxpr, choose: Callable[[Sequence[int]], int] = max, while_trips: int = 1
) -> int:
    """FLOPs of a program that `trace` returned; arguments as in `count_flops`."""

    def inner(jaxpr: core.Jaxpr) -> int:
        return count_jaxpr(jaxpr, choose, while_trips)

    total = 0
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name == "dot_general":
            total += _dot_flops(eqn)
        elif name == "conv_general_dilated":
            total += _conv_flops(eqn)
        elif name == "cond":
            total += choose([inner(branch.jaxpr) for branch in eqn.params["branches"]])
        elif any(opaque in name for opaque in OPAQUE):
            raise ValueError(
                f"got {name}, a kernel whose FLOPs cannot be counted, expected plain operations; "
                "count with another implementation"
            )
        else:
            total += _repeats(eqn, while_trips) * sum(map(inner, subjaxprs(eqn)))
    return total


def _repeats(eqn: core.JaxprEqn, while_trips: int) -> int:
    """How often an operation runs what it holds."""
    name = eqn.primitive.name
    if name == "scan":
        return eqn.params["length"]
    if name == "shard_map":
        return eqn.params["mesh"].size
    return while_trips if name == "while" else 1


def subjaxprs(eqn: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    """The programs that an operation holds."""
    for value in jax.tree.leaves(
        list(eqn.params.values()), is_leaf=lambda x: isinstance(x, core.Jaxpr | core.ClosedJaxpr)
    ):
        if isinstance(value, core.ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, core.Jaxpr):
            yield value


def equations(jaxpr: core.Jaxpr) -> Iterator[core.JaxprEqn]:
    """Every operation of a program, those of inner programs too."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in subjaxprs(eqn):
            yield from equations(inner)


def _dot_flops(eqn: core.JaxprEqn) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    left = eqn.invars[0].aval.shape
    return 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)


def _conv_flops(eqn: core.JaxprEqn) -> int:
    """Padding counts as input; the zeros between inputs of a transposed convolution do not."""
    kernel = eqn.invars[1].aval.shape
    out_channels = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
    products = math.prod(eqn.outvars[0].aval.shape) * math.prod(kernel) // out_channels
    return 2 * products // math.prod(eqn.params["lhs_dilation"])
