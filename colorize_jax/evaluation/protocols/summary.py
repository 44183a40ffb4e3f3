"""From the scores of pairs to the figures of an evaluation, each with its interval and count."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from colorize_jax.evaluation import bootstrap, distributions
from colorize_jax.evaluation.protocols.features import TRUTH
from colorize_jax.evaluation.protocols.progress import Progress

LEVEL = 0.95
NUM_SUBSETS = 10  # of KID, in each of which a thousand pictures are compared
SET_RESAMPLES = 20  # of distances between sets, each of which costs a square root of a matrix
# Ratio -> the scores of which it is: less is better, 1 is no difference.
RATIOS = {
    "color_error": ("color_error_cross", "color_error_other"),
    "background_error": ("background_error_plugin", "background_error_plain"),
    "figure_error": ("figure_error_plugin", "figure_error_plain"),
    "hinted_error": ("hinted_error_hinted", "hinted_error_plain"),
    "hinted_part_error": ("hinted_part_error_hinted", "hinted_part_error_plain"),
    "other_parts_color_error": ("color_error_hinted", "color_error_plain"),
}


@dataclass(frozen=True)
class Figure:
    """A number and how sure it is.

    Attributes:
        value: of all pairs; None where none has it.
        low, high: ends of the 95 % interval, by bootstrap over pairs; None for too few of them.
        count: of pairs.
    """

    value: float | None
    low: float | None
    high: float | None
    count: int


def summarize(progress: Progress, seed: int = 0) -> dict[str, Any]:
    """Mean every score over the pairs that have it, and measure distances between sets.

    Args:
        progress: of all pairs.
        seed: of the resampling.

    Returns:
        num_pairs, and of those problems (name -> reason); means, ratios and distances: name ->
        `Figure` as a dictionary; doubts: what a figure is not worth, in sentences.
    """
    rows = [progress.rows[index] for index in sorted(progress.rows)]
    scored = [row for row in rows if "scores" in row]
    names = dict.fromkeys(name for row in scored for name in row["scores"])
    columns = {
        name: np.array([row["scores"].get(name, np.nan) for row in scored], float) for name in names
    }
    distances, doubts = _distances(progress, [row["index"] for row in scored], seed)
    return {
        "num_pairs": len(rows),
        "problems": {row["name"]: row["problem"] for row in rows if "problem" in row},
        "means": {name: _mean(values, seed) for name, values in columns.items()},
        "ratios": {
            name: _ratio(columns[one], columns[other], seed)
            for name, (one, other) in RATIOS.items()
            if one in columns and other in columns
        },
        "distances": distances,
        "doubts": doubts,
    }


def _mean(values: np.ndarray, seed: int) -> dict[str, Any]:
    known = values[~np.isnan(values)]
    ends = bootstrap.interval(known, level=LEVEL, seed=seed)
    return _figure(known.mean() if known.size else np.nan, ends, known.size)


def _ratio(one: np.ndarray, other: np.ndarray, seed: int) -> dict[str, Any]:
    known = ~np.isnan(one + other)
    one, other = one[known], other[known]
    ends = bootstrap.ratio_interval(one, other, level=LEVEL, seed=seed)
    return _figure(one.mean() / other.mean() if one.size else np.nan, ends, one.size)


def _figure(value: float, ends: tuple[float, float], count: int) -> dict[str, Any]:
    """As JSON has it, which knows no NaN."""
    numbers = (None if np.isnan(number) else float(number) for number in (value, *ends))
    return asdict(Figure(*numbers, int(count)))


def _distances(
    progress: Progress, done: list[int], seed: int
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Distances of the results' features from the truths': FID, KID and CMMD of every kind."""
    measured: dict[str, dict[str, Any]] = {}
    doubts: dict[str, None] = {}
    for network, measures in _SETS.items():
        truth = f"{network}_{TRUTH}"
        kinds = [n for n in progress.feature_names() if n.startswith(f"{network}_") and n != truth]
        for name in kinds:
            rows = [i for i in done if _has(progress.rows[i], name.removeprefix(f"{network}_"))]
            pictures, truths = progress.features(name)[rows], progress.features(truth)[rows]
            for measure, distance in measures.items():
                doubt = distributions.too_few(measure.removeprefix("clean_"), len(rows))
                if doubt:
                    doubts[doubt] = None
                if len(rows) < 2:
                    continue
                ends = bootstrap.statistic_interval(
                    np.concatenate([pictures, truths], axis=1),  # rows are pairs
                    fn=_of_pairs(distance),
                    level=LEVEL,
                    num_resamples=SET_RESAMPLES,
                    seed=seed,
                )
                kind = name.removeprefix(f"{network}_")
                measured[f"{measure}_{kind}"] = _figure(distance(pictures, truths), ends, len(rows))
    return measured, list(doubts)


def _has(row: Mapping[str, Any], kind: str) -> bool:
    """Whether a pair has a result of a kind."""
    return any(name.endswith(f"_{kind}") for name in row["scores"])


def _of_pairs(distance: Callable[..., float]) -> Callable[[np.ndarray], float]:
    return lambda rows: distance(*np.split(rows, 2, axis=1))


def _kid(one: np.ndarray, other: np.ndarray) -> float:
    size = min(len(one), 1000)
    mean, _ = distributions.kernel_distance(
        one, other, num_subsets=NUM_SUBSETS, subset_size=size, seed=0
    )
    return mean


_SETS = {
    "inception": {"fid": distributions.frechet_distance, "kid": _kid},
    "clean": {"clean_fid": distributions.frechet_distance},
    "clip": {"cmmd": distributions.clip_mmd},
}
