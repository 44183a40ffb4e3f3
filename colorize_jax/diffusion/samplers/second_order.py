"""Rules with two evaluations of the slope a step: Heun's and the midpoint rule."""

import jax.numpy as jnp

from colorize_jax.diffusion.samplers.loops import (
    Outcome,
    Run,
    ancestral_levels,
    run_two_stage_steps,
)
from colorize_jax.types import Array


def heun(run: Run, x: Array) -> Outcome:
    """The mean of the slopes at both ends of an Euler step (Karras et al. 2022, algorithm 1)."""
    sigmas = run.sigmas

    def predict(i, x, x0):
        return x + (x - x0) / sigmas[i] * (sigmas[i + 1] - sigmas[i]), sigmas[i + 1]

    def correct(i, x, x0, point, x0_point):
        slope = ((x - x0) / sigmas[i] + (point - x0_point) / sigmas[i + 1]) / 2
        return x + slope * (sigmas[i + 1] - sigmas[i])

    return run_two_stage_steps(run, x, predict, correct)


def dpm2(run: Run, x: Array) -> Outcome:
    """The slope at the middle, in log sigma, of the step (Lu et al. 2022, DPM-Solver-2)."""
    sigmas = run.sigmas

    def predict(i, x, x0):
        middle = jnp.sqrt(sigmas[i] * sigmas[i + 1])
        return x + (x - x0) / sigmas[i] * (middle - sigmas[i]), middle

    def correct(i, x, x0, point, x0_point):
        middle = jnp.sqrt(sigmas[i] * sigmas[i + 1])
        return x + (point - x0_point) / middle * (sigmas[i + 1] - sigmas[i])

    return run_two_stage_steps(run, x, predict, correct)


def dpm2_ancestral(run: Run, x: Array) -> Outcome:
    """`dpm2` to below the next level, then fresh noise up to it."""
    sigmas = run.sigmas

    def levels(i):
        sigma_down, sigma_up = ancestral_levels(sigmas[i], sigmas[i + 1])
        return jnp.sqrt(sigmas[i] * sigma_down), sigma_down, sigma_up

    def predict(i, x, x0):
        middle, _, _ = levels(i)
        return x + (x - x0) / sigmas[i] * (middle - sigmas[i]), middle

    def correct(i, x, x0, point, x0_point):
        middle, sigma_down, sigma_up = levels(i)
        x = x + (point - x0_point) / middle * (sigma_down - sigmas[i])
        return x + sigma_up * run.noise_fn(i)

    return run_two_stage_steps(run, x, predict, correct)
