"""Euler's rule, with and without fresh noise (Karras et al. 2022, algorithm 2; k-diffusion)."""

from colorize_jax.diffusion.samplers.loops import Outcome, Run, ancestral_levels, run_steps
from colorize_jax.types import Array


def euler(run: Run, x: Array) -> Outcome:
    """dx/dsigma = (x - x0) / sigma, followed for one straight step."""

    def step(i, x, x0, _):
        sigma, sigma_next = run.sigmas[i], run.sigmas[i + 1]
        return x + (x - x0) / sigma * (sigma_next - sigma), ()

    return run_steps(run, x, step)


def euler_ancestral(run: Run, x: Array) -> Outcome:
    """Euler's step below the next level, then fresh noise up to it."""

    def step(i, x, x0, _):
        sigma, sigma_next = run.sigmas[i], run.sigmas[i + 1]
        sigma_down, sigma_up = ancestral_levels(sigma, sigma_next)
        x = x + (x - x0) / sigma * (sigma_down - sigma)
        return x + sigma_up * run.noise_fn(i), ()

    return run_steps(run, x, step)
