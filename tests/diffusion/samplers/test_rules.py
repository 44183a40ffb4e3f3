"""The update rules: hand-computed values, exact solutions, order of convergence, golden case."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from colorize_jax.diffusion.samplers import SAMPLERS, Plan, make_plan, noise_from_keys, sample
from colorize_jax.diffusion.samplers.dpm_solver import _fast_position
from colorize_jax.diffusion.samplers.loops import ancestral_levels
from colorize_jax.diffusion.samplers.multistep import multistep_coefficients
from colorize_jax.diffusion.schedule import make_schedule
from colorize_jax.verify import verify_folder

GOLDEN = Path(__file__).parents[2] / "golden" / "samplers"
SCHEDULE = make_schedule()
START = jnp.array([[1.0, -2.0, 0.5]])


def half(x, sigma):
    return x / 2


def plan_of(*sigmas):
    return Plan(jnp.array(sigmas, jnp.float32), jnp.int32(len(sigmas) - 1))


def gaussian(x, sigma):
    """The exact denoiser of standard normal data: x follows sqrt(1 + sigma^2)."""
    return x / (1 + sigma**2)


@partial(jax.jit, static_argnums=0)
def solve(name, plan):
    return sample(SAMPLERS[name], gaussian, START, plan, prediction_type="eps")


def test_euler_by_hand():
    """From 2 * 3 with x0 = 1: slope (6 - 1) / 3, one step to level 1, then onto x0."""
    x = sample(
        SAMPLERS["Euler"], lambda x, sigma: jnp.ones_like(x), jnp.full((1, 1), 2.0), plan_of(3, 1)
    )
    np.testing.assert_allclose(x, 6 - 5 / 3 * 2, rtol=1e-6)
    x = sample(
        SAMPLERS["Euler"],
        lambda x, sigma: jnp.ones_like(x),
        jnp.full((1, 1), 2.0),
        plan_of(3, 1, 0),
    )
    np.testing.assert_allclose(x, 1, rtol=1e-6)


def test_heun_by_hand():
    """x0 = x / 2: slopes 6 / 2 / 3 = 1 at level 3, then 4 / 2 / 1 = 2 at level 1; mean 1.5."""
    x = sample(SAMPLERS["Heun"], half, jnp.full((1, 1), 2.0), plan_of(3, 1))
    np.testing.assert_allclose(x, 6 - 1.5 * 2, rtol=1e-6)


def test_dpm2_looks_at_the_geometric_middle():
    """From 4 to 1: slope 8 / 2 / 4 = 1 to 6 at level 2, there 6 / 2 / 2 = 1.5 for the step."""
    x = sample(SAMPLERS["DPM2"], half, jnp.full((1, 1), 2.0), plan_of(4, 1))
    np.testing.assert_allclose(x, 8 - 1.5 * 3, rtol=1e-6)


def test_dpmpp_2m_by_hand():
    """Levels e^2, e, 1: h is 1; x0 is the sigma asked for, extrapolated to 1.5 e - 0.5 e^2."""
    e = np.e
    start = jnp.full((1, 1), 2.0)

    def level(x, sigma):
        return jnp.full_like(x, sigma)

    x = sample(SAMPLERS["DPM++ 2M"], level, start, plan_of(e**2, e, 1))
    first = 2 * e**2 / e + (1 - 1 / e) * e**2
    second = first / e + (1 - 1 / e) * (1.5 * e - 0.5 * e**2)
    np.testing.assert_allclose(x, second, rtol=1e-5)


def test_ancestral_levels_by_hand():
    """From 2 to 1: up = sqrt(1 * 3 / 4), down = 1 / 2."""
    down, up = ancestral_levels(jnp.float32(2), jnp.float32(1))
    assert (float(down), float(up)) == pytest.approx((0.5, 0.75**0.5))
    assert [float(level) for level in ancestral_levels(jnp.float32(2), jnp.float32(0))] == [0, 0]


@pytest.mark.parametrize("i", [0, 1, 2, 3, 5])
def test_multistep_coefficients_are_the_integrals(i):
    sigmas = np.array([14.6, 9.0, 5.5, 3.0, 1.2, 0.4, 0.0])
    order = min(i + 1, 4)

    def basis(j, sigma):
        others = [sigmas[i - k] for k in range(order) if k != j]
        return np.prod([(sigma - node) / (sigmas[i - j] - node) for node in others])

    expected = [
        scipy.integrate.quad(lambda s, j=j: basis(j, s), sigmas[i], sigmas[i + 1])[0]
        for j in range(order)
    ]
    ours = multistep_coefficients(jnp.asarray(sigmas, jnp.float32), jnp.int32(i))
    np.testing.assert_allclose(ours, expected + [0.0] * (4 - order), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("budget", range(1, 11))
def test_dpm_fast_spends_its_budget(budget):
    if budget % 3 == 0:
        orders = [3] * (budget // 3 - 1) + [2, 1]
    else:
        orders = [3] * (budget // 3) + [budget % 3]
    expected = [(i, stage, order) for i, order in enumerate(orders) for stage in range(order)]
    ours = [tuple(map(int, _fast_position(jnp.int32(k), budget))) for k in range(budget)]
    assert ours == expected[: len(ours)] and len(expected) == budget


@pytest.mark.parametrize(
    ("name", "order"),
    [("Euler", 1), ("Heun", 2), ("DPM2", 2), ("LMS", 2), ("DPM++ 2M", 2)],
)
def test_errors_shrink_with_the_order(name, order):
    """Against the exact solution for Gaussian data, from level 3 to 0.2 in 32 and in 64 steps."""
    errors = []
    for num_steps in (32, 64):
        plan = plan_of(*np.geomspace(3, 0.2, num_steps + 1))
        exact = START * 3 * np.sqrt((1 + 0.2**2) / (1 + 3**2))
        errors.append(float(jnp.abs(solve(name, plan) - exact).max()))
    assert errors[1] < errors[0] / 2 ** (order - 0.15)


@pytest.mark.parametrize("name", ["DDIM", "DPM-Solver++", "PNDM", "LMS diffusers"])
def test_diffusers_samplers_keep_unit_variance(name):
    """Standard normal data stay standard normal: the exact solution is the start itself."""
    x = solve(name, make_plan(SAMPLERS[name], SCHEDULE, 50))
    np.testing.assert_allclose(x, START, atol=0.06)


STOCHASTIC = [name for name, sampler in SAMPLERS.items() if sampler.stochastic]


@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_samplers_keep_the_distribution(name):
    """Standard normal data come out standard normal."""
    plan = make_plan(SAMPLERS[name], SCHEDULE, 40)
    draws = jax.random.normal(jax.random.key(0), (101, 1, 5_000))

    @jax.jit
    def run(plan):
        def noise_fn(k):
            return draws[1 + k]

        return sample(SAMPLERS[name], gaussian, draws[0], plan, noise_fn, per_sample=False)

    x = run(plan)
    assert float(x.std()) == pytest.approx(1, abs=0.09)
    assert float(x.mean()) == pytest.approx(0, abs=0.05)


def test_golden_case():
    checks = list(verify_folder(GOLDEN))
    assert len(checks) == 49 and [check for check in checks if not check.passed] == []


@pytest.mark.parametrize("num_steps", [2, 5, 12])
@pytest.mark.parametrize("name", SAMPLERS)
def test_equal_levels_are_left_out_and_give_numbers(name, num_steps):
    # Signal vanishes in half of the timesteps, whose levels are bounded.
    schedule = make_schedule(0.03, 0.03)
    if num_steps < SAMPLERS[name].min_steps:
        pytest.skip("too few for it")
    plan = make_plan(SAMPLERS[name], schedule, num_steps, "uniform")
    if name not in ("DPM fast", "DPM adaptive", "PNDM"):
        levels = plan.sigmas[: plan.num_steps + 1]
        assert (np.diff(levels) < 0).all() and levels[-1] == 0
        assert 1 <= plan.num_steps <= num_steps
    noise_fn = noise_from_keys(jax.random.split(jax.random.key(0), 1), START.shape[1:])
    found = sample(SAMPLERS[name], gaussian, START, plan, noise_fn, prediction_type="eps")
    assert np.isfinite(found).all()
