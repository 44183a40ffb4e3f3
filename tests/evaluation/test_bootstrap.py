"""Bootstrap intervals against what is known of means, ratios and distances."""

import numpy as np
import pytest

from colorize_jax.errors import UserError
from colorize_jax.evaluation import bootstrap
from colorize_jax.evaluation.bootstrap import count, interval, ratio_interval, statistic_interval
from colorize_jax.evaluation.distributions import frechet_distance

NAN, INFINITE = float("nan"), float("inf")


def test_interval_of_a_normal_mean():
    """1.96 standard errors to either side of it."""
    values = np.random.default_rng(0).standard_normal(400) * 3 + 5
    low, high = interval(values, seed=1)
    reach = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - reach, abs=0.1 * reach)
    assert high == pytest.approx(values.mean() + reach, abs=0.1 * reach)
    assert interval(values, level=0.5, seed=1)[1] < high


def test_the_seed_alone_decides():
    values = np.arange(30.0)
    assert interval(values, seed=4) == interval(values, seed=4) != interval(values, seed=5)


def test_chunks_bound_the_memory(monkeypatch):
    values = np.random.default_rng(0).standard_normal(50)
    whole = interval(values, seed=0)
    monkeypatch.setattr(bootstrap, "CHUNK", 500)
    assert interval(values, seed=0) == pytest.approx(whole)


def test_nan_is_no_value():
    values = np.array([NAN, 1, 2, NAN, 4])
    assert count(values) == 3
    assert interval(values, seed=0) == interval(values[[1, 2, 4]], seed=0)
    for few in ([], [NAN, 3.0]):
        assert np.isnan(interval(np.array(few), seed=0)).all()


def test_infinite_values_give_infinite_ends():
    low, high = interval(np.array([20.0] * 9 + [INFINITE]), seed=0)
    assert (low, high) == (20, INFINITE)


def test_ratios_of_pairs():
    """Pairs are drawn together: where a is twice b in each, nothing is left to chance."""
    b = np.random.default_rng(0).uniform(1, 9, 40)
    assert ratio_interval(2 * b, b, seed=0) == pytest.approx((2, 2))
    low, high = ratio_interval(b[::-1], b, seed=0)
    assert low < 1 < high
    assert ratio_interval(np.append(2 * b, 5), np.append(b, NAN), seed=0) == pytest.approx((2, 2))
    with pytest.raises(UserError, match="expected pairs"):
        ratio_interval(b, b[1:], seed=0)


def test_statistic_interval_surrounds_the_figure():
    """Not so the percentiles of resampled distances, all of which rows taken twice raise."""
    random = np.random.default_rng(0)
    a, b = random.standard_normal((60, 6)), random.standard_normal((60, 6))
    figure = frechet_distance(a, b)
    low, high = statistic_interval(a, b, fn=frechet_distance, seed=0)
    assert low < figure < high
    assert high - figure == pytest.approx(figure - low)
    wide = statistic_interval(a, b, fn=frechet_distance, level=0.99, seed=0)
    assert wide[0] < low < high < wide[1]
    assert np.isnan(statistic_interval(a[:1], b, fn=frechet_distance, seed=0)).all()


def test_statistic_interval_of_a_mean_is_that_of_its_standard_error():
    values = np.random.default_rng(3).standard_normal((500, 1))
    low, high = statistic_interval(values, fn=np.mean, num_resamples=400, seed=0)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(500), rel=0.1)
