"""Small layers: embeddings by hand and by the golden case."""

from pathlib import Path

import numpy as np

from colorize_jax.nn.layers import sinusoid, size_embedding
from colorize_jax.verify import verify_folder

GOLDEN = Path(__file__).parents[1] / "golden"


def test_sinusoid_is_cosines_then_sines() -> None:
    expected = [np.cos(3), np.cos(0.03), np.sin(3), np.sin(0.03)]
    np.testing.assert_allclose(sinusoid(np.float32(3), 4), expected, rtol=1e-5)


def test_size_comes_before_score() -> None:
    embedded = size_embedding(np.zeros(2), np.array([0.0, 1.0]), 4)
    np.testing.assert_allclose(embedded[0], [1, 1, 0, 0, 1, 1, 0, 0])
    np.testing.assert_array_equal(embedded[1, :4], embedded[0, :4])


def test_golden_size_embedding() -> None:
    checks = list(verify_folder(GOLDEN, "size_embedding"))
    assert checks and all(check.passed for check in checks), checks
