"""DPM-Solver (Lu et al. 2022) of orders one to three, "fast" and "adaptive".

With eps = (x - x0) / sigma and lambda = -log sigma, a step of h in lambda to level sigma' is

    x' = x - sigma' (exp(h) - 1) eps - corrections from eps at points inside the step.

"Fast" has a fixed budget of evaluations, "adaptive" chooses steps by its error estimate. Both go
from the largest to the smallest positive level of the run. Both loop over evaluations of the model,
up to three of which make a step, so that the traced program calls the model once.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from colorize_jax.diffusion.samplers.loops import Outcome, Run, ancestral_levels, log_level, loop
from colorize_jax.types import Array

# Intermediate evaluations of the rules of order three, as shares of h.
FIRST_POINT, SECOND_POINT = 1 / 3, 2 / 3

# k-diffusion's step control: tolerances of the error estimate, first attempt in lambda, the factor
# of the step size below which an attempt is rejected, the error's order with fresh noise.
RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = 0.05, 0.0078
FIRST_STEP = 0.05
ACCEPT_SAFETY = 0.81
ERROR_ORDER = 1.5
MAX_EVALUATIONS = 3000


def _first_order(x: Array, eps: Array, sigma_next: Array, h: Array) -> Array:
    return x - sigma_next * jnp.expm1(h) * eps


def _second_order(
    x: Array, eps: Array, eps_point: Array, sigma_next: Array, h: Array, point: float
) -> Array:
    """A step of h with a second evaluation of eps at `point * h`."""
    correction = sigma_next / (2 * point) * jnp.expm1(h) * (eps_point - eps)
    return _first_order(x, eps, sigma_next, h) - correction


def _curved(
    x: Array, eps: Array, eps_point: Array, sigma_next: Array, h: Array, ratio: float
) -> Array:
    """A step of h with eps linear in lambda; `ratio` = h over the distance of the second point."""
    slope = ratio * (jnp.expm1(h) / h - 1) * (eps_point - eps)
    return _first_order(x, eps, sigma_next, h) - sigma_next * slope


def _ancestral_step(t: Array, t_next: Array, t_end: Array) -> tuple[Array, Array]:
    """End of the deterministic part of a step with eta 1, and the level of the noise added then."""
    sigma_down, _ = ancestral_levels(jnp.exp(-t), jnp.exp(-t_next))
    t_down = jnp.minimum(t_end, log_level(sigma_down))
    return t_down, jnp.sqrt(jnp.maximum(jnp.exp(-2 * t_next) - jnp.exp(-2 * t_down), 0.0))


def _fast_position(k: Array, budget: Array) -> tuple[Array, Array, Array]:
    """Return interval, evaluation inside it and the interval's order, of evaluation k.

    As many intervals of order three as fit; the rest of the budget makes one of order `budget % 3`,
    or, where three divides the budget, one of order two and one of order one.
    """
    last = budget // 3
    even = budget % 3 == 0
    alone = even & (k == budget - 1)
    interval = jnp.where(alone, last, k // 3)
    stage = jnp.where(alone, 0, k % 3)
    closing = jnp.where(even, 1, budget % 3)
    order = jnp.where(interval == last, closing, jnp.where(even & (interval == last - 1), 2, 3))
    return interval, stage, order


def dpm_fast(run: Run, x: Array) -> Outcome:
    """`num_steps` evaluations in all, in intervals of order three; fresh noise between (eta 1)."""
    num_intervals = run.num_steps // 3 + 1
    t_start, t_end = log_level(run.sigmas[0]), log_level(run.sigmas[run.num_steps - 1])

    def time(interval):
        share = interval / num_intervals  # in this form the last time is t_end exactly
        return t_start * (1 - share) + t_end * share

    def body(k, carry):
        point, sigma, x, eps = carry
        interval, stage, order = _fast_position(k, run.num_steps)
        t, t_next = time(interval), time(interval + 1)
        t_down, sigma_up = _ancestral_step(t, t_next, t_end)
        h, sigma_down = t_down - t, jnp.exp(-t_down)
        x0 = run.denoise(point, sigma)
        value = (point - x0) / sigma
        first_share = jnp.where(order == 2, 0.5, FIRST_POINT)

        def finish(x_next):
            x_next = x_next + sigma_up * run.noise_fn(interval)
            sigma_next = jnp.exp(-t_next)
            x_next = run.after_step(x_next, sigma_next, interval)
            return x_next, sigma_next, x_next, eps

        def look_first():
            sigma = jnp.exp(-(t + first_share * h))
            return _first_order(x, value, sigma, first_share * h), sigma, x, value

        def look_second():
            sigma = jnp.exp(-(t + SECOND_POINT * h))
            ratio = SECOND_POINT / FIRST_POINT
            point = _curved(x, eps, value, sigma, SECOND_POINT * h, ratio)
            return point, sigma, x, eps

        branches = (
            look_first,
            look_second,
            lambda: finish(_first_order(x, value, sigma_down, h)),
            lambda: finish(_second_order(x, eps, value, sigma_down, h, 0.5)),
            lambda: finish(_curved(x, eps, value, sigma_down, h, 1 / SECOND_POINT)),
        )
        return jax.lax.switch(jnp.where(stage == order - 1, 1 + order, stage), branches), x0

    start = (x, run.sigmas[0], x, x)
    progress = loop(run, run.num_steps, body, start, x)
    return progress.carry[0], progress


class _Attempt(NamedTuple):
    """State of `dpm_adaptive`; times have shape () or, with steps for each sample, (B,).

    Attributes:
        point, sigma: where the model is evaluated next.
        x, x_previous: the sample at time t, and the lower order's result for it.
        low: the lower order's result of this attempt.
        eps: slope at t.
        t, step_size, accepted: time in lambda, length of the next attempt, steps accepted so far.
    """

    point: Array
    sigma: Array
    x: Array
    x_previous: Array
    low: Array
    eps: Array
    t: Array
    step_size: Array
    accepted: Array


def _rows(value: Array, x: Array) -> Array:
    """Shape () or (B,) to broadcast against x (B, ...)."""
    return value.reshape(value.shape + (1,) * (x.ndim - 1)) if value.ndim else value


def _error(low: Array, high: Array, x_previous: Array, axes: tuple[int, ...]) -> Array:
    """Root mean square, over `axes`, of the orders' difference in units of the tolerance."""
    scale = jnp.maximum(jnp.abs(low), jnp.abs(x_previous))
    difference = (low - high) / jnp.maximum(ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE * scale)
    return jnp.sqrt(jnp.mean(difference**2, axis=axes))


def dpm_adaptive(run: Run, x: Array) -> Outcome:
    """DPM-Solver-12(3): step sizes from the difference of orders two and three; eta 1.

    Of the run's levels it uses the largest and the smallest alone and chooses the others itself.
    With `run.per_sample` each sample has its own steps, and the loop ends with the last sample.

    Returns:
        x (B, ...); NaN where `MAX_EVALUATIONS` did not suffice, e.g. for a model that returns NaN.
    """
    t_start, t_end = log_level(run.sigmas[0]), log_level(run.sigmas[run.num_steps - 1])
    clock_shape = x.shape[:1] if run.per_sample else ()
    axes = tuple(range(1 if run.per_sample else 0, x.ndim))

    def unfinished(t):
        return t < t_end - 1e-5

    def body(k: Array, now: _Attempt) -> tuple[_Attempt, Array]:
        x = now.x
        t_next = jnp.minimum(t_end, now.t + now.step_size)
        t_down, sigma_up = _ancestral_step(now.t, t_next, t_end)
        h, sigma_down = _rows(t_down - now.t, x), _rows(jnp.exp(-t_down), x)
        x0 = run.denoise(now.point, now.sigma)
        value = (now.point - x0) / _rows(now.sigma, x)

        def look_first():
            sigma = jnp.exp(-now.t - FIRST_POINT * (t_down - now.t))
            point = _first_order(x, value, _rows(sigma, x), FIRST_POINT * h)
            return now._replace(point=point, sigma=sigma, eps=value)

        def look_second():
            low = _second_order(x, now.eps, value, sigma_down, h, FIRST_POINT)
            sigma = jnp.exp(-now.t - SECOND_POINT * (t_down - now.t))
            ratio = SECOND_POINT / FIRST_POINT
            point = _curved(x, now.eps, value, _rows(sigma, x), SECOND_POINT * h, ratio)
            return now._replace(point=point, sigma=sigma, low=low)

        def decide():
            high = _curved(x, now.eps, value, sigma_down, h, 1 / SECOND_POINT)
            error = _error(now.low, high, now.x_previous, axes)
            factor = 1 + jnp.arctan((1 / (error + 1e-8)) ** (1 / ERROR_ORDER) - 1)
            accept = (factor >= ACCEPT_SAFETY) & unfinished(now.t)
            high = high + _rows(sigma_up, x) * run.noise_fn(now.accepted)
            high = run.after_step(high, jnp.exp(-t_next), now.accepted)
            x_next = jnp.where(_rows(accept, x), high, x)
            t = jnp.where(accept, t_next, now.t)
            return now._replace(
                point=x_next,
                sigma=jnp.exp(-t),
                x=x_next,
                x_previous=jnp.where(_rows(accept, x), now.low, now.x_previous),
                t=t,
                step_size=jnp.where(unfinished(now.t), now.step_size * factor, now.step_size),
                accepted=now.accepted + accept,
            )

        # Three evaluations make an attempted step.
        return jax.lax.switch(k % 3, (look_first, look_second, decide)), x0

    clock = {
        "t": jnp.full(clock_shape, t_start),
        "step_size": jnp.full(clock_shape, FIRST_STEP),
        "accepted": jnp.zeros(clock_shape, jnp.int32),
    }
    sigma = jnp.full(clock_shape, run.sigmas[0])
    start = _Attempt(x, sigma, x, x, low=x, eps=x, **clock)
    progress = loop(run, MAX_EVALUATIONS, body, start, x, lambda now: unfinished(now.t).any())
    final = progress.carry
    return jnp.where(_rows(unfinished(final.t), x), jnp.nan, final.x), progress
