"""Noise levels that samplers step through: built on the host in float64, a few dozen numbers."""

from collections.abc import Callable

import numpy as np

from colorize_jax.diffusion.schedule import NoiseSchedule

KARRAS_RHO = 7.0


def _at_timesteps(schedule: NoiseSchedule, t: np.ndarray) -> np.ndarray:
    """Levels at fractional timesteps, linear in log sigma."""
    return np.exp(np.interp(t, np.arange(schedule.num_timesteps), schedule.log_sigmas))


def uniform(schedule: NoiseSchedule, num_levels: int) -> np.ndarray:
    """Evenly spaced timesteps, both ends included."""
    return _at_timesteps(schedule, np.linspace(schedule.num_timesteps - 1, 0, num_levels))


def sgm_uniform(schedule: NoiseSchedule, num_levels: int) -> np.ndarray:
    """Evenly spaced timesteps, the last end excluded."""
    return _at_timesteps(schedule, np.linspace(schedule.num_timesteps - 1, 0, num_levels + 1)[:-1])


def karras(schedule: NoiseSchedule, num_levels: int) -> np.ndarray:
    """Evenly spaced sigma^(1/rho), rho 7 (Karras et al. 2022, equation 5)."""
    ends = np.exp(schedule.log_sigmas[[-1, 0]] / KARRAS_RHO)
    return np.linspace(*ends, num_levels) ** KARRAS_RHO


def exponential(schedule: NoiseSchedule, num_levels: int) -> np.ndarray:
    """Evenly spaced log sigma; "polyexponential" with its usual rho, 1, is the same."""
    return np.exp(np.linspace(*schedule.log_sigmas[[-1, 0]], num_levels))


# Name -> levels (num_levels,), descending, the closing 0 not among them.
SCHEDULES: dict[str, Callable[[NoiseSchedule, int], np.ndarray]] = {
    "uniform": uniform,
    "Karras": karras,
    "exponential": exponential,
    "polyexponential": exponential,
    "SGM uniform": sgm_uniform,
}


def leading_timesteps(schedule: NoiseSchedule, num_steps: int, spare: int = 0) -> np.ndarray:
    """diffusers' "leading" timesteps with offset 1, descending, (num_steps,) int64.

    Args:
        schedule: gives T.
        num_steps: how many, at most T - 1.
        spare: divide T into this many steps more and leave out the least noisy (DPM-Solver++).
    """
    stride = schedule.num_timesteps // (num_steps + spare)
    timesteps = np.arange(spare, num_steps + spare) * stride + 1
    return timesteps[::-1]


def leading(schedule: NoiseSchedule, num_steps: int) -> np.ndarray:
    """Levels (num_steps + 1,) at leading timesteps, then at timestep 0 (PNDM)."""
    return schedule.sigmas[np.append(leading_timesteps(schedule, num_steps), 0)]


def leading_to_zero(schedule: NoiseSchedule, num_steps: int) -> np.ndarray:
    """Levels (num_steps + 1,) at leading timesteps, then 0 (DDIM, LMS)."""
    return np.append(schedule.sigmas[leading_timesteps(schedule, num_steps)], 0.0)


def leading_spare_to_zero(schedule: NoiseSchedule, num_steps: int) -> np.ndarray:
    """Levels (num_steps + 1,) at leading timesteps with one to spare, then 0 (DPM-Solver++)."""
    return np.append(schedule.sigmas[leading_timesteps(schedule, num_steps, spare=1)], 0.0)
