"""Samplers: from noise and a denoiser to clean latents, the whole loop inside one jit.

sampler = find_sampler("DPM++ 2M")
plan = make_plan(sampler, noise_schedule, num_steps=20, max_steps=64)       # on the host
denoise = make_denoiser(network, noise_schedule, "v")                       # inside jit
latents = sample(sampler, denoise, noise, plan, noise_from_keys(keys, noise.shape[1:]))
"""

from colorize_jax.diffusion.samplers.denoisers import make_denoiser
from colorize_jax.diffusion.samplers.levels import SCHEDULES
from colorize_jax.diffusion.samplers.loops import AfterStep, Part, Progress
from colorize_jax.diffusion.samplers.noise import noise_from_keys
from colorize_jax.diffusion.samplers.registry import (
    AUTOMATIC,
    SAMPLERS,
    Plan,
    Sampler,
    find_sampler,
    find_schedule,
    make_plan,
    sample,
    sample_part,
    step_range,
)

__all__ = [
    "AUTOMATIC",
    "SAMPLERS",
    "SCHEDULES",
    "AfterStep",
    "Part",
    "Plan",
    "Progress",
    "Sampler",
    "find_sampler",
    "find_schedule",
    "make_denoiser",
    "make_plan",
    "noise_from_keys",
    "sample",
    "sample_part",
    "step_range",
]
