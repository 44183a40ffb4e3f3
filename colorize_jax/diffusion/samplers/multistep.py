"""Linear multistep of order four: Adams-Bashforth on an uneven grid (k-diffusion's LMS)."""

import jax.numpy as jnp

from colorize_jax.diffusion.samplers.loops import Outcome, Run, run_steps
from colorize_jax.types import Array

ORDER = 4
# Gauss-Legendre with two points integrates the basis polynomials, of degree 3, exactly.
GAUSS_POINTS = (-(3**-0.5), 3**-0.5)


def multistep_coefficients(sigmas: Array, i: Array) -> list[Array]:
    """Integrate from `sigmas[i]` to `sigmas[i + 1]` the Lagrange basis of the last slopes.

    Args:
        sigmas: (M + 1,) noise levels.
        i: () number of the step; of the ORDER slopes min(i + 1, ORDER) exist so far.

    Returns:
        ORDER coefficients (), newest first; 0 for slopes that do not exist.
    """
    nodes = [sigmas[jnp.maximum(i - k, 0)] for k in range(ORDER)]
    half = (sigmas[i + 1] - sigmas[i]) / 2
    middle = (sigmas[i + 1] + sigmas[i]) / 2

    def basis(j, sigma):
        value = jnp.ones_like(sigma)
        for k in range(ORDER):
            if k != j:
                exists = (i >= k) & (i >= j)
                distance = jnp.where(exists, nodes[j] - nodes[k], 1.0)
                value = value * jnp.where(exists, (sigma - nodes[k]) / distance, 1.0)
        return value

    integrals = [
        half * sum(basis(j, middle + half * p) for p in GAUSS_POINTS) for j in range(ORDER)
    ]
    return [jnp.where(i >= j, integral, 0.0) for j, integral in enumerate(integrals)]


def lms(run: Run, x: Array) -> Outcome:
    """The slope as a polynomial through its last four values, integrated over the step."""

    def step(i, x, x0, history):
        slopes = ((x - x0) / run.sigmas[i], *history)
        coefficients = multistep_coefficients(run.sigmas, i)
        x = x + sum(c * slope for c, slope in zip(coefficients, slopes, strict=True))
        return x, slopes[:-1]

    return run_steps(run, x, step, memory=(jnp.zeros_like(x),) * (ORDER - 1))
