"""PNDM (Liu et al. 2022): three Runge-Kutta steps, then Adams-Bashforth of order four.

As in diffusers, it combines raw outputs of the network, not slopes, converts the combination to a
slope at the sample where the step started, and rounds half steps to whole timesteps: results depend
on both.
"""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.diffusion.samplers.levels import leading_timesteps
from colorize_jax.diffusion.samplers.loops import Outcome, Run, loop
from colorize_jax.diffusion.schedule import NoiseSchedule
from colorize_jax.types import Array

RUNGE_KUTTA_STEPS, STAGES = 3, 4
EXTRA_EVALUATIONS = RUNGE_KUTTA_STEPS * (STAGES - 1)
MIN_STEPS = RUNGE_KUTTA_STEPS + 1


def pndm_timesteps(schedule: NoiseSchedule, num_steps: int) -> np.ndarray:
    """Return where every evaluation of the model moves: from, evaluated at, to.

    Args:
        schedule: gives T.
        num_steps: at least MIN_STEPS.

    Returns:
        (num_steps + EXTRA_EVALUATIONS, 3) int64 timesteps.
    """
    times = leading_timesteps(schedule, num_steps)
    stride = schedule.num_timesteps // num_steps
    half = stride // 2
    rows = []
    for start, end in pairwise(times[: RUNGE_KUTTA_STEPS + 1]):
        middle = end + half
        rows += [(start, start, start - half), (start, middle, middle)]
        rows += [(start, middle, end), (start, end, end)]
    rows += [(t, t, max(t - stride, 0)) for t in times[RUNGE_KUTTA_STEPS:]]
    return np.array(rows)


def pndm(run: Run, x: Array) -> Outcome:
    """Run `num_steps` steps of PNDM along `run.evaluations`, levels at `pndm_timesteps`."""
    predicts_v = run.prediction_type == "v"
    stage_weights = jnp.array([1 / 6, 1 / 3, 1 / 3, 1 / 6])

    def variance_preserving(x, sigma):
        return x * jax.lax.rsqrt(1 + sigma**2)

    def variance_exploding(z, sigma):
        return z * jnp.sqrt(1 + sigma**2)

    def output_at(z, sigma):
        """The network's raw output at z, from its denoised form, and that."""
        x = variance_exploding(z, sigma)
        x0 = run.denoise(x, sigma)
        if predicts_v:
            return (z - variance_exploding(x0, sigma)) / sigma, x0
        return (x - x0) / sigma, x0

    def move(z, output, sigma, sigma_next):
        """Follow the slope that an output at (z, sigma) means to another level."""
        slope = variance_preserving(output + sigma * z, sigma) if predicts_v else output
        x = variance_exploding(z, sigma) + (sigma_next - sigma) * slope
        return variance_preserving(x, sigma_next)

    def after_step(z, sigma, step):
        x = run.after_step(variance_exploding(z, sigma), sigma, step)
        return variance_preserving(x, sigma)

    def body(k, carry):
        point, start, total, history = carry
        sigma, sigma_point, sigma_next = run.evaluations[k]
        runge_kutta = k < RUNGE_KUTTA_STEPS * STAGES
        stage = jnp.where(runge_kutta, k % STAGES, 0)
        output, x0 = output_at(point, sigma_point)

        start = jnp.where(stage == 0, point, start)
        total = jnp.where(stage == 0, 0, total) + stage_weights[stage] * output
        runge_kutta_output = jnp.where(stage == STAGES - 1, total, output)
        adams_output = (55 * output - 59 * history[0] + 37 * history[1] - 9 * history[2]) / 24
        combined = jnp.where(runge_kutta, runge_kutta_output, adams_output)
        point = move(start, combined, sigma, sigma_next)

        newest = (output, *history[:-1])
        history = tuple(jnp.where(stage == 0, n, h) for n, h in zip(newest, history, strict=True))
        step = jnp.where(runge_kutta, k // STAGES, k - EXTRA_EVALUATIONS)
        point = jax.lax.cond(
            runge_kutta & (stage != STAGES - 1),
            lambda: point,
            lambda: after_step(point, sigma_next, step),
        )
        return (point, start, total, history), x0

    z = variance_preserving(x, run.sigmas[0])
    zeros = jnp.zeros_like(z)
    num_evaluations = run.num_steps + EXTRA_EVALUATIONS
    progress = loop(run, num_evaluations, body, (z, z, zeros, (zeros,) * 3), x)
    return variance_exploding(progress.carry[0], run.sigmas[run.num_steps]), progress
