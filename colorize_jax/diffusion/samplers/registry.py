"""The samplers by name, and the one function that runs any of them."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import flax.struct
import jax.numpy as jnp
import numpy as np
from jax import lax

from colorize_jax.diffusion.samplers import dpm_solver, dpmpp, euler, multistep, pndm, second_order
from colorize_jax.diffusion.samplers.levels import (
    SCHEDULES,
    leading,
    leading_spare_to_zero,
    leading_to_zero,
)
from colorize_jax.diffusion.samplers.loops import (
    AfterStep,
    Denoise,
    NoiseFn,
    Outcome,
    Part,
    Run,
)
from colorize_jax.diffusion.schedule import NoiseSchedule
from colorize_jax.errors import UserError, nearest
from colorize_jax.types import Array

AUTOMATIC = "automatic"


@dataclass(frozen=True)
class Sampler:
    """One sampler.

    Attributes:
        name: as users write it; case, spaces and punctuation but "+" do not count.
        function: its update rule.
        evaluations: steps -> evaluations of the model; None where the sampler decides itself.
        schedule: what "automatic" means for it.
        stochastic: whether it draws noise.
        discards_next_to_last: plan one level more and drop the next-to-last.
        grid: (schedule, steps) -> levels (steps + 1,), of samplers in diffusers' convention: they
            use these levels whatever schedule is named, and begin and end at unit variance.
        min_steps: fewest steps.
        aliases: other names.
    """

    name: str
    function: Callable[[Run, Array], Outcome]
    evaluations: Callable[[int], int] | None
    schedule: str = "uniform"
    stochastic: bool = False
    discards_next_to_last: bool = False
    grid: Callable[[NoiseSchedule, int], np.ndarray] | None = None
    min_steps: int = 1
    aliases: tuple[str, ...] = ()


def _once(num_steps: int) -> int:
    return num_steps


def _twice(num_steps: int) -> int:
    """Twice a step; once in the last, to level 0."""
    return 2 * num_steps - 1


def _pndm(num_steps: int) -> int:
    return num_steps + pndm.EXTRA_EVALUATIONS


_ALL = (
    Sampler("Euler", euler.euler, _once),
    Sampler("Euler a", euler.euler_ancestral, _once, stochastic=True),
    Sampler("Heun", second_order.heun, _twice),
    Sampler("DPM2", second_order.dpm2, _twice, "Karras", discards_next_to_last=True),
    Sampler(
        "DPM2 a",
        second_order.dpm2_ancestral,
        _twice,
        "Karras",
        stochastic=True,
        discards_next_to_last=True,
    ),
    Sampler("LMS", multistep.lms, _once),
    Sampler("DPM++ 2S a", dpmpp.dpmpp_2s_ancestral, _twice, "Karras", stochastic=True),
    Sampler("DPM++ 2M", dpmpp.dpmpp_2m, _once, "Karras"),
    Sampler("DPM++ SDE", dpmpp.dpmpp_sde, _twice, "Karras", stochastic=True),
    Sampler("DPM++ 2M SDE", dpmpp.dpmpp_2m_sde, _once, "exponential", stochastic=True),
    Sampler("DPM++ 2M SDE Heun", dpmpp.dpmpp_2m_sde_heun, _once, "exponential", stochastic=True),
    Sampler(
        "DPM++ 3M SDE",
        dpmpp.dpmpp_3m_sde,
        _once,
        "exponential",
        stochastic=True,
        discards_next_to_last=True,
    ),
    Sampler("DPM fast", dpm_solver.dpm_fast, _once, stochastic=True, min_steps=2),
    Sampler("DPM adaptive", dpm_solver.dpm_adaptive, None, stochastic=True, min_steps=2),
    Sampler("DDIM", euler.euler, _once, grid=leading_to_zero, aliases=("diffuser_ddim",)),
    Sampler(
        "DPM-Solver++",
        dpmpp.dpmpp_2m,
        _once,
        grid=leading_spare_to_zero,
        aliases=("diffuser_dpm",),
    ),
    Sampler(
        "DPM-Solver++ SDE",
        dpmpp.dpmpp_2m_sde,
        _once,
        stochastic=True,
        grid=leading_spare_to_zero,
        aliases=("diffuser_dpm_sde",),
    ),
    Sampler(
        "PNDM",
        pndm.pndm,
        _pndm,
        grid=leading,
        min_steps=pndm.MIN_STEPS,
        aliases=("diffuser_pndm",),
    ),
    Sampler(
        "LMS diffusers",
        multistep.lms,
        _once,
        grid=leading_to_zero,
        aliases=("diffuser_lms",),
    ),
)
# They choose their steps between the first and the last positive level, where they end.
_BETWEEN = (dpm_solver.dpm_fast, dpm_solver.dpm_adaptive)
_OWN_STEPS = (*_BETWEEN, pndm.pndm)  # or have a table of their own
MOST_NOISE = 1.0  # that they may leave: as much as there is picture
SAMPLERS: dict[str, Sampler] = {sampler.name: sampler for sampler in _ALL}


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9+]", "", name.lower())


def _find(kind: str, name: str, known: dict[str, str], listed: Iterable[str]) -> str:
    """Look a name up by its key; raise UserError with the nearest one."""
    key = _key(str(name))
    if key in known:
        return known[key]
    near = known[nearest(key, known)]
    raise UserError(f'got {kind} "{name}", expected one of {", ".join(listed)}; nearest: "{near}"')


def find_sampler(name: str) -> Sampler:
    """Return a sampler by its name or alias; raise UserError naming the nearest."""
    known = {_key(n): s.name for s in _ALL for n in (s.name, *s.aliases)}
    return SAMPLERS[_find("sampler", name, known, SAMPLERS)]


def find_schedule(name: str) -> str:
    """Return a schedule's name as it is written here; raise UserError naming the nearest."""
    names = (AUTOMATIC, *SCHEDULES)
    return _find("schedule", name, {_key(n): n for n in names}, names)


def step_range(sampler: Sampler, num_timesteps: int) -> tuple[int, int]:
    """Fewest and most steps of a sampler on a schedule of so many timesteps."""
    # Leading timesteps are at least two apart.
    return sampler.min_steps, num_timesteps // 2


@flax.struct.dataclass
class Plan:
    """The levels of one sampling run, padded so that other step counts have the same shapes.

    Attributes:
        sigmas: (M + 1,) float32, descending; levels of `num_steps` steps, then zeros.
        num_steps: () int32, at most M; without those between equal levels.
        evaluations: (E, 3) float32 levels of PNDM's evaluations (from, at, to), padded; else None.
    """

    sigmas: Array
    num_steps: Array
    evaluations: Array | None = None


def make_plan(
    sampler: Sampler,
    noise_schedule: NoiseSchedule,
    num_steps: int,
    schedule: str = AUTOMATIC,
    max_steps: int | None = None,
) -> Plan:
    """Choose the levels of a run, on the host.

    Args:
        sampler: that will use them.
        noise_schedule: what the model was trained with.
        num_steps: from the sampler's fewest up to `max_steps`.
        schedule: one of SCHEDULES or "automatic"; samplers with a grid of their own ignore it.
        max_steps: length M that plans are padded to; default `num_steps`.

    Raises:
        UserError: a step count out of range, an unknown schedule, one with which the sampler would
            leave noise.
    """
    max_steps = num_steps if max_steps is None else max_steps
    least, most = step_range(sampler, noise_schedule.num_timesteps)
    most = min(most, max_steps)
    if not least <= num_steps <= most:
        raise UserError(
            f"got {num_steps} steps for {sampler.name}, expected {least} to {most}; "
            "change the number of steps"
        )
    name = find_schedule(schedule)
    if sampler.grid is not None:
        levels = sampler.grid(noise_schedule, num_steps)
    else:
        extra = int(sampler.discards_next_to_last)
        name = sampler.schedule if name == AUTOMATIC else name
        levels = SCHEDULES[name](noise_schedule, num_steps + extra)
        levels = np.append(levels[:num_steps], 0.0)
    left = float(levels[num_steps - 1])
    if sampler.function in _BETWEEN and left > MOST_NOISE:
        raise UserError(
            f"got {sampler.name} with the schedule {name}, whose last step begins at noise level "
            f"{left:.3g}, where this sampler ends, expected at most {MOST_NOISE:g}; choose another "
            "schedule or sampler"
        )
    if sampler.function not in _OWN_STEPS:
        levels = _descending(levels)
        num_steps = len(levels) - 1
    return Plan(
        sigmas=_pad(levels, max_steps + 1),
        num_steps=np.int32(num_steps),
        evaluations=_evaluations(sampler, noise_schedule, num_steps, max_steps),
    )


def _descending(levels: np.ndarray) -> np.ndarray:
    """Without levels that equal the next one: a schedule's noisiest ones, where they are bounded.

    A step between equal levels changes nothing, and two-step rules divide by its size.
    """
    levels = levels.astype(np.float32)
    return levels[np.append(levels[:-1] > levels[1:], True)]


def _pad(rows: np.ndarray, length: int) -> np.ndarray:
    """Append zero rows up to `length`, in float32."""
    padding = np.zeros((length - len(rows), *rows.shape[1:]))
    return np.concatenate([rows, padding]).astype(np.float32)


def _evaluations(
    sampler: Sampler, noise_schedule: NoiseSchedule, num_steps: int, max_steps: int
) -> np.ndarray | None:
    """PNDM's table of levels; None for samplers without one."""
    if sampler.function is not pndm.pndm:
        return None
    rows = noise_schedule.sigmas[pndm.pndm_timesteps(noise_schedule, num_steps)]
    return _pad(rows, max_steps + pndm.EXTRA_EVALUATIONS)


def sample(
    sampler: Sampler,
    denoise: Denoise,
    noise: Array,
    plan: Plan,
    noise_fn: NoiseFn | None = None,
    after_step: AfterStep | None = None,
    prediction_type: str = "v",
    per_sample: bool = True,
) -> Array:
    """Turn noise into latents: the whole denoising loop, to be called inside jit.

    Args:
        sampler: from `find_sampler`; static under jit.
        denoise: `(x, sigma () or (B,)) -> x0`, from `make_denoiser`; appears once in the graph.
        noise: (B, ...) standard normal.
        plan: from `make_plan`; its content may change without recompilation.
        noise_fn: fresh noise by number of the draw, () or (B,); see `noise_from_keys`. Only
            stochastic samplers need it.
        after_step: `(x, sigma, step) -> x` applied after each step, x = z_0 + sigma * noise
            whatever the sampler; sigma and step are () or (B,).
        prediction_type: "v" or "eps", of the network behind `denoise`; only PNDM asks.
        per_sample: adaptive samplers choose steps for each sample by itself, so that a picture does
            not depend on its batch; False shares them in the batch as k-diffusion does.

    Returns:
        latents (B, ...).

    Raises:
        UserError: a stochastic sampler without `noise_fn`.
    """
    arguments = (noise_fn, after_step, prediction_type, per_sample)
    return sample_part(sampler, denoise, noise, plan, *arguments)[0]


def sample_part(
    sampler: Sampler,
    denoise: Denoise,
    noise: Array,
    plan: Plan,
    noise_fn: NoiseFn | None = None,
    after_step: AfterStep | None = None,
    prediction_type: str = "v",
    per_sample: bool = True,
    part: Part | None = None,
) -> Outcome:
    """Run a part of the denoising loop; other arguments, the same for all parts: see `sample`.

    Args:
        part: the evaluations to make; None: all.

    Returns:
        latents (B, ...), the results once the loop is at its end, and where it stands.

    Raises:
        UserError: a stochastic sampler without `noise_fn`.
    """
    if sampler.stochastic and noise_fn is None:
        raise UserError(
            f"got no noise for {sampler.name}, which draws some after each step; pass noise_fn"
        )
    run = Run(
        denoise=denoise,
        sigmas=jnp.asarray(plan.sigmas),
        num_steps=plan.num_steps,
        noise_fn=noise_fn,
        per_sample=per_sample,
        evaluations=None if plan.evaluations is None else jnp.asarray(plan.evaluations),
        prediction_type=prediction_type,
        part=part,
    )
    if after_step is not None:
        run = replace(run, after_step=after_step)
    first, last = run.sigmas[0], run.sigmas[run.num_steps]
    if sampler.grid is None:
        return sampler.function(run, noise * first)
    x, progress = sampler.function(run, noise * jnp.sqrt(1 + first**2))
    return x * lax.rsqrt(1 + last**2), progress
