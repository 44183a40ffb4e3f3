"""The loops that samplers share; a sampler itself is its update rule alone.

The loop contains the only call of the model, so that a network is traced once whatever the sampler.
The number of steps is traced: another one, within the length of `sigmas`, needs no recompilation.

Samplers work in the "variance exploding" scale of Karras et al. 2022, x = z_0 + sigma * noise, and
see the model as `denoise(x, sigma) -> x0`, the expected clean latents.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from colorize_jax.types import Array

# (x (B, ...), sigma () or (B,)) -> x0 (B, ...)
Denoise = Callable[[Array, Array], Array]
# number of the draw, () or (B,) -> standard normal noise (B, ...)
NoiseFn = Callable[[Array], Array]
# (x (B, ...), its sigma () or (B,), number of the finished step, same shape) -> x
AfterStep = Callable[[Array, Array, Array], Array]


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
    """

    denoise: Denoise
    sigmas: Array
    num_steps: Array
    noise_fn: NoiseFn
    after_step: AfterStep = lambda x, sigma, step: x
    per_sample: bool = True
    evaluations: Array | None = None
    prediction_type: str = "v"


def run_steps(
    run: Run,
    x: Array,
    step: Callable[[Array, Array, Array, Any], tuple[Array, Any]],
    memory: Any = (),
) -> Array:
    """Run a sampler that evaluates the model once a step.

    Args:
        run: the problem.
        x: (B, ...) start, at level `run.sigmas[0]`.
        step: `(i, x, x0, memory) -> (next x, memory)` with x at `run.sigmas[i]`, x0 its denoised
            form.
        memory: the state that the rule carries from step to step.

    Returns:
        x (B, ...) at level `run.sigmas[run.num_steps]`.
    """

    def body(i, carry):
        x, memory = carry
        x, memory = step(i, x, run.denoise(x, run.sigmas[i]), memory)
        return run.after_step(x, run.sigmas[i + 1], i), memory

    return jax.lax.fori_loop(0, run.num_steps, body, (x, memory))[0]


def run_two_stage_steps(
    run: Run,
    x: Array,
    predict: Callable[[Array, Array, Array], tuple[Array, Array]],
    correct: Callable[[Array, Array, Array, Array, Array], Array],
) -> Array:
    """Run a sampler that evaluates the model twice a step, and once in a step to level 0.

    The loop goes over evaluations, two to a step, so that the model appears in it once. A step to
    level 0 lands on x0 whatever the rule: Euler's x + (x - x0) / sigma * (0 - sigma).

    Args:
        run: the problem.
        x: (B, ...) start, at level `run.sigmas[0]`.
        predict: `(i, x, x0) -> (point, its level)` where to evaluate again.
        correct: `(i, x, x0, point, x0 of point) -> next x`.

    Returns:
        x (B, ...) at level `run.sigmas[run.num_steps]`.
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
        return jax.lax.switch(jnp.where(k % 2 == 1, 1, jnp.where(sigmas[i + 1] == 0, 2, 0)), stages)

    num_evaluations = 2 * run.num_steps - (sigmas[run.num_steps] == 0)
    return jax.lax.fori_loop(0, num_evaluations, body, (x, sigmas[0], x, x))[0]


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
