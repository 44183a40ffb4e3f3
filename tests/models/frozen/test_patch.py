"""Encoders without weights: exact ways back, shapes and what tokens hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax.errors import UserError
from colorize_jax.models.frozen.patch import PatchAutoencoder, PatchReferenceEncoder


@pytest.fixture
def images() -> jax.Array:
    return jax.random.uniform(jax.random.key(0), (2, 12, 8, 3), minval=-1.0)


def test_patches_decode_to_the_same_bits(images: jax.Array) -> None:
    module = PatchAutoencoder(4)
    mean, logvar = module.apply({}, images, method="encode")
    assert mean.shape == logvar.shape == (2, 3, 2, 48)
    np.testing.assert_array_equal(mean[1, 2, 1].reshape(4, 4, 3), images[1, 8:, 4:])
    np.testing.assert_array_equal(module.apply({}, mean, method="decode"), images)
    assert float(jnp.exp(0.5 * logvar).max()) < 1e-6


def test_patch_autoencoder_is_orthonormal(images: jax.Array) -> None:
    mean, _ = PatchAutoencoder(2).apply({}, images, method="encode")
    np.testing.assert_allclose(jnp.sum(mean**2), jnp.sum(images**2), rtol=1e-6)


def test_sizes_that_do_not_fit_are_named(images: jax.Array) -> None:
    with pytest.raises(UserError, match="12x8"):
        PatchAutoencoder(5).apply({}, images, method="encode")
    with pytest.raises(UserError, match="7 channels"):
        PatchAutoencoder(2).apply({}, jnp.zeros((1, 2, 2, 7)), method="decode")


def test_tokens_hold_pixels_statistics_and_positions() -> None:
    images = jax.random.uniform(jax.random.key(1), (2, 8, 8, 3))
    module = PatchReferenceEncoder(8, 4, position_channels=8, class_token=True)
    tokens = module.apply({}, images, method="tokens")
    assert tokens.shape == (2, module.num_tokens, module.feature_channels) == (2, 5, 62)
    patch = images[1, :4, 4:]  # the second patch, row-major
    np.testing.assert_allclose(tokens[1, 2, :48], patch.reshape(-1), rtol=1e-6)
    np.testing.assert_allclose(tokens[1, 2, 48:51], patch.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(tokens[1, 2, 51:54], patch.std((0, 1)), rtol=1e-4)
    np.testing.assert_allclose(tokens[0, 0, 48:51], images[0].mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(tokens[0, 0, 51:54], images[0].std((0, 1)), rtol=1e-4)
    assert len(np.unique(tokens[0, 1:, 54:], axis=0)) == 4
    assert not tokens[0, 0, 54:].any()


def test_without_positions_tokens_move_with_their_patches() -> None:
    images = jax.random.uniform(jax.random.key(2), (1, 8, 8, 3))
    module = PatchReferenceEncoder(8, 4, positions=False, channels=64)
    tokens = module.apply({}, images, method="tokens")
    flipped = module.apply({}, jnp.roll(images, 4, axis=2), method="tokens")
    assert tokens.shape == (1, 4, 64)
    np.testing.assert_array_equal(flipped[:, [1, 0, 3, 2]], tokens)
    assert not tokens[..., 54:].any()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"features": ("pixel",)}, "pixel"),
        ({"patch_size": 7}, "7 px"),
        ({"channels": 8}, "8 channels"),
        ({"position_channels": 6}, "multiple of 4"),
    ],
)
def test_bad_fields_are_named(fields: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        PatchReferenceEncoder(**fields)


def test_opponent_axes_part_colors_of_one_lightness() -> None:
    colors = np.float32([[1, 1, 1], [0, 0, 0], [0.5, -0.5, 0.5], [-0.5, 0.5, -0.5]])
    module = PatchReferenceEncoder(4, 4, features=("opponent",), positions=False)
    for color in colors:
        image = jnp.asarray(np.broadcast_to(color, (1, 4, 4, 3)))
        r, g, b = color
        expected = [r + g + b, 4 * (r - b), 6 * (2 * g - r - b)]
        np.testing.assert_allclose(module.apply({}, image)[0, 0], expected, atol=1e-5)


def test_regions_tell_a_frame_from_what_it_frames() -> None:
    image = np.full((1, 16, 16, 3), -1.0, np.float32)
    image[:, 4:12, 4:12] = 1.0
    module = PatchReferenceEncoder(16, 4, features=("region",), positions=False)
    tokens = np.asarray(module.apply({}, jnp.asarray(image))).reshape(4, 4, 6)
    # Of 4 x 4 patches at -0.75, -0.25, 0.25, 0.75: 4 in the middle, 12 around them.
    middle = [2 * np.sqrt(4) / 4, 0.0, 0.0, 2 * 0.25, 2 * 0.25, 0.0]
    spread = np.sqrt((8 * 0.75**2 + 4 * 0.25**2) / 12)
    frame = [2 * np.sqrt(12) / 4, 0.0, 0.0, 2 * spread, 2 * spread, 2.0]
    np.testing.assert_allclose(tokens[1, 2], middle, atol=1e-5)
    np.testing.assert_allclose(tokens[0, 2], frame, atol=1e-5)
    np.testing.assert_allclose(tokens[3, 0], frame, atol=1e-5)
