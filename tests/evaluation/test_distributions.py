"""FID, KID and CMMD by hand on a few numbers, and against torch-fidelity."""

import numpy as np
import pytest
from torchvision_stand_in import import_reference

from colorize_jax.errors import UserError
from colorize_jax.evaluation import distributions
from colorize_jax.evaluation.distributions import (
    clip_mmd,
    frechet_distance,
    kernel_distance,
    too_few,
)


def two_sets(count=400, other=350, width=24, seed=0):
    """Correlated features of two distributions that differ in mean and covariance."""
    random = np.random.default_rng(seed)
    mix = random.standard_normal((width, width)) / np.sqrt(width)
    a = random.standard_normal((count, width)) @ mix + 0.3
    b = random.standard_normal((other, width)) @ mix.T * 1.2
    return np.abs(a).astype(np.float32), np.abs(b).astype(np.float32)


@pytest.mark.parametrize("extra", [0, 4], ids=["full rank", "more columns than rows"])
def test_frechet_distance_by_hand(extra):
    """Means 0 and 3, variances 2 and 8: 9 + 2 + 8 - 2 sqrt(16)."""
    a, b = np.array([[-1.0], [1]]), np.array([[1.0], [5]])
    a, b = (np.pad(x, ((0, 0), (0, extra))) for x in (a, b))
    assert frechet_distance(a, b) == pytest.approx(11)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_both_roots_of_the_covariance_agree():
    """With as many rows as columns either may be taken; columns of zeros add nothing."""
    a, b = two_sets(30, 40, 20)
    wide = [np.pad(x, ((0, 0), (0, 30))) for x in (a, b)]
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(*wide), rel=1e-9)


def test_columns_that_depend_on_each_other():
    """Their covariance has no full rank: a column twice is one that is longer by sqrt(2)."""
    a, b = (np.float64(x) for x in two_sets(200, 220, 12))
    twice = [np.concatenate([x, x[:, :1], 0 * x[:, :2] + 3], axis=1) for x in (a, b)]
    for x in (a, b):
        x[:, 0] *= np.sqrt(2)
    assert frechet_distance(*twice) == pytest.approx(frechet_distance(a, b), rel=1e-6)


def test_kernel_distance_by_hand():
    """Kernels (xy + 1)^3: 1 within {0, 1}, 27 within {1, 2}, (1 + 1 + 8 + 27) / 4 across."""
    a, b = np.array([[0.0], [1]]), np.array([[1.0], [2]])
    mean, deviation = kernel_distance(a, b, num_subsets=3, subset_size=2, seed=0)
    assert mean == pytest.approx(1 + 27 - 2 * 37 / 4)
    assert deviation == pytest.approx(0, abs=1e-12)


def test_kernel_distance_follows_its_seed():
    a, b = two_sets()
    options = {"num_subsets": 5, "subset_size": 100}
    first, again, other = (kernel_distance(a, b, **options, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert first[1] > 0


def test_clip_mmd_by_hand():
    """Embeddings at right angles, whatever their length: squared distance 2."""
    a, b = np.array([[3.0, 0]]), np.array([[0, 0.5]])
    assert clip_mmd(a, b) == pytest.approx(1000 * (2 - 2 * np.exp(-2 / 200)))
    assert clip_mmd(a, 2 * a) == pytest.approx(0, abs=1e-9)


def test_clip_mmd_equals_the_published_formula():
    """The estimator with its diagonal, written out over all pairs of embeddings."""
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in map(np.float64, two_sets()))

    def mean(x, y):
        return np.exp(-((x[:, None] - y[None]) ** 2).sum(-1) / (2 * 10**2)).mean()

    expected = 1000 * (mean(a, a) + mean(b, b) - 2 * mean(a, b))
    assert clip_mmd(a, b) == pytest.approx(expected, rel=1e-9)


def test_blocks_and_files_change_nothing(monkeypatch, tmp_path):
    a, b = two_sets(60, 50, 8)
    whole = frechet_distance(a, b), clip_mmd(a, b)
    np.save(tmp_path / "a.npy", a)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    monkeypatch.setattr(distributions, "BLOCK", 7)
    assert (frechet_distance(mapped, b), clip_mmd(mapped, b)) == pytest.approx(whole, rel=1e-10)


def test_unusable_features_are_refused():
    a, b = two_sets(20, 20, 4)
    with pytest.raises(UserError, match="one network"):
        frechet_distance(a, b[:, :3])
    with pytest.raises(UserError, match="at least 2"):
        frechet_distance(a[:1], b)
    with pytest.raises(UserError, match="lower subset_size"):
        kernel_distance(a, b, subset_size=21, seed=0)
    with pytest.raises(UserError, match="NaN or infinity"):
        clip_mmd(a, b * np.nan)
    with pytest.raises(UserError, match="zeros"):
        clip_mmd(a, 0 * b)


def test_too_few_says_how_many_are_wanted():
    assert too_few("fid", 10_000) is too_few("kid", 1_000) is None
    assert too_few("fid", 500).startswith(
        "FID of 500 pictures, where it wants 10,000: it is biased"
    )
    assert "scatters" in too_few("kid", 999)
    assert "20 / N" in too_few("cmmd", 999)


@pytest.mark.interop
def test_equal_to_torch_fidelity():
    """The figures of torch-fidelity on the same features and, of KID, the same subsets."""
    metric_fid = import_reference("torch_fidelity.metric_fid")
    metric_kid = import_reference("torch_fidelity.metric_kid")
    import torch

    a, b = two_sets()
    tensors = [torch.from_numpy(x) for x in (a, b)]
    statistics = [metric_fid.fid_features_to_statistics(x.double()) for x in tensors]
    fid = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)
    assert frechet_distance(a, b) == pytest.approx(fid[metric_fid.KEY_METRIC_FID], rel=1e-4)
    kid = metric_kid.kid_features_to_metric(
        *tensors, kid_subsets=7, kid_subset_size=120, rng_seed=11, verbose=False
    )
    ours = kernel_distance(a, b, num_subsets=7, subset_size=120, seed=11)
    expected = kid[metric_kid.KEY_METRIC_KID_MEAN], kid[metric_kid.KEY_METRIC_KID_STD]
    np.testing.assert_allclose(ours, expected, rtol=1e-4)
