"""Samplers in diffusers' convention against diffusers itself, also where no golden case looks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax.diffusion.samplers import SAMPLERS, make_denoiser, make_plan, sample
from colorize_jax.diffusion.schedule import make_schedule

pytestmark = pytest.mark.interop

CONFIG = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
SCHEDULERS = {
    "DDIM": ("DDIMScheduler", {"clip_sample": False}),
    "DPM-Solver++": ("DPMSolverMultistepScheduler", {}),
    "DPM-Solver++ SDE": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "PNDM": ("PNDMScheduler", {}),
    "LMS diffusers": ("LMSDiscreteScheduler", {}),
}


def network(z, t, np):
    return np.tanh(0.7 * z + 0.3 * np.roll(z, 1, -1)) * (0.4 + t / 2000) - 0.2 * z


def theirs(name, prediction_type, num_steps, draws):
    import diffusers
    import torch

    kind, extra = SCHEDULERS[name]
    prediction = {"v": "v_prediction", "eps": "epsilon"}[prediction_type]
    scheduler = getattr(diffusers, kind)(**CONFIG, **extra, prediction_type=prediction)
    scheduler.set_timesteps(num_steps)
    x = torch.tensor(draws[0]) * scheduler.init_noise_sigma
    for i, t in enumerate(scheduler.timesteps):
        output = network(scheduler.scale_model_input(x, t), t, torch)
        noise = {"variance_noise": torch.tensor(draws[1 + i])} if "SDE" in name else {}
        x = scheduler.step(output, t, x, **noise).prev_sample
    return x.numpy()


@pytest.mark.parametrize("prediction_type", ["v", "eps"])
@pytest.mark.parametrize("num_steps", [5, 10, 20, 33])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_same_result(name, num_steps, prediction_type):
    draws = np.random.default_rng(0).standard_normal((40, 2, 3, 4, 5)).astype(np.float32)
    schedule, sampler = make_schedule(), SAMPLERS[name]

    def toy(z, t):
        return network(z, t[:, None, None, None], jnp)

    @jax.jit
    def run(plan):
        denoise = make_denoiser(toy, schedule, prediction_type)

        def noise_fn(k):
            return jnp.asarray(draws)[1 + k]

        return sample(sampler, denoise, draws[0], plan, noise_fn, prediction_type=prediction_type)

    ours = run(make_plan(sampler, schedule, num_steps))
    expected = theirs(name, prediction_type, num_steps, draws)
    assert np.linalg.norm(ours - expected) < 1e-5 * np.linalg.norm(expected)
