"""Distances of two sets of pictures by a network's features: FID, KID and CMMD.

Feature sets are (N, D) arrays of floats, in memory or mapped from a file: they are read in blocks,
and what is computed is float64. None of the three depends on the order of the rows, but KID's
subsets, which follow from the order and a seed.
"""

from collections.abc import Iterator

import numpy as np
from scipy import linalg

from colorize_jax.errors import UserError

BLOCK = 1024  # rows at a time

# CMMD's kernel and unit: Jayasumana et al. 2024, "Rethinking FID".
CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0

# Figure -> (samples of each set that it wants, what it is worth with fewer).
FEW_SAMPLES = {
    "fid": (
        10_000,
        "it is biased upwards, the more the fewer pictures there are: compare it only with figures "
        "of as many, and prefer KID or CMMD",
    ),
    "kid": (
        1_000,
        "it has no bias, but scatters: read it together with its deviation and its interval",
    ),
    "cmmd": (
        1_000,
        "it is biased upwards by at most 20 / N for each set of N: mind differences of that size",
    ),
}


def too_few(name: str, count: int) -> str | None:
    """The warning that belongs to a figure of few pictures.

    Args:
        name: a key of `FEW_SAMPLES`.
        count: pictures of the smaller set.

    Returns:
        One sentence, or None where there are enough.
    """
    wanted, worth = FEW_SAMPLES[name]
    if count >= wanted:
        return None
    return f"{name.upper()} of {count:,} pictures, where it wants {wanted:,}: {worth}"


def frechet_distance(features_a: np.ndarray, features_b: np.ndarray) -> float:
    """Frechet distance of the Gaussians with the sets' means and covariances; FID's formula.

    |mean_a - mean_b|^2 + tr(A + B - 2 sqrt(A B)), with covariances A and B of N - 1 degrees of
    freedom (Heusel et al. 2017). With A = P'P and B = Q'Q the trace of sqrt(A B) is the sum of the
    singular values of P Q', which exists whatever the ranks: no matrix root, no imaginary part,
    nothing to add to the diagonal. Wants 10,000 rows a set (see `FEW_SAMPLES`).

    Args:
        features_a, features_b: (N, D) and (M, D) floats: 2048 of Inception for FID.

    Returns:
        0 or more, but for rounding.

    Raises:
        UserError: widths differ, a set has fewer than two rows, or a value is not finite.
    """
    _check(features_a, features_b, rows=2)
    (mean_a, root_a), (mean_b, root_b) = map(_gaussian, (features_a, features_b))
    cross = linalg.svdvals(root_a @ root_b.T, check_finite=False).sum()
    difference = mean_a - mean_b
    traces = np.sum(root_a**2) + np.sum(root_b**2)
    return float(difference @ difference + traces - 2 * cross)


def kernel_distance(
    features_a: np.ndarray,
    features_b: np.ndarray,
    *,
    num_subsets: int = 100,
    subset_size: int = 1000,
    seed: int,
) -> tuple[float, float]:
    """Unbiased squared MMD under the kernel (x y / D + 1)^3, mean over subsets; KID.

    Binkowski et al. 2018. Subsets are drawn as torch-fidelity draws them, so that one seed gives
    both the same figure. Wants 1,000 rows a set (see `FEW_SAMPLES`).

    Args:
        features_a, features_b: (N, D) and (M, D) floats: 2048 of Inception for KID.
        num_subsets: how many are drawn.
        subset_size: rows of each set in a subset.
        seed: of the draws.

    Returns:
        Mean and standard deviation over subsets; the mean of equal distributions is 0 on average,
        and may be slightly negative.

    Raises:
        UserError: widths differ, a set is smaller than a subset, or a value is not finite.
    """
    _check(features_a, features_b, rows=max(2, subset_size), remedy="lower subset_size, or ")
    random = np.random.RandomState(seed)
    distances = []
    # Where each subset is the whole set, one says all.
    whole = subset_size == len(features_a) == len(features_b)
    for _ in range(1 if whole else num_subsets):
        a, b = (
            np.asarray(set_[random.choice(len(set_), subset_size, replace=False)], np.float64)
            for set_ in (features_a, features_b)
        )
        own = sum((k.sum() - np.trace(k)) for k in (_cubic_kernel(a, a), _cubic_kernel(b, b)))
        cross = _cubic_kernel(a, b).mean()
        distances.append(own / (subset_size * (subset_size - 1)) - 2 * cross)
    return float(np.mean(distances)), float(np.std(distances))


def clip_mmd(features_a: np.ndarray, features_b: np.ndarray) -> float:
    """CMMD: 1000 times the squared MMD of CLIP embeddings under a Gaussian kernel of sigma 10.

    Jayasumana et al. 2024, with the estimator of their implementation, which keeps the diagonal.
    Embeddings are brought to unit length here. Published figures are those of ViT-L/14 at 336 px;
    other towers give others. Wants 1,000 rows a set (see `FEW_SAMPLES`).

    Args:
        features_a, features_b: (N, D) and (M, D) CLIP's projected class tokens.

    Returns:
        0 or more, but for rounding.

    Raises:
        UserError: widths differ, a set is empty, or a value is not finite or an embedding zero.
    """
    _check(features_a, features_b, rows=1)
    # All entries are near 1: their differences from 1 keep the digits.
    own = _mean_kernel(features_a, features_a) + _mean_kernel(features_b, features_b)
    return float(CMMD_SCALE * (own - 2 * _mean_kernel(features_a, features_b)))


def _gaussian(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and a root P (R, D) of the covariance P'P, with the fewest rows."""
    count, width = features.shape
    mean = sum(block.sum(axis=0) for block in _blocks(features)) / count
    if count <= width:
        centred = np.concatenate([block - mean for block in _blocks(features)])
        return mean, centred / np.sqrt(count - 1)
    covariance = np.zeros((width, width))
    for block in _blocks(features):
        covariance += (block - mean).T @ (block - mean)
    return mean, _root(covariance / (count - 1))


def _root(covariance: np.ndarray) -> np.ndarray:
    """P (R, D) with P'P = covariance, of its rank R: Cholesky's root with the largest pivot first.

    What is left of a covariance without full rank is rounding, and is left out.
    """
    factor, order, rank, info = linalg.lapack.dpstrf(covariance)
    if info < 0:
        raise ValueError(f"argument {-info} of the Cholesky factorization is illegal")
    root = np.empty((rank, len(covariance)))
    root[:, order - 1] = np.triu(factor)[:rank]
    return root


def _cubic_kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _mean_kernel(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over all pairs of exp(-|x - y|^2 / (2 sigma^2)) - 1, of rows at unit length."""
    total = 0.0
    for x in map(_unit_rows, _blocks(a)):
        for y in map(_unit_rows, _blocks(b)):
            total += np.expm1((x @ y.T - 1) / CMMD_SIGMA**2).sum()
    return total / (len(a) * len(b))


def _unit_rows(x: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    if not lengths.all():
        raise UserError("got a CLIP embedding of zeros, expected none; check the network's weights")
    return x / lengths


def _blocks(features: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(features), BLOCK):
        yield np.asarray(features[start : start + BLOCK], np.float64)


def _check(a: np.ndarray, b: np.ndarray, rows: int, remedy: str = "") -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise UserError(
            f"got features of shapes {a.shape} and {b.shape}, expected (N, D) and (M, D); take "
            "both from one network"
        )
    if min(len(a), len(b)) < rows:
        raise UserError(
            f"got {len(a)} and {len(b)} pictures, expected at least {rows} of each; "
            f"{remedy}give more"
        )
    if not all(np.isfinite(block).all() for set_ in (a, b) for block in _blocks(set_)):
        raise UserError(
            "got features with NaN or infinity, expected finite ones; check the pictures and the "
            "network's weights"
        )
