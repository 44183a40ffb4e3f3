"""Conversion, dropouts and draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax.rng import stream
from colorize_jax.training import augment


def record(batch=8, size=4):
    rng = np.random.default_rng(0)
    pictures = {
        name: rng.integers(0, 256, (batch, size, size, channels), np.uint8)
        for name, channels in (
            ("image", 3),
            ("reference", 3),
            ("sketch", 1),
            ("sketch_mask", 1),
            ("reference_mask", 1),
            ("parts", 1),
        )
    }
    scalars = np.full((batch,), 4.0, np.float32)
    return {**pictures, "size": scalars, "aesthetic_score": scalars}


def test_pictures_become_floats():
    content = record()
    content["sketch"][0, 0, :2, 0] = (0, 255)  # a line, then paper
    content["image"][0, 0, 0] = (0, 255, 51)
    batch = jax.jit(augment.to_batch)(content)
    assert batch.sketch.shape == (8, 4, 4, 3)
    np.testing.assert_array_equal(batch.sketch[0, 0, :2, 1], [1, -1])
    np.testing.assert_allclose(batch.image[0, 0, 0], [-1, 1, -0.6], rtol=1e-6)
    np.testing.assert_allclose(batch.sketch_mask, content["sketch_mask"] / 255.0, rtol=1e-6)
    assert batch.moments is None
    assert {leaf.dtype for leaf in jax.tree.leaves(batch)} == {np.dtype(np.float32)}


def test_precomputed_conditioning_takes_the_place_of_pictures():
    content = record()
    for name in ("image", "reference", "reference_mask"):
        del content[name]
    content["moments"] = np.ones((8, 2, 2, 8), np.float16)
    content["clip_tokens"] = content["tagger_tokens"] = np.ones((8, 3, 5), np.float16)
    batch = augment.to_batch(content)
    assert batch.image is None and batch.reference is None
    assert batch.moments.dtype == jnp.float32 and batch.clip_tokens.dtype == jnp.float16
    with pytest.raises(ValueError, match="set the rate to 0"):
        augment.inpaint_reference(batch, jax.random.key(0), 0.1)
    assert augment.inpaint_reference(batch, jax.random.key(0), 0.0) is batch


@pytest.mark.parametrize(("size", "shift"), [(8, 4), (4, 1), (2, 1)])
def test_inpainting_whitens_what_another_mask_covers(size, shift):
    content = record(batch=size)
    content["reference_mask"] = np.zeros_like(content["reference_mask"])
    for i in range(size):
        content["reference_mask"][i, 0, i % 4] = 255
    batch = augment.to_batch(content)
    result = augment.inpaint_reference(batch, jax.random.key(0), 1.0).reference
    white = np.zeros((size, 4, 4), bool)
    for i in range(size):
        white[i, 0, (i - shift) % size % 4] = True
    np.testing.assert_array_equal(np.asarray(result)[white], 1.0)
    np.testing.assert_array_equal(np.asarray(result)[~white], np.asarray(batch.reference)[~white])


def test_inpainting_rate_is_per_sample():
    content = record(batch=400)
    content["reference_mask"][:] = 255
    batch = augment.to_batch(content)
    result = augment.inpaint_reference(batch, jax.random.key(0), 0.1).reference
    changed = np.any(np.asarray(result != batch.reference), axis=(1, 2, 3)).mean()
    assert 0.05 < changed < 0.15


def test_draws_have_their_rates_and_the_offset():
    random = augment.draw(jax.random.key(1), 0, (2000, 4, 4, 4), offset_noise=0.5)
    assert random.timesteps.min() >= 0 and random.timesteps.max() == 999
    assert float(random.keep_reference.mean()) == pytest.approx(0.8, abs=0.03)
    np.testing.assert_allclose(random.keep_hints.mean(0), 0.9, atol=0.03)
    means = np.asarray(random.noise).mean(axis=(1, 2))
    assert means.var() == pytest.approx(0.25 + 1 / 16, rel=0.1)


def test_draws_depend_on_seed_step_and_name_only():
    def draw(seed, step, **rates):
        return augment.draw(jax.random.key(seed), step, (4, 2, 2, 3), **rates)

    again = jax.jit(lambda step: draw(0, step))(7)
    for ours, theirs in zip(jax.tree.leaves(draw(0, 7)), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert np.any(draw(0, 7).noise != draw(0, 8).noise)
    assert np.any(draw(0, 7).noise != draw(1, 7).noise)
    np.testing.assert_array_equal(draw(0, 7).noise, draw(0, 7, hint_dropout=0.9).noise)


def test_named_streams_are_stable():
    key = stream(0, 3, "noise")
    assert jnp.array_equal(
        jax.random.key_data(key), jax.random.key_data(stream(jax.random.key(0), 3, "noise"))
    )
    assert not jnp.array_equal(
        jax.random.key_data(key), jax.random.key_data(stream(0, 3, "timesteps"))
    )


def test_dropped_context_and_hints_are_zero():
    context = jnp.ones((2, 3, 4), jnp.bfloat16)
    dropped = augment.drop_context(context, jnp.array([1.0, 0.0]))
    assert dropped.dtype == jnp.bfloat16
    np.testing.assert_array_equal(dropped[:, 0, 0], [1, 0])
    hints = tuple(jnp.ones((2, 1, 1, i + 1)) for i in range(4))
    keep = jnp.array([[1.0, 0, 1, 0], [0, 0, 1, 1]])
    sums = [hint[:, 0, 0, 0] for hint in augment.drop_hints(hints, keep)]
    np.testing.assert_array_equal(np.stack(sums, 1), keep)
