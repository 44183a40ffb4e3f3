"""AdamW or Muon, their schedule and parameter groups; the running average; accumulation.

Trained parameters are float32 master weights: networks cast them where they compute, and the
optimizer never sees another dtype.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from colorize_jax.sharding import STACKED
from colorize_jax.training import trees
from colorize_jax.types import Array, Params

Inputs = TypeVar("Inputs")

# No weight decay for norms and biases. Names decide, because in stacks they have two axes.
NO_DECAY = (r"(^|/)(scale|bias)$",)
# Muon's constants (Jordan 2024). Its updates are scaled to the root mean square of Adam's (arXiv
# 2502.16982), so that both take the same learning rates.
MUON_MOMENTUM = 0.95
MUON_ITERATION = (3.4445, -4.7750, 2.0315)
MUON_ITERATIONS = 5
MUON_RMS = 0.2
# Kernels with fewer channels in or out read or write pixels: Adam updates them.
MUON_MIN_CHANNELS = 32


def learning_rate(
    peak: float,
    total_steps: int,
    *,
    schedule: str = "constant",
    warmup_steps: int = 0,
    final_share: float = 0.0,
) -> optax.Schedule:
    """Return update number (from 0) -> learning rate.

    Args:
        peak: the rate after warm-up.
        total_steps: length of the run.
        schedule: "constant", or "cosine" down to `final_share * peak` at the end.
        warmup_steps: the rate grows linearly over so many updates; the first one is not zero.
        final_share: 0..1.
    """

    def rate(count: Array | int) -> Array:
        count = jnp.asarray(count, jnp.float32)
        warm = jnp.minimum(1.0, (count + 1) / max(warmup_steps, 1))
        if schedule == "constant":
            return peak * warm
        progress = (count - warmup_steps) / max(total_steps - warmup_steps, 1)
        cosine = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(progress, 0.0, 1.0)))
        return peak * warm * (final_share + (1 - final_share) * cosine)

    if schedule not in ("constant", "cosine"):
        raise ValueError(f'got schedule {schedule!r}, expected "constant" or "cosine"')
    return rate


def make_optimizer(
    rate: optax.Schedule,
    *,
    name: str = "adamw",
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    no_decay: Sequence[str] = NO_DECAY,
    groups: Sequence[tuple[str, float]] = (),
    clip_norm: float = 0.0,
    moment_dtype: Any = jnp.float32,
) -> optax.GradientTransformation:
    """Build an optimizer: clip, Adam or Muon, decoupled decay, learning rate.

    Args:
        rate: update number -> learning rate.
        name: "adamw"; or "muon", which makes the updates of kernels orthogonal (`scale_by_muon`)
            and leaves everything else to Adam.
        b1, b2, eps: Adam's.
        weight_decay: multiplied by the learning rate, as in PyTorch's AdamW.
        no_decay: rules (see `trees`) of parameters without decay.
        groups: (rule, multiplier of the learning rate); the first rule that matches counts.
        clip_norm: gradients are clipped to this global norm; 0 turns clipping off.
        moment_dtype: of the first moment; the second, which Muon does not have, stays float32.
    """
    adam = optax.scale_by_adam(b1, b2, eps, mu_dtype=moment_dtype)

    def decayed(params: Params) -> Params:
        return trees.map_paths(lambda path, _: not trees.matches(path, no_decay), params)

    return optax.chain(
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        adam if name == "adamw" else scale_by_muon(adam, moment_dtype),
        optax.add_decayed_weights(weight_decay, mask=decayed),
        _scale_groups(groups),
        optax.scale_by_learning_rate(rate),
    )


def scale_by_muon(
    adam: optax.GradientTransformation, moment_dtype: Any = jnp.float32
) -> optax.GradientTransformation:
    """Muon for kernels, Adam for the rest.

    A kernel (..., in, out) is one matrix with out columns, for a convolution with its spatial axes
    flattened into the rows; each layer of a stack has its own. Five Newton-Schulz iterations make
    the momentum orthogonal, so that all directions of a kernel learn at the same speed.

    Args:
        adam: scales the gradients of everything else.
        moment_dtype: of the momentum.
    """

    def labels(params: Params) -> Params:
        return trees.map_paths(lambda *leaf: "muon" if _is_matrix(*leaf) else "adam", params)

    def axes(params: Params) -> Params:
        return trees.map_paths(_matrix_axes, params)

    orthogonal = contrib.scale_by_muon(
        (MUON_ITERATION,)
        * MUON_ITERATIONS,  # a loop, so that the iteration is compiled once for each kernel
        MUON_ITERATIONS,
        MUON_MOMENTUM,
        mu_dtype=moment_dtype,
        weight_dimension_numbers=axes,
    )

    def scale(updates: Params, params: Params | None = None) -> Params:
        del params
        return trees.map_paths(lambda path, x: _matrix_scale(path, x) * x, updates)

    muon = optax.chain(orthogonal, optax.stateless(scale))
    return optax.partition({"muon": muon, "adam": adam}, labels)


def _is_matrix(path: str, kernel: Array) -> bool:
    return path.endswith("kernel") and min(kernel.shape[-2:]) >= MUON_MIN_CHANNELS


def _matrix_axes(path: str, kernel: Array) -> contrib.MuonDimensionNumbers:
    first = 1 if re.search(STACKED, path) else 0
    last = kernel.ndim - 1
    return contrib.MuonDimensionNumbers(tuple(range(first, last)), (last,))


def _matrix_scale(path: str, kernel: Array) -> float:
    """Factor that gives an orthogonal matrix the root mean square `MUON_RMS`."""
    rows = math.prod(kernel.shape[axis] for axis in _matrix_axes(path, kernel).reduction_axis)
    return MUON_RMS * math.sqrt(max(rows, kernel.shape[-1]))


def _scale_groups(groups: Sequence[tuple[str, float]]) -> optax.GradientTransformation:
    def multiplier(path: str) -> float:
        return next((factor for rule, factor in groups if trees.matches(path, [rule])), 1.0)

    def scale(updates: Params, params: Params | None = None) -> Params:
        del params
        return trees.map_paths(lambda path, update: multiplier(path) * update, updates)

    return optax.stateless(scale) if groups else optax.identity()


def ema_decay(count: Array | int, decay: float) -> Array:
    """Return the decay of the running average at update `count` (from 0): smaller early on."""
    count = jnp.asarray(count, jnp.float32)
    return jnp.minimum(decay, (1 + count) / (10 + count))


def update_ema(ema: Params, params: Params, count: Array | int, decay: float) -> Params:
    """Move the running average towards the parameters after update `count` (from 0)."""
    return optax.incremental_update(params, ema, 1 - ema_decay(count, decay))


def micro_batches(inputs: Inputs, count: int) -> Inputs:
    """Give every leaf (B, ...) a leading axis of micro-batches: (count, B / count, ...).

    Micro-batch i holds rows i, i + count, ...: every device keeps its own rows of a batch that is
    sharded in contiguous blocks.
    """

    def divide(x: Array) -> Array:
        if x.shape[0] % count:
            raise ValueError(f"got a batch of {x.shape[0]}, expected a multiple of {count}")
        return jnp.swapaxes(x.reshape(x.shape[0] // count, count, *x.shape[1:]), 0, 1)

    return jax.tree.map(divide, inputs)


def accumulate(function: Callable[[Inputs], Any], inputs: Inputs, count: int) -> Any:
    """Return the mean of `function` over micro-batches, computed one after another.

    Args:
        function: micro-batch -> tree of arrays that are means over samples, e.g. gradients, losses.
        inputs: tree of arrays (B, ...); operations across samples (rolls) must come before.
        count: number of micro-batches; 1 calls `function` directly.
    """
    if count == 1:
        return function(inputs)
    batches = micro_batches(inputs, count)
    first = jax.tree.map(lambda x: x[0], batches)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, first))

    def add(total: Any, batch: Inputs) -> tuple[Any, None]:
        return jax.tree.map(lambda t, x: t + x / count, total, function(batch)), None

    return jax.lax.scan(add, zeros, batches)[0]
