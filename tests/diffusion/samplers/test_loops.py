"""What holds for every sampler: one trace, no recompilation, the hook, batch independence."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax.diffusion.samplers import (
    SAMPLERS,
    SCHEDULES,
    find_sampler,
    find_schedule,
    make_denoiser,
    make_plan,
    noise_from_keys,
    sample,
)
from colorize_jax.diffusion.schedule import make_schedule
from colorize_jax.errors import UserError

SCHEDULE = make_schedule()
SHAPE = (4, 3, 2)
KNOWN = np.linspace(0.4, 0.9, 24, dtype=np.float32).reshape(SHAPE)
KNOWN_NOISE = np.random.default_rng(5).standard_normal(SHAPE).astype(np.float32)
UPPER_HALF = np.arange(4)[:, None, None] < 2


def keys(*seeds):
    return jnp.stack([jax.random.key(seed) for seed in seeds])


def start(keys):
    return noise_from_keys(jax.vmap(lambda key: jax.random.fold_in(key, 99))(keys), SHAPE)(0)


def network(z, t):
    """Differs between samples, depends on everything."""
    return jnp.tanh(z + 0.3 * jnp.roll(z, 1, axis=2)) * (0.4 + t[:, None, None, None] / 2000)


class Runner:
    """One jitted sampling run that counts traces and evaluations of the network.

    With `copies` true, known latents replace the upper half after each step.
    """

    def __init__(self, name):
        self.sampler = SAMPLERS[name]
        self.traces = self.evaluations = 0
        self.steps = []
        self.jitted = jax.jit(self._run)

    def _run(self, plan, keys, strength, copies):
        def counted(z, t):
            self.traces += 1
            jax.debug.callback(self._count)
            return strength * network(z, t)

        def after_step(x, sigma, step):
            jax.debug.callback(self._note, step, sigma)
            sigma = jnp.reshape(sigma, (-1, 1, 1, 1))
            return jnp.where(copies & UPPER_HALF, KNOWN + sigma * KNOWN_NOISE, x)

        denoise = make_denoiser(counted, SCHEDULE, "v")
        noise_fn = noise_from_keys(keys, SHAPE)
        return sample(self.sampler, denoise, start(keys), plan, noise_fn, after_step)

    def _count(self):
        self.evaluations += 1

    def _note(self, step, sigma):
        self.steps.append((int(np.max(step)), float(np.max(sigma))))

    def __call__(self, num_steps, seeds=(0, 1, 2), strength=1.0, copies=False):
        self.evaluations, self.steps = 0, []
        plan = make_plan(self.sampler, SCHEDULE, num_steps, max_steps=12)
        result = np.asarray(self.jitted(plan, keys(*seeds), strength, copies))
        jax.effects_barrier()
        return result


@pytest.fixture(scope="module")
def runners():
    """The runner of each sampler, compiled once for all tests."""
    return {name: Runner(name) for name in SAMPLERS}


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_trace_serves_all_scalars(runners, name):
    run = runners[name]
    results = []
    for scalars in ((5, (0, 1, 2)), (9, (0, 1, 2)), (9, (3, 4, 5)), (9, (3, 4, 5), 0.5)):
        results.append(run(*scalars))
        if run.sampler.evaluations is not None:
            assert run.evaluations == run.sampler.evaluations(scalars[0])
    assert run.traces == run.jitted._cache_size() == 1
    assert all(np.isfinite(result).all() for result in results)
    for one, other in pairwise(results):
        # Adaptive steps depend on the ends of the levels alone.
        same = name == "DPM adaptive" and one is results[0]
        assert np.array_equal(one, other) == same


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sample_does_not_depend_on_its_batch(runners, name):
    one, other = runners[name](6, (3, 4, 5)), runners[name](6, (6, 3, 7))
    np.testing.assert_array_equal(one[0], other[1])


@pytest.mark.parametrize("name", ["Euler a", "DPM++ 3M SDE", "DPM adaptive"])
def test_a_batch_of_one_is_the_same(runners, name):
    np.testing.assert_allclose(runners[name](6)[1:2], Runner(name)(6, (1,)), atol=1e-5)


@pytest.mark.parametrize("name", ["Heun", "LMS", "DPM fast", "PNDM"])
def test_padding_changes_nothing(runners, name):
    run, plan = Runner(name), make_plan(SAMPLERS[name], SCHEDULE, 9)
    alone = run.jitted(plan, keys(0, 1, 2), 1.0, False)
    np.testing.assert_allclose(alone, runners[name](9), atol=1e-6)


@pytest.mark.parametrize("name", SAMPLERS)
def test_known_latents_can_be_copied_in_after_each_step(runners, name):
    run = runners[name]
    x = run(6, copies=True)
    # Samplers that stop above level 0 leave that much noise.
    np.testing.assert_allclose(x[:, :2], [KNOWN[:2]] * 3, atol=0.12)
    assert np.abs(x[:, 2:] - KNOWN[2:]).max() > 0.2
    if name.startswith("DPM "):  # levels of their own
        assert min(sigma for _, sigma in run.steps) == pytest.approx(SCHEDULE.sigmas[0], rel=1e-4)
        return
    steps, sigmas = zip(*run.steps, strict=True)
    assert steps == (0, 1, 2, 3, 4, 5)
    plan = make_plan(run.sampler, SCHEDULE, 6)
    np.testing.assert_allclose(sigmas, plan.sigmas[1:], rtol=1e-6)
    if sigmas[-1] == 0:
        np.testing.assert_allclose(x[:, :2], [KNOWN[:2]] * 3, atol=1e-6)


def test_a_network_that_answers_nan_ends_adaptive_steps():
    sampler = SAMPLERS["DPM adaptive"]

    @jax.jit
    def run(plan):
        noise_fn = noise_from_keys(keys(1), SHAPE)
        return sample(sampler, lambda x, sigma: x * jnp.nan, start(keys(1)), plan, noise_fn)

    assert np.isnan(run(make_plan(sampler, SCHEDULE, 5))).all()


def test_draws_differ_by_number_and_key_and_are_standard_normal():
    noise_fn = noise_from_keys(keys(1, 2), (50, 50))
    first, second = noise_fn(0), noise_fn(1)
    pairs = np.corrcoef([first[0].ravel(), first[1].ravel(), second[0].ravel(), second[1].ravel()])
    np.testing.assert_allclose(pairs, np.eye(4), atol=0.08)
    np.testing.assert_array_equal(noise_fn(jnp.array([0, 1])), [first[0], second[1]])


@pytest.mark.parametrize("prediction_type", ["v", "eps"])
def test_the_denoiser_undoes_an_exact_prediction(prediction_type):
    """x = z + sigma * noise; the network is handed z_t at its timestep and answers the truth."""
    z, noise = np.random.default_rng(0).standard_normal((2, 3, *SHAPE)).astype(np.float32)
    t = np.array([10, 400, 999])
    sigma = np.exp(SCHEDULE.log_sigmas[t]).astype(np.float32)

    def exact(z_t, at):
        np.testing.assert_allclose(at, t, atol=2e-3)
        signal = (1 / np.sqrt(1 + sigma**2))[:, None, None, None]
        spread = np.sqrt(1 - signal**2)
        np.testing.assert_allclose(z_t, signal * z + spread * noise, atol=1e-5)
        return jnp.asarray(signal * noise - spread * z if prediction_type == "v" else noise)

    denoise = make_denoiser(exact, SCHEDULE, prediction_type)
    x0 = denoise(jnp.asarray(z + sigma[:, None, None, None] * noise), jnp.asarray(sigma))
    np.testing.assert_allclose(x0, z, atol=1e-4)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_plans_descend_from_the_largest_level_to_zero(schedule, num_steps):
    plan = make_plan(SAMPLERS["Euler"], SCHEDULE, num_steps, schedule, max_steps=9)
    assert plan.sigmas.shape == (10,) and plan.sigmas.dtype == np.float32
    assert plan.sigmas[0] == pytest.approx(SCHEDULE.sigmas[-1], rel=1e-5)
    assert (np.diff(plan.sigmas[: num_steps + 1]) < 0).all()
    assert (plan.sigmas[num_steps:] == 0).all()


def test_names_are_found_however_they_are_written():
    assert find_sampler("dpm++ 2m sde").name == "DPM++ 2M SDE"
    assert find_sampler("Euler_A").name == "Euler a"
    assert find_sampler("diffuser_ddim").name == "DDIM"
    assert find_schedule("sgm_uniform") == "SGM uniform"
    assert find_schedule("Automatic") == "automatic"
    assert len(SAMPLERS) == 19 and len(SCHEDULES) == 5


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: find_sampler("DPM++ 2N"), 'nearest: "DPM\\+\\+ 2M"'),
        (lambda: find_schedule("karas"), 'nearest: "Karras"'),
        (lambda: make_plan(SAMPLERS["Euler"], SCHEDULE, 0), "got 0 steps for Euler"),
        (lambda: make_plan(SAMPLERS["Euler"], SCHEDULE, 9, max_steps=8), "expected 1 to 8"),
        (lambda: make_plan(SAMPLERS["PNDM"], SCHEDULE, 3), "expected 4 to"),
        *(
            (
                partial(make_plan, SAMPLERS[name], SCHEDULE, 2, "SGM uniform"),
                f"got {name} with the schedule SGM uniform, .* noise level 1\\.",
            )
            for name in ("DPM fast", "DPM adaptive")
        ),
        (
            lambda: sample(SAMPLERS["Euler a"], None, jnp.ones((1, 1)), None),
            "pass noise_fn",
        ),
    ],
)
def test_bad_input_is_refused_in_one_line(call, words):
    with pytest.raises(UserError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
