"""Confidence intervals by bootstrap: how far a figure would move with other pictures.

Pictures are drawn anew, with replacement, and the figure computed again (Efron 1979). The same seed
gives the same interval.
"""

from collections.abc import Callable, Iterator

import numpy as np
from scipy.special import ndtri

from colorize_jax.errors import UserError

CHUNK = 4_000_000  # indices drawn at a time, which bounds the memory


def count(values: np.ndarray) -> int:
    """How many values there are beside NaN: the sample count of a mean and its `interval`."""
    return int(np.sum(~np.isnan(np.asarray(values, np.float64))))


def interval(
    values: np.ndarray, level: float = 0.95, num_resamples: int = 2000, *, seed: int
) -> tuple[float, float]:
    """Percentile interval of a mean.

    Args:
        values: (N,) one a picture; NaN stands for a picture that has no such value.
        level: share of resamples inside, 0..1.
        num_resamples: how often pictures are drawn.
        seed: of the draws.

    Returns:
        Low and high end; NaN for both with fewer than two values, infinite where so many resamples
        hold an infinite value.
    """
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return float("nan"), float("nan")
    means = [values[rows].mean(axis=1) for rows in _draws(len(values), num_resamples, seed)]
    return _percentiles(np.concatenate(means), level)


def ratio_interval(
    a: np.ndarray, b: np.ndarray, level: float = 0.95, num_resamples: int = 2000, *, seed: int
) -> tuple[float, float]:
    """Percentile interval of mean(a) / mean(b), over pairs that are drawn together.

    Args:
        a, b: (N,) of the same pictures; a pair with a NaN is left out.
        level, num_resamples, seed: as of `interval`.

    Returns:
        Low and high end; NaN for both with fewer than two pairs.

    Raises:
        UserError: the lengths differ.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        raise UserError(
            f"got {len(a)} and {len(b)} values for a ratio, expected pairs; give both of every "
            "picture, NaN where it has none"
        )
    kept = ~np.isnan(a + b)
    a, b = a[kept], b[kept]
    if len(a) < 2:
        return float("nan"), float("nan")
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = [
            a[rows].mean(axis=1) / b[rows].mean(axis=1)
            for rows in _draws(len(a), num_resamples, seed)
        ]
    return _percentiles(np.concatenate(ratios), level)


def statistic_interval(
    *features: np.ndarray,
    fn: Callable[..., float],
    level: float = 0.95,
    num_resamples: int = 30,
    seed: int,
) -> tuple[float, float]:
    """Interval of a distance of distributions, such as FID, from few resamples.

    A resample holds some pictures twice, which raises these distances: their spread is that of the
    figure, their mean is not. The interval is therefore the figure, plus and minus the resamples'
    standard deviation times the normal distribution's quantile.

    Args:
        features: (N, D) one or several sets; rows of each are drawn on their own.
        fn: takes as many sets, returns the figure.
        level: of a normal distribution, 0..1.
        num_resamples: how often it is computed again.
        seed: of the draws.

    Returns:
        Low and high end; NaN for both where a set has fewer than two rows.
    """
    if any(len(rows) < 2 for rows in features):
        return float("nan"), float("nan")
    random = np.random.default_rng(seed)
    resamples = [
        fn(*(rows[np.sort(random.integers(len(rows), size=len(rows)))] for rows in features))
        for _ in range(num_resamples)
    ]
    figure = fn(*features)
    reach = float(ndtri((1 + level) / 2)) * float(np.std(resamples, ddof=1))
    return figure - reach, figure + reach


def _draws(size: int, num_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield indices (some resamples, size) until there are `num_resamples`."""
    random = np.random.default_rng(seed)
    chunk = max(1, CHUNK // size)
    for start in range(0, num_resamples, chunk):
        yield random.integers(size, size=(min(chunk, num_resamples - start), size))


def _percentiles(resamples: np.ndarray, level: float) -> tuple[float, float]:
    # Without interpolation: that of two infinities would be NaN.
    ends = ((1 - level) / 2, (1 + level) / 2)
    low, high = np.quantile(resamples, ends, method="inverted_cdf")
    return float(low), float(high)
