"""Golden cases of the noise schedule and the samplers."""

import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.diffusion import schedule as schedules
from colorize_jax.diffusion.samplers import (
    SAMPLERS,
    Sampler,
    find_sampler,
    make_denoiser,
    make_plan,
    sample,
)
from colorize_jax.diffusion.samplers.levels import leading_timesteps
from colorize_jax.diffusion.samplers.pndm import pndm_timesteps
from colorize_jax.diffusion.schedule import NoiseSchedule
from colorize_jax.errors import UserError
from colorize_jax.nn.layers import sinusoid
from colorize_jax.types import Array
from colorize_jax.verify.golden import GoldenCase


def make_case_schedule(config: dict) -> NoiseSchedule:
    """Build the noise schedule of a case's config; absent keys are the published ones."""
    kind = config.get("beta_schedule", "scaled_linear")
    if kind != "scaled_linear":
        raise UserError(f'got beta schedule "{kind}", expected "scaled_linear"')
    return schedules.make_schedule(
        beta_start=config.get("beta_start", 0.00085),
        beta_end=config.get("beta_end", 0.012),
        num_timesteps=config.get("num_train_timesteps", 1000),
    )


def run_schedule(case: GoldenCase) -> dict[str, np.ndarray]:
    """Compute tables, forward process, weights and timestep embedding of a `schedule` case."""
    inputs, schedule = case.inputs, make_case_schedule(case.config)
    zero_terminal = schedules.rescale_zero_terminal_snr(schedule.betas)
    x, noise, t = inputs["x_start"], inputs["noise"], inputs["timesteps"]
    outputs = {
        "betas": schedule.betas,
        "alphas_cumprod": schedule.alphas_cumprod,
        "betas_zero_terminal_snr": zero_terminal,
        "sigmas": schedule.sigmas,
        "noisy": schedules.corrupt(schedule, x, noise, t),
        "velocity": schedules.velocity(schedule, x, noise, t),
        "snr": schedules.snr(schedule, t),
    }
    for name in case.outputs:
        if name.startswith("min_snr_"):
            gamma, _, prediction_type = name.removeprefix("min_snr_").split("_")
            weight = schedules.min_snr_weight(schedule, t, float(gamma), prediction_type)
            outputs[name] = weight
        if name.startswith("timestep_embedding_"):
            dim = int(name.removeprefix("timestep_embedding_"))
            outputs[name] = sinusoid(inputs["embedding_timesteps"], dim)
    return {name: np.asarray(value) for name, value in outputs.items()}


def _toy_model(x: Array, t: Array) -> Array:
    """The case's stand-in for a network; x (B, C, H, W), t (B,)."""
    t = t[:, None, None, None]
    return jnp.tanh(0.7 * x + 0.3 * jnp.roll(x, 1, axis=-1)) * (0.4 + t / 2000) - 0.2 * x


def run_samplers(case: GoldenCase) -> dict[str, np.ndarray]:
    """Compute levels, timesteps and results of every sampler that a `samplers` case names."""
    schedule = make_case_schedule(case.config)
    num_steps = case.config["steps"]
    outputs = {"initial": case.inputs["initial"]}
    for name in case.outputs:
        group, _, rest = name.partition(".")
        if group == "sigmas":
            kind, count = rest.split(".")
            plan = make_plan(SAMPLERS["Euler"], schedule, int(count), kind)
            outputs[name] = plan.sigmas
        elif group == "k":
            outputs[name] = _sample(case, schedule, SAMPLERS[rest])
        elif group == "k_sigmas":
            outputs[name] = make_plan(SAMPLERS[rest], schedule, num_steps).sigmas
        elif group == "diffusers":
            outputs[name] = _sample(case, schedule, find_sampler(f"diffuser_{rest}"))
        elif group == "diffusers_timesteps":
            outputs[name] = _diffusers_timesteps(rest, schedule, num_steps)
    return {name: np.asarray(value) for name, value in outputs.items()}


def _diffusers_timesteps(name: str, schedule: NoiseSchedule, num_steps: int) -> np.ndarray:
    if name == "pndm":
        return pndm_timesteps(schedule, num_steps)[:, 1]
    return leading_timesteps(schedule, num_steps, spare=int(name.startswith("dpm")))


def _sample(case: GoldenCase, schedule: NoiseSchedule, sampler: Sampler) -> Array:
    prediction_type = case.config["parameterization"]
    draws = [case.inputs[f"noise_{k}"] for k in range(len(case.inputs) - 1)]
    noise = jnp.asarray(np.stack(draws))

    @jax.jit
    def run(initial, plan):
        denoise = make_denoiser(_toy_model, schedule, prediction_type)
        return sample(
            sampler,
            denoise,
            initial,
            plan,
            noise_fn=lambda k: noise[k],
            prediction_type=prediction_type,
            per_sample=False,
        )

    return run(case.inputs["initial"], make_plan(sampler, schedule, case.config["steps"]))
