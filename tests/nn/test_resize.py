"""Resizing: hand-computed weights, the golden preprocessing, and PyTorch itself."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax.nn.resize import resize_antialiased, resize_bicubic, resize_nearest
from colorize_jax.verify import golden

GOLDEN = Path(__file__).parents[1] / "golden"
SIZES = [((150, 97), (112, 112)), ((40, 64), (10, 16)), ((31, 7), (33, 5)), ((5, 1), (1, 5))]


def test_bicubic_halving_uses_the_published_weights():
    # At x0.5 a new centre lies between two pixels: cubic(0.5) and cubic(1.5) with a = -0.75.
    row = jnp.zeros((1, 1, 8, 1)).at[0, 0, 3, 0].set(1.0)
    halved = resize_bicubic(row, 1, 4)[0, 0, :, 0]
    np.testing.assert_allclose(halved, [0.0, 0.59375, -0.09375, 0.0], atol=1e-7)


def test_borders_repeat_without_and_renormalize_with_antialiasing():
    ones = jnp.ones((2, 13, 9, 3))
    for resize in (resize_bicubic, resize_antialiased):
        np.testing.assert_allclose(resize(ones, 7, 20), jnp.ones((2, 7, 20, 3)), atol=1e-6)


def test_nearest_takes_the_floor_and_keeps_the_dtype():
    picture = jnp.arange(6, dtype=jnp.uint8).reshape(1, 6, 1, 1)
    assert resize_nearest(picture, 4, 1)[0, :, 0, 0].tolist() == [0, 1, 3, 4]
    assert resize_nearest(picture, 4, 1).dtype == jnp.uint8


def test_same_size_is_the_identity():
    picture = jax.random.normal(jax.random.key(0), (1, 6, 5, 3))
    np.testing.assert_array_equal(resize_bicubic(picture, 6, 5), picture)


def test_golden_preprocessing_inside_jit():
    case = golden.load_case(GOLDEN / "clip_vision")
    image = case.inputs["image"].transpose(0, 2, 3, 1)
    expected = case.outputs["resized"].transpose(0, 2, 3, 1)
    resize = jax.jit(resize_antialiased, static_argnums=(1, 2))
    assert golden.relative_error(resize(image, *expected.shape[1:3]), expected) < 1e-6


@pytest.mark.interop
@pytest.mark.parametrize(("old", "new"), [*SIZES, ((1216, 832), (448, 448))])
def test_equals_torch(old, new):
    torch = pytest.importorskip("torch")
    interpolate = torch.nn.functional.interpolate
    image = np.random.RandomState(0).standard_normal((1, *old, 3)).astype(np.float32)
    planes = torch.from_numpy(image.transpose(0, 3, 1, 2))
    theirs = {
        resize_antialiased: {"mode": "bicubic", "antialias": True, "align_corners": True},
        resize_bicubic: {"mode": "bicubic"},
        resize_nearest: {"mode": "nearest"},
    }
    for ours, options in theirs.items():
        expected = interpolate(planes, new, **options).numpy().transpose(0, 2, 3, 1)
        assert golden.relative_error(ours(jnp.asarray(image), *new), expected) < 2e-6
