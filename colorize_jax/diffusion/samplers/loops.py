"""The loops that samplers share; a sampler itself is its update rule alone.

The loop contains the only call of the model, so that a network is traced once whatever the sampler.
The number of steps is traced: another one, within the length of `sigmas`, needs no recompilation.
It runs as a whole, or in parts, between which the host has the state in its hands (`Progress`).

Samplers work in the "variance exploding" scale of Karras et al. 2022, x = z_0 + sigma * noise, and
see the model as `denoise(x, sigma) -> x0`, the expected clean latents.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from colorize_jax.types import Array

# (x (B, ...), sigma () or (B,)) -> x0 (B, ...)
Denoise = Callable[[Array, Array], Array]
# number of the draw, () or (B,) -> standard normal noise (B, ...)
NoiseFn = Callable[[Array], Array]
# (x (B, ...), its sigma () or (B,), number of the finished step, same shape) -> x
AfterStep = Callable[[Array, Array, Array], Array]


@flax.struct.dataclass
class Progress:
    """A loop that is on its way: all that its next part needs.

    Attributes:
        done: () int32 evaluations of the model so far.
        going: () bool, whether more are to come.
        carry: the sampler's own state.
        expected: (B, ...) clean latents that the latest evaluation of a part expected; None after
            a whole loop.
    """

    done: Array
    going: Array
    carry: Any
    expected: Array | None = None


@flax.struct.dataclass
class Part:
    """Some evaluations of a loop; first and last are traced, so that all parts are one program.

    Attributes:
        progress: where to go on; None: nowhere yet, and the part makes no evaluation.
        until: () int32 number of evaluations after which to stop.
    """

    progress: Progress | None = None
    until: Array | int = 0


@dataclass(frozen=True)
class Run:
    """The arguments of a sampler beside its start.

    Attributes:
        denoise: the model.
        sigmas: (M + 1,) descending noise levels; those of `num_steps` steps, then padding.
        num_steps: () int32, at most M.
        noise_fn: fresh noise by number of the draw; only stochastic samplers draw.
        after_step: applied to x after each whole step.
        per_sample: adaptive step sizes for each sample, so that it does not depend on its batch;
            otherwise one for the whole batch, as in k-diffusion.
        evaluations: (E, 3) table of samplers that leave the grid of `sigmas` (PNDM); else None.
        prediction_type: "v" or "eps", for the sampler that combines raw outputs (PNDM).
        part: the evaluations to make; None: all.
    """

    denoise: Denoise
    sigmas: Array
    num_steps: Array
    noise_fn: NoiseFn
    after_step: AfterStep = lambda x, sigma, step: x
    per_sample: bool = True
    evaluations: Array | None = None
    prediction_type: str = "v"
    part: Part | None = None


# What a sampler returns: x (B, ...) where the loop stands, and where that is.
Outcome = tuple[Array, Progress]


def loop(
    run: Run,
    count: Array | int,
    body: Callable[[Array, Any], tuple[Any, Array]],
    carry: Any,
    x: Array,
    going: Callable[[Any], Array] | None = None,
) -> Progress:
    """Run `carry, x0 = body(k, carry)` for k = 0, 1, ..., or the part of it that `run` asks for.

    Args:
        run: says which part.
        count: most evaluations.
        body: one evaluation of the model, and what it expects.
        carry: before the first one.
        x: (B, ...) of x0's shape.
        going: whether another one is needed, of samplers that decide themselves.
    """

    def more(k: Array, carry: Any) -> Array:
        return k < count if going is None else (k < count) & going(carry)

    if run.part is None and going is None:
        carry = jax.lax.fori_loop(0, count, lambda k, carry: body(k, carry)[0], carry)
        return Progress(jnp.int32(count), jnp.bool_(False), carry)
    if run.part is None:
        k, carry = jax.lax.while_loop(
            lambda now: more(*now),
            lambda now: (now[0] + 1, body(*now)[0]),
            (jnp.int32(0), carry),
        )
        return Progress(k, more(k, carry), carry)
    if run.part.progress is None:
        # Weak types would become strong in the first part, and the second one another program.
        carry = jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), carry)
        return Progress(jnp.int32(0), jnp.bool_(True), carry, jnp.zeros_like(x))
    before = run.part.progress
    k, carry, expected = jax.lax.while_loop(
        lambda now: more(*now[:2]) & (now[0] < run.part.until),
        lambda now: (now[0] + 1, *body(*now[:2])),
        (before.done, before.carry, before.expected),
    )
    return Progress(k, more(k, carry), carry, expected)


def run_steps(
    run: Run,
    x: Array,
    step: Callable[[Array, Array, Array, Any], tuple[Array, Any]],
    memory: Any = (),
) -> Outcome:
    """Run a sampler that evaluates the model once a step.

    Args:
        run: the problem.
        x: (B, ...) start, at level `run.sigmas[0]`.
        step: `(i, x, x0, memory) -> (next x, memory)` with x at `run.sigmas[i]`, x0 its denoised
            form.
        memory: the state that the rule carries from step to step.

    Returns:
        x (B, ...), in the end at level `run.sigmas[run.num_steps]`, and where the loop stands.
    """

    def body(i, carry):
        x, memory = carry
        x0 = run.denoise(x, run.sigmas[i])
        x, memory = step(i, x, x0, memory)
        return (run.after_step(x, run.sigmas[i + 1], i), memory), x0

    progress = loop(run, run.num_steps, body, (x, memory), x)
    return progress.carry[0], progress


def run_two_stage_steps(
    run: Run,
    x: Array,
    predict: Callable[[Array, Array, Array], tuple[Array, Array]],
    correct: Callable[[Array, Array, Array, Array, Array], Array],
) -> Outcome:
    """Run a sampler that evaluates the model twice a step, and once in a step to level 0.

    The loop goes over evaluations, two to a step, so that the model appears in it once. A step to
    level 0 lands on x0 whatever the rule: Euler's x + (x - x0) / sigma * (0 - sigma).

    Args:
        run: the problem.
        x: (B, ...) start, at level `run.sigmas[0]`.
        predict: `(i, x, x0) -> (point, its level)` where to evaluate again.
        correct: `(i, x, x0, point, x0 of point) -> next x`.

    Returns:
        x (B, ...), in the end at level `run.sigmas[run.num_steps]`, and where the loop stands.
    """
    sigmas = run.sigmas

    def body(k, carry):
        point, sigma, x, x0 = carry
        i = k // 2
        value = run.denoise(point, sigma)

        def finish(x_next):
            x_next = run.after_step(x_next, sigmas[i + 1], i)
            return x_next, sigmas[i + 1], x_next, value

        stages = (
            lambda: (*predict(i, x, value), x, value),
            lambda: finish(correct(i, x, x0, point, value)),
            lambda: finish(value),
        )
        which = jnp.where(k % 2 == 1, 1, jnp.where(sigmas[i + 1] == 0, 2, 0))
        return jax.lax.switch(which, stages), value

    num_evaluations = 2 * run.num_steps - (sigmas[run.num_steps] == 0)
    progress = loop(run, num_evaluations, body, (x, sigmas[0], x, x), x)
    return progress.carry[0], progress


def log_level(sigma: Array) -> Array:
    """Return lambda = -log sigma, the time of exponential integrators; finite at level 0 too."""
    return -jnp.log(jnp.maximum(sigma, 1e-10))


def ancestral_levels(sigma: Array, sigma_next: Array) -> tuple[Array, Array]:
    """Split a step into a deterministic one down to `sigma_down` and fresh noise of `sigma_up`.

    sigma_down^2 + sigma_up^2 = sigma_next^2, with as much fresh noise as the forward process would
    add (eta 1).
    """
    sigma_up = jnp.minimum(
        sigma_next,
        jnp.sqrt(sigma_next**2 * jnp.maximum(sigma**2 - sigma_next**2, 0.0)) / sigma,
    )
    return jnp.sqrt(jnp.maximum(sigma_next**2 - sigma_up**2, 0.0)), sigma_up
