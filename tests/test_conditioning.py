"""Frozen encoders: what they draw, what they take precomputed, and both kinds of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax.conditioning import FrozenEncoders
from colorize_jax.errors import UserError
from colorize_jax.models.frozen.clip_vision import ClipVision
from colorize_jax.models.frozen.patch import PatchAutoencoder, PatchReferenceEncoder
from colorize_jax.models.frozen.tagger import Tagger
from colorize_jax.models.frozen.vae import Vae
from colorize_jax.types import Batch

PATCHES = FrozenEncoders(
    PatchAutoencoder(4),
    PatchReferenceEncoder(16, 8, class_token=True),
    PatchReferenceEncoder(16, 8, features=("mean", "std")),
    scaling_factor=2.0,
)
NETWORKS = FrozenEncoders(
    Vae(32, (1, 2), 1),
    ClipVision(32, 48, 2, 4, 28, 14, 16),
    Tagger(16, 4, 2, 16, (1, 1), (2, 4), 7),
)


def make_batch(**changes) -> Batch:
    keys = jax.random.split(jax.random.key(0), 3)
    fields = {
        "sketch": -jnp.ones((2, 16, 8, 3)),
        "size": jnp.full((2,), 16.0),
        "aesthetic_score": jnp.full((2,), 6.0),
        "image": jax.random.uniform(keys[0], (2, 16, 8, 3), minval=-1.0),
        "reference": jax.random.uniform(keys[1], (2, 20, 24, 3), minval=-1.0),
    }
    return Batch(**(fields | changes))


def test_patches_encode_and_decode_without_parameters() -> None:
    batch = make_batch()
    encode = jax.jit(PATCHES.encode)
    encoded = encode({}, batch, jax.random.key(3))
    assert encoded.latents.shape == (2, 4, 2, 48)
    assert encoded.clip_tokens.shape[1] == 5 and encoded.tagger_tokens.shape[1] == 4
    np.testing.assert_allclose(PATCHES.decode({}, encoded.latents), batch.image, atol=1e-5)


def test_networks_share_one_tree_and_draw_from_the_posterior() -> None:
    batch = make_batch()
    params = jax.jit(NETWORKS.init)(jax.random.key(1))
    assert set(params) == {"vae", "clip_vision", "tagger"}
    mean, logvar = jax.jit(NETWORKS.moments)(params, batch.image)
    moments = jnp.concatenate([mean, logvar], axis=-1)
    clip, tagger = jax.jit(NETWORKS.encode_reference)(params, batch.reference)
    encode = jax.jit(NETWORKS.encode)

    from_pixels = encode(params, batch, jax.random.key(2))
    assert from_pixels.latents.shape == (2, 8, 4, 4)
    given = make_batch(
        image=None, reference=None, moments=moments, clip_tokens=clip, tagger_tokens=tagger
    )
    precomputed = encode({}, given, jax.random.key(2))
    for a, b in zip(jax.tree.leaves(from_pixels), jax.tree.leaves(precomputed), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)

    other = encode({}, given, jax.random.key(3))
    draws = (precomputed.latents - other.latents) / jnp.exp(0.5 * logvar) / 0.13025
    assert 1.0 < float(jnp.std(draws)) < 1.8  # the difference of two unit normals
    np.testing.assert_allclose(encode({}, given, None).latents, 0.13025 * mean, rtol=1e-6)


def test_parameters_may_be_stored_in_half_precision() -> None:
    params = jax.eval_shape(NETWORKS.init, jax.random.key(0))
    half = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), params)
    encoded = jax.eval_shape(NETWORKS.encode, half, make_batch(), jax.random.key(0))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(encoded))


@pytest.mark.parametrize("missing", ["image", "reference"])
def test_what_is_missing_is_named(missing: str) -> None:
    with pytest.raises(UserError, match=missing):
        PATCHES.encode({}, make_batch(**{missing: None}), None)
