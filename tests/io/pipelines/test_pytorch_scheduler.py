"""The folder's scheduler takes the steps of our samplers, one by one."""

import importlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax.diffusion import samplers
from colorize_jax.diffusion.schedule import make_schedule
from colorize_jax.io.pipelines.write import copy_code
from colorize_jax.verify.golden import relative_error

pytestmark = pytest.mark.interop
torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

SHAPE, STEPS = (4, 4, 3), 5
NAMES = (
    "Euler",
    "Euler a",
    "Heun",
    "DPM2",
    "DPM2 a",
    "LMS",
    "DPM++ 2S a",
    "DPM++ 2M",
    "DPM++ SDE",
    "DPM++ 2M SDE",
    "DPM++ 2M SDE Heun",
    "DPM++ 3M SDE",
    "DDIM",
    "DPM-Solver++",
    "DPM-Solver++ SDE",
    "LMS diffusers",
)
WEIGHT = np.random.default_rng(1).standard_normal((3, 3)).astype(np.float32) / 2
NOISE = np.random.default_rng(0).standard_normal((2, *SHAPE)).astype(np.float32)


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    """The scheduler's module, as it lies in a folder."""
    folder = tmp_path_factory.mktemp("code") / "scheduler_code"
    folder.mkdir()
    copy_code("colorize_scheduler", folder)
    sys.path.insert(0, str(folder.parent))
    yield importlib.import_module("scheduler_code.colorize_scheduler")
    sys.path.remove(str(folder.parent))


def _ours(name, schedule, prediction_type, levels):
    sampler = samplers.find_sampler(name)
    keys = jax.random.split(jax.random.key(3), 2)

    def network(z, t):
        return jnp.tanh(z @ WEIGHT) + 0.3 * jnp.sin(t / 100)[:, None, None, None]

    draw = samplers.noise_from_keys(keys, SHAPE)
    plan = samplers.make_plan(sampler, schedule, STEPS, levels)
    denoise = samplers.make_denoiser(network, schedule, prediction_type)
    return samplers.sample(sampler, denoise, jnp.asarray(NOISE), plan, draw), draw


def _theirs(scheduler, draw):
    x = torch.tensor(NOISE) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        z = scheduler.scale_model_input(x, t)
        output = torch.tanh(z @ torch.tensor(WEIGHT)) + 0.3 * torch.sin(t / 100)

        def noise(number):
            return torch.tensor(np.asarray(draw(number)))

        x = scheduler.step(output, t, x, noise=noise).prev_sample
    assert scheduler.level == 0
    return x.numpy()


@pytest.mark.parametrize("name", NAMES)
def test_every_sampler(module, name):
    assert set(NAMES) == set(module.SAMPLERS)
    expected, draw = _ours(name, make_schedule(), "v", "automatic")
    scheduler = module.ColorizeScheduler(sampler=name)
    scheduler.set_timesteps(STEPS)
    assert relative_error(_theirs(scheduler, draw), expected) < 1e-5


@pytest.mark.parametrize("levels", ["uniform", "Karras", "exponential", "SGM uniform"])
def test_schedules_and_predictions(module, levels):
    expected, draw = _ours("DPM++ 2M", make_schedule(), "eps", levels)
    scheduler = module.ColorizeScheduler(prediction_type="epsilon", schedule=levels)
    scheduler.set_timesteps(STEPS, sampler="DPM++ 2M")
    assert relative_error(_theirs(scheduler, draw), expected) < 1e-5


def test_zero_terminal_snr(module):
    schedule = make_schedule(zero_terminal_snr=True)
    expected, draw = _ours("Euler", schedule, "v", "automatic")
    scheduler = module.ColorizeScheduler(rescale_betas_zero_snr=True, sampler="Euler")
    scheduler.set_timesteps(STEPS)
    assert relative_error(_theirs(scheduler, draw), expected) < 1e-5


def test_training_targets(module):
    """Noisy latents and velocities of a trainer are ours."""
    from colorize_jax.diffusion.schedule import corrupt, velocity

    schedule, t = make_schedule(), np.array([3, 900])
    latents, noise = NOISE, NOISE[::-1].copy()
    scheduler = module.ColorizeScheduler()
    arguments = (torch.tensor(latents), torch.tensor(noise), torch.tensor(t))
    for theirs, ours in ((scheduler.add_noise, corrupt), (scheduler.get_velocity, velocity)):
        expected = np.asarray(ours(schedule, latents, noise, t))
        np.testing.assert_allclose(theirs(*arguments).numpy(), expected, atol=1e-6)
