"""The noise schedule: hand-computed values, inverses, golden case."""

from pathlib import Path

import jax
import numpy as np
import pytest

from colorize_jax.diffusion.schedule import (
    corrupt,
    make_schedule,
    min_snr_weight,
    predict_clean,
    sigma_to_t,
    snr,
    t_to_sigma,
    target,
    velocity,
)
from colorize_jax.errors import UserError
from colorize_jax.verify import verify_folder

GOLDEN = Path(__file__).parents[1] / "golden" / "schedule"


@pytest.fixture(scope="module")
def two_steps():
    """betas 1/4 and 9/16: abar is 3/4, then 3/4 * 7/16 = 21/64."""
    return make_schedule(beta_start=1 / 4, beta_end=9 / 16, num_timesteps=2)


def test_tables_by_hand(two_steps):
    np.testing.assert_allclose(two_steps.betas, [1 / 4, 9 / 16], rtol=1e-15)
    np.testing.assert_allclose(two_steps.alphas_cumprod, [3 / 4, 21 / 64], rtol=1e-15)
    np.testing.assert_allclose(two_steps.sigmas**2, [1 / 3, 43 / 21], rtol=1e-15)
    assert two_steps.alphas_cumprod.dtype == np.float64


def test_forward_process_by_hand(two_steps):
    latents, noise = np.full((2, 1), 2.0, np.float32), np.full((2, 1), 1.0, np.float32)
    t = np.array([0, 1])
    signal, spread = np.sqrt([[3 / 4], [21 / 64]]), np.sqrt([[1 / 4], [43 / 64]])
    np.testing.assert_allclose(
        corrupt(two_steps, latents, noise, t), 2 * signal + spread, rtol=1e-6
    )
    np.testing.assert_allclose(
        velocity(two_steps, latents, noise, t), signal - 2 * spread, rtol=1e-6
    )


@pytest.mark.parametrize("prediction_type", ["v", "eps"])
def test_the_target_predicts_the_clean_latents(prediction_type):
    schedule = make_schedule()
    latents, noise = np.random.default_rng(0).standard_normal((2, 5, 4, 4, 3)).astype(np.float32)
    t = np.array([0, 1, 400, 900, 999])
    noisy = corrupt(schedule, latents, noise, t)
    prediction = target(schedule, latents, noise, t, prediction_type)
    clean = predict_clean(schedule, prediction, noisy, t, prediction_type)
    np.testing.assert_allclose(clean, latents, atol=1e-5)


def test_zero_terminal_snr_ends_in_noise_alone_and_keeps_the_first_step():
    plain, zero = make_schedule(), make_schedule(zero_terminal_snr=True)
    assert zero.alphas_cumprod[-1] == 0
    assert zero.alphas_cumprod[0] == pytest.approx(plain.alphas_cumprod[0], rel=1e-12)
    assert np.isfinite(zero.sigmas).all() and (np.diff(zero.sigmas) > 0).all()
    noise = np.ones((1, 2), np.float32)
    np.testing.assert_array_equal(corrupt(zero, 5 * noise, noise, np.array([999])), noise)


def test_min_snr_weights_by_hand(two_steps):
    """SNR is 3 and 21/43; per sample, never above 1."""
    t = np.array([0, 1, 0])
    np.testing.assert_allclose(snr(two_steps, t), [3, 21 / 43, 3], rtol=1e-6)
    np.testing.assert_allclose(
        min_snr_weight(two_steps, t, 2.0, "eps"), [2 / 3, 1, 2 / 3], rtol=1e-6
    )
    np.testing.assert_allclose(min_snr_weight(two_steps, t, 2.0, "v"), [1 / 2, 1, 1 / 2], rtol=1e-6)


def test_min_snr_weights_are_finite_at_zero_snr():
    schedule = make_schedule(zero_terminal_snr=True)
    for prediction_type in ("v", "eps"):
        assert min_snr_weight(schedule, np.array([999]), 5.0, prediction_type) == 1


def test_sigma_and_timestep_are_inverse_and_clamped():
    schedule = make_schedule()
    t = np.array([0.0, 0.25, 37.5, 998.5, 999.0], np.float32)
    np.testing.assert_allclose(sigma_to_t(schedule, t_to_sigma(schedule, t)), t, atol=2e-3)
    middle = np.sqrt(schedule.sigmas[10] * schedule.sigmas[11])
    assert sigma_to_t(schedule, np.float32(middle)) == pytest.approx(10.5, abs=1e-3)
    assert sigma_to_t(schedule, np.float32(1e-6)) == 0
    assert sigma_to_t(schedule, np.float32(1e6)) == 999


def test_a_schedule_may_be_a_static_argument():
    weights = jax.jit(min_snr_weight, static_argnums=(0, 2, 3))
    schedule = make_schedule()
    for _ in range(2):
        weights(schedule, np.array([3]), 5.0, "v")
    assert weights._cache_size() == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"beta_start": 0.0}, "0 < beta_start"),
        ({"beta_end": 1.0}, "0 < beta_start"),
        ({"beta_start": 0.5, "beta_end": 0.1}, "0 < beta_start"),
        ({"num_timesteps": 1}, "at least 2"),
    ],
)
def test_impossible_schedules_are_refused(arguments, words):
    with pytest.raises(UserError, match=words):
        make_schedule(**arguments)


def test_an_unknown_prediction_type_names_the_nearest():
    with pytest.raises(UserError, match='nearest: "eps"'):
        min_snr_weight(make_schedule(), np.array([0]), 5.0, "epsilon")


def test_golden_case():
    checks = list(verify_folder(GOLDEN))
    assert checks and [check for check in checks if not check.passed] == []
