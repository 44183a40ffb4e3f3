"""DPM-Solver++ (Lu et al. 2022b), exponential integrators of x0, in k-diffusion's forms.

In lambda = -log sigma, with h the step, the exact solution for a constant x0 is

    x' = exp(-h) x + (1 - exp(-h)) x0,

and higher orders extrapolate x0 from earlier or intermediate predictions. The SDE forms go down (1
+ eta) h, eta 1, and add the noise that is missing at the next level.
"""

import jax.numpy as jnp

from colorize_jax.diffusion.samplers.loops import (
    Outcome,
    Run,
    ancestral_levels,
    log_level,
    run_steps,
    run_two_stage_steps,
)
from colorize_jax.types import Array


def _advance(x: Array, x0: Array, h: Array) -> Array:
    """The exact solution over a step of h for a constant prediction x0."""
    return jnp.exp(-h) * x - jnp.expm1(-h) * x0


def dpmpp_2s_ancestral(run: Run, x: Array) -> Outcome:
    """Second order, single step: the prediction at the step's middle; fresh noise after it."""

    def levels(i):
        sigma_down, sigma_up = ancestral_levels(run.sigmas[i], run.sigmas[i + 1])
        return log_level(sigma_down) - log_level(run.sigmas[i]), sigma_up

    def predict(i, x, x0):
        h, _ = levels(i)
        return _advance(x, x0, h / 2), run.sigmas[i] * jnp.exp(-h / 2)

    def correct(i, x, x0, point, x0_point):
        h, sigma_up = levels(i)
        return _advance(x, x0_point, h) + sigma_up * run.noise_fn(i)

    return run_two_stage_steps(run, x, predict, correct)


def dpmpp_sde(run: Run, x: Array) -> Outcome:
    """As 2S, with fresh noise at the middle and at the end: two draws a step."""

    def middle_level(i):
        return jnp.sqrt(run.sigmas[i] * run.sigmas[i + 1])

    def noisy_advance(x, x0, sigma, sigma_next, noise):
        sigma_down, sigma_up = ancestral_levels(sigma, sigma_next)
        return _advance(x, x0, log_level(sigma_down) - log_level(sigma)) + sigma_up * noise

    def predict(i, x, x0):
        middle = middle_level(i)
        return noisy_advance(x, x0, run.sigmas[i], middle, run.noise_fn(2 * i)), middle

    def correct(i, x, x0, point, x0_point):
        noise = run.noise_fn(2 * i + 1)
        return noisy_advance(x, x0_point, run.sigmas[i], run.sigmas[i + 1], noise)

    return run_two_stage_steps(run, x, predict, correct)


def _land(sigma_next: Array, x0: Array, x_next: Array) -> Array:
    """Make a step to level 0 return the prediction x0 itself, without extrapolation or noise."""
    return jnp.where(sigma_next == 0, x0, x_next)


def _step_size(run: Run, i: Array) -> Array:
    """h of step i; 1 before the first step, where the result is masked anyway."""
    size = log_level(run.sigmas[i + 1]) - log_level(run.sigmas[i])
    return jnp.where(i < 0, 1.0, size)


def dpmpp_2m(run: Run, x: Array) -> Outcome:
    """Second order, two-step: x0 extrapolated from the last two predictions."""

    def step(i, x, x0, previous):
        h = _step_size(run, i)
        slope = jnp.where(i > 0, h / (2 * _step_size(run, i - 1)), 0.0)
        x_next = _advance(x, x0 + slope * (x0 - previous), h)
        return _land(run.sigmas[i + 1], x0, x_next), x0

    return run_steps(run, x, step, memory=jnp.zeros_like(x))


def _dpmpp_2m_sde(run: Run, x: Array, solver: str) -> Outcome:
    """Second order, two-step SDE; `solver` is how the slope enters: "midpoint" or "heun"."""

    def step(i, x, x0, previous):
        h = _step_size(run, i)
        decay = -jnp.expm1(-2 * h)
        weight = decay / 2 if solver == "midpoint" else 1 - decay / (2 * h)
        slope = jnp.where(i > 0, h / _step_size(run, i - 1), 0.0) * (x0 - previous)
        x_next = _advance(x, x0, 2 * h) + weight * slope
        x_next = x_next + run.sigmas[i + 1] * jnp.sqrt(decay) * run.noise_fn(i)
        return _land(run.sigmas[i + 1], x0, x_next), x0

    return run_steps(run, x, step, memory=jnp.zeros_like(x))


def dpmpp_2m_sde(run: Run, x: Array) -> Outcome:
    """The SDE form of `dpmpp_2m`, midpoint rule."""
    return _dpmpp_2m_sde(run, x, "midpoint")


def dpmpp_2m_sde_heun(run: Run, x: Array) -> Outcome:
    """The SDE form of `dpmpp_2m`, Heun's rule."""
    return _dpmpp_2m_sde(run, x, "heun")


def dpmpp_3m_sde(run: Run, x: Array) -> Outcome:
    """Third order, three-step SDE; second and first order where the history is still short."""

    def step(i, x, x0, history):
        previous, before = history
        h = _step_size(run, i)
        r0, r1 = _step_size(run, i - 1) / h, _step_size(run, i - 2) / h
        slope0, slope1 = (x0 - previous) / r0, (previous - before) / r1
        curvature = jnp.where(i > 1, (slope0 - slope1) / (r0 + r1), 0.0)
        slope = jnp.where(i > 0, slope0 + r0 * curvature, 0.0)
        phi_2 = jnp.expm1(-2 * h) / (2 * h) + 1
        phi_3 = phi_2 / (2 * h) - 0.5
        x_next = _advance(x, x0, 2 * h) + phi_2 * slope - phi_3 * curvature
        noise_level = run.sigmas[i + 1] * jnp.sqrt(-jnp.expm1(-2 * h))
        x_next = x_next + noise_level * run.noise_fn(i)
        return _land(run.sigmas[i + 1], x0, x_next), (x0, previous)

    zeros = jnp.zeros_like(x)
    return run_steps(run, x, step, memory=(zeros, zeros))
