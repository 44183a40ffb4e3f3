"""Gram losses against hand-computed values, and the compact form against the direct one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax.training.losses import gram
from colorize_jax.training.losses.gram import (
    gram_contrast,
    gram_loss,
    gram_matrix,
    gram_weight,
    token_mask,
    unit_tokens,
)


def features(seed, batch=2, tokens=24, channels=8, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal((batch, tokens, channels)).astype(dtype)


def direct_mse(x, y, row_l2=False, inside=None):
    """The definition, in float64."""

    def matrix(z):
        z = z.astype(np.float64)
        z = z / np.linalg.norm(z, axis=-1, keepdims=True)
        g = np.einsum("bic,bjc->bij", z, z)
        return g / np.linalg.norm(g, axis=-1, keepdims=True) if row_l2 else g

    squared = (matrix(x) - matrix(y)) ** 2
    if inside is not None:
        squared = squared * inside[:, :, None] * inside[:, None, :]
    return squared.mean()


def test_mse_by_hand():
    # Orthogonal tokens against parallel ones: G = I against G = 1, off-diagonal difference 1.
    orthogonal = jnp.array([[[2.0, 0.0], [0.0, 3.0]]])
    parallel = jnp.array([[[1.0, 0.0], [5.0, 0.0]]])
    loss, per_block = gram_loss(
        {"a": orthogonal, "b": orthogonal}, {"a": parallel, "b": orthogonal}
    )
    assert per_block["a"] == pytest.approx(0.5)
    assert per_block["b"] == 0
    assert loss == pytest.approx(0.5)


def test_mse_by_hand_with_more_tokens_than_channels():
    loss, _ = gram_loss({"a": jnp.ones((1, 4, 1))}, {"a": jnp.array([[[1.0], [1], [1], [-1]]])})
    # Three places differ from the fourth: 6 of 16 products are -1 instead of 1.
    assert loss == pytest.approx(4 * 6 / 16)


@pytest.mark.parametrize("row_l2", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("distance", [1.0, 1e-4])
def test_compact_form_keeps_its_digits(row_l2, masked, distance):
    x = features(0, tokens=64, channels=8)
    y = (x + distance * features(1, tokens=64, channels=8)).astype(np.float32)
    mask = (np.random.default_rng(2).random((2, 16, 16, 1)) > 0.4).astype(np.float32)
    loss, _ = gram_loss(
        {"a": jnp.asarray(x)},
        {"a": jnp.asarray(y)},
        row_l2=row_l2,
        mask=jnp.asarray(mask) if masked else None,
    )
    inside = np.asarray(token_mask(mask, 64, 0.05)) if masked else None
    # The tolerance of a difference of float32 inputs of this distance.
    expected = direct_mse(x, y, row_l2, inside)
    assert float(loss) == pytest.approx(expected, rel=1e-6 + 3e-8 / distance)


def test_compact_gradient_equals_the_direct_one():
    x, y = jnp.asarray(features(0, tokens=32)), jnp.asarray(features(1, tokens=32))

    def direct(x):
        g, target = (gram.gram_matrix(unit_tokens(z)) for z in (x, y))
        return jnp.mean(jnp.square(g - target))

    ours = jax.jit(jax.grad(lambda x: gram_loss({"a": x}, {"a": y})[0]))(x)
    np.testing.assert_allclose(ours, jax.jit(jax.grad(direct))(x), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("row_l2", [False, True])
def test_no_square_of_tokens_exists_where_tokens_exceed_channels(row_l2):
    tokens, channels = 96, 16
    text = str(
        jax.make_jaxpr(jax.grad(lambda x: gram_loss({"a": x}, {"a": 2 * x}, row_l2=row_l2)[0]))(
            jnp.ones((2, tokens, channels))
        )
    )
    assert f"{tokens},{tokens}" not in text
    assert f"{channels},{channels}" in text


@pytest.mark.parametrize(
    ("kind", "tokens"), [("mse", 6), ("mse", 24), ("kl", 6), ("ranking", 6), ("bce", 6)]
)
def test_gradients_reach_only_the_misaligned_side_and_stay_finite(kind, tokens):
    x, y = jnp.asarray(features(0, tokens=tokens)), jnp.asarray(features(1, tokens=tokens))
    x = x.at[0, 0].set(0.0)  # a dead token

    def loss(x, y):
        return gram_loss({"a": x}, {"a": y}, kind=kind, standardize=True)[0]

    to_x, to_y = jax.jit(jax.grad(loss, argnums=(0, 1)))(x, y)
    assert jnp.isfinite(to_x).all()
    assert jnp.any(to_x != 0)
    assert not jnp.any(to_y)


def test_kl_by_hand_and_at_small_distances():
    x, y = features(0, tokens=6), features(1, tokens=6)

    def expected(x, y, temperature):
        def softmax(z):
            z = z.astype(np.float64) / np.linalg.norm(z.astype(np.float64), axis=-1, keepdims=True)
            e = np.exp(np.einsum("bic,bjc->bij", z, z) / temperature)
            return e / e.sum(-1, keepdims=True)

        p, q = softmax(y), softmax(x)
        return (p * (np.log(p) - np.log(q))).sum() / len(x)

    for other in (y, (x + 1e-2 * y).astype(np.float32)):
        loss, _ = gram_loss({"a": x}, {"a": other}, kind="kl", temperature=0.5)
        assert float(loss) == pytest.approx(expected(x, other, 0.5), rel=2e-5)


def test_ranking_by_hand():
    # Cosines of the misaligned first token with itself and the others: 1, 0.6, 0.8.
    x = jnp.array([[[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.8, 0.0, 0.6]]])
    # In the aligned picture the first two tokens are alike, the third is not.
    y = jnp.array([[[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]])
    loss, _ = gram_loss({"a": x}, {"a": y}, kind="ranking", ranking_margin=0.1, ranking_alpha=0.5)
    # Row 1: 0.1 + 0.8 - 0.6; row 2: 0.1 + 0.48 - 0.6 < 0; row 3: 0.1 + 0.8 - 1 < 0.
    assert float(loss) == pytest.approx(0.3 / 3, rel=1e-5)


def test_bce_counts_wrong_decisions():
    x = jnp.array([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]])
    y = jnp.array([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
    loss, _ = gram_loss({"a": x}, {"a": y}, kind="bce", bce_alpha=0.0)
    # Row 1 differs at 2 and 3, row 2 at 1 and 3 ... : similar pairs {1,3} against {1,2}.
    wrong = np.array([[0, 1, 1], [1, 0, 0], [1, 0, 0]])
    assert float(loss) == pytest.approx(100 * wrong.mean(), rel=1e-6)


def test_masks_fit_every_layer():
    mask = np.zeros((1, 8, 16, 1), np.float32)
    mask[:, :4, :8] = 1
    fine, coarse = token_mask(mask, 32, 0.05), token_mask(mask, 8, 0.05)
    np.testing.assert_array_equal(np.reshape(fine, (4, 8))[:2, :4], 1)
    assert fine.sum() == 8
    np.testing.assert_array_equal(np.reshape(coarse, (2, 4)), [[1, 1, 0, 0], [0, 0, 0, 0]])
    with pytest.raises(ValueError, match="33 tokens"):
        token_mask(mask, 33, 0.05)


def test_wrong_options_are_refused():
    x = {"a": jnp.ones((1, 4, 4))}
    with pytest.raises(ValueError, match="expected one of mse"):
        gram_loss(x, x, kind="l1")
    with pytest.raises(ValueError, match="expected mse or bce"):
        gram_loss(x, x, kind="kl", mask=jnp.ones((1, 4, 4, 1)))


def test_ramp_by_hand():
    steps = jnp.array([0, 33, 34, 67, 100, 120])
    expected = [0, 0, 1 / 67, 34 / 67, 1, 1]
    np.testing.assert_allclose(gram_weight(steps, 100), expected, rtol=1e-5)
    assert gram_weight(75, 100, zero_share=0.5, maximum=2.0) == pytest.approx(1.0)
    assert gram_weight(0, 100, zero_share=0.0) == 0
    assert gram_weight(100, 100, zero_share=1.0) == 0


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize(("tokens", "channels"), [(24, 8), (8, 24)])
def test_contrast_is_the_deviation_of_the_matrix(tokens, channels, standardize):
    """In both forms, and with features that have a direction in common."""
    x = jnp.asarray(features(0, tokens=tokens, channels=channels) + 0.5)
    matrices = np.asarray(gram_matrix(unit_tokens(x, standardize)), np.float64)
    mean, contrast = gram_contrast(x, standardize=standardize)
    assert mean == pytest.approx(matrices.mean(), abs=1e-5)
    assert contrast == pytest.approx(matrices.std(axis=(1, 2)).mean(), rel=1e-4)


def test_parallel_tokens_have_no_contrast():
    lengths = jnp.arange(1.0, 7)[None, :, None]
    for channels in (3, 12):
        mean, contrast = gram_contrast(lengths * jnp.ones((1, 6, channels)))
        assert mean == pytest.approx(1)
        assert contrast == pytest.approx(0, abs=1e-3)
