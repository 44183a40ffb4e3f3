"""Text manipulation by hand: which tokens move, where, and how far."""

import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax.inference.text.directions import MULTIPLE, make_directions, manipulate
from colorize_jax.inference.text.manipulation import TextManipulation

random = np.random.default_rng(0)
TEXTS = {
    name: np.float32(random.standard_normal(8) * 3) for name in ("red", "blue", "hair", "night")
}
TOKENS = np.float32(random.standard_normal((2, 6, 8)))
UNIT = {name: text / np.linalg.norm(text) for name, text in TEXTS.items()}
LENGTH = np.linalg.norm(TOKENS[:, :1], axis=-1, keepdims=True)  # of the class tokens


def move(*manipulations, tokens=TOKENS):
    return np.asarray(manipulate(tokens, make_directions(manipulations, TEXTS)))


def test_globally_all_tokens_go_the_same_way():
    direction = UNIT["red"] - UNIT["blue"]
    for strength in (1.0, -0.5):
        moved = move(TextManipulation("red", "blue", strength=strength))
        expected = np.broadcast_to(strength * LENGTH * direction, TOKENS.shape)
        np.testing.assert_allclose(moved - TOKENS, expected, atol=1e-5)
    moved = move(TextManipulation("red"))
    np.testing.assert_allclose(moved - TOKENS, LENGTH * np.ones((6, 1)) * UNIT["red"], atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_strength_0_changes_no_bit(dtype):
    tokens = jnp.asarray(TOKENS, dtype)
    for more in ({}, {"control": "hair"}, {"adaptive": True}):
        still = TextManipulation("red", "blue", strength=0.0, **more)
        moved = manipulate(tokens, make_directions([still], TEXTS))
        assert moved.dtype == dtype
        np.testing.assert_array_equal(moved, tokens)


def test_locally_only_what_looks_like_the_control_moves():
    # Patches of any length at cosines 0, 0.2, 0.5, 0.8, 1 with the control.
    cosines = np.float32([0, 0.2, 0.5, 0.8, 1])
    across = np.cross([0, 0, 1], UNIT["hair"][:3])
    aside = np.concatenate([across, np.zeros(5)]) / np.linalg.norm(across)
    patches = cosines[:, None] * UNIT["hair"] + np.sqrt(1 - cosines**2)[:, None] * aside
    patches *= np.float32([1, 2, 3, 4, 5])[:, None]
    tokens = np.float32(np.concatenate([TOKENS[0, :1], patches]))[None]
    unit = np.linalg.norm(TOKENS[0, 0])

    def amounts(threshold):
        moved = move(TextManipulation("red", control="hair", threshold=threshold), tokens=tokens)
        return (moved - tokens)[0] @ UNIT["red"] / unit, moved

    found, moved = amounts(0.5)
    # Half way is the threshold; the class token moves like the patches on average.
    np.testing.assert_allclose(found, [0.32, 0, 0, 0, 0.6, 1], atol=1e-3)
    np.testing.assert_array_equal(moved[0, 1:3], tokens[0, 1:3])
    np.testing.assert_allclose(amounts(0.0)[0], [0.5, 0, 0.2, 0.5, 0.8, 1], atol=1e-3)
    np.testing.assert_allclose(amounts(1.0)[0], [0.2, 0, 0, 0, 0, 1], atol=1e-3)


def test_where_all_patches_are_alike_nothing_is_local():
    tokens = np.concatenate([TOKENS[:, :1], np.repeat(TOKENS[:, 1:2], 5, axis=1)], axis=1)
    moved = move(TextManipulation("red", control="hair"), tokens=tokens)
    np.testing.assert_allclose(moved, tokens, atol=1e-3)


def test_adaptively_tokens_go_as_far_as_they_have_to():
    direction = UNIT["red"] - UNIT["blue"]

    def coordinate(tokens):
        return tokens @ direction / (LENGTH[..., 0] * (direction @ direction))

    tokens = TOKENS.copy()
    # One token beyond the target stays.
    tokens[:, 2] = 3 * LENGTH[:, 0] * direction
    tokens[:, 3] = LENGTH[:, 0] * UNIT["blue"]
    before = coordinate(tokens)
    np.testing.assert_allclose(before[:, 3], -0.5, atol=1e-5)
    after = coordinate(move(TextManipulation("red", "blue", adaptive=True), tokens=tokens))
    np.testing.assert_allclose(after, np.maximum(before, 0.5), atol=1e-4)
    half = TextManipulation("red", "blue", strength=0.5, adaptive=True)
    after = coordinate(move(half, tokens=tokens))
    np.testing.assert_allclose(after, np.maximum(before, (before + 0.5) / 2), atol=1e-4)


def test_one_after_another():
    first = TextManipulation("red", "blue", control="hair")
    second = TextManipulation("night", "red", adaptive=True, strength=0.7)
    np.testing.assert_allclose(move(first, second), move(second, tokens=move(first)), atol=1e-5)
    assert np.abs(move(first, second) - move(second, first)).max() > 0.01
    # Few and some more have one shape.
    many = make_directions([first] * MULTIPLE, TEXTS)
    assert make_directions([first], TEXTS).targets.shape == many.targets.shape
    more = make_directions([first] * (MULTIPLE + 1), TEXTS)
    assert len(more.targets) == 2 * MULTIPLE
