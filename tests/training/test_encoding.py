"""Encoders in micro-batches: the same answer in the memory of one of them."""

import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.conditioning import FrozenEncoders
from colorize_jax.models.frozen.clip_vision import ClipVision
from colorize_jax.models.frozen.tagger import Tagger
from colorize_jax.models.frozen.vae import Vae
from colorize_jax.training import refinement
from colorize_jax.training.encoding import encode_parts
from colorize_jax.types import Batch

ENCODERS = FrozenEncoders(
    Vae(32, (1, 2), 1),
    ClipVision(32, 48, 2, 4, 28, 14, 16),
    Tagger(16, 4, 2, 16, (1, 1), (2, 4), 7),
)
SIZE = 8


def make_batch(side: int) -> Batch:
    keys = jax.random.split(jax.random.key(0), 2)
    return Batch(
        sketch=-jnp.ones((SIZE, side, side, 3)),
        size=jnp.full((SIZE,), 16.0),
        aesthetic_score=jnp.full((SIZE,), 6.0),
        image=jax.random.uniform(keys[0], (SIZE, side, side, 3), minval=-1.0),
        reference=jax.random.uniform(keys[1], (SIZE, 20, 24, 3), minval=-1.0),
    )


def test_micro_batches_encode_as_the_whole_and_draw_the_same_noise() -> None:
    batch, key = make_batch(16), jax.random.key(2)
    params = jax.jit(ENCODERS.init)(jax.random.key(1))
    encode = jax.jit(encode_parts, static_argnums=(0, 4))
    whole, parts = (encode(ENCODERS, params, batch, key, count) for count in (1, 4))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), whole, parts)
    kept = batch.replace(clip_tokens=2 * whole.clip_tokens)
    parts = encode(ENCODERS, params, kept, key, 4)
    np.testing.assert_array_equal(parts.clip_tokens, kept.clip_tokens)
    np.testing.assert_allclose(parts.tagger_tokens, whole.tagger_tokens, atol=1e-5)


def test_memory_is_that_of_one_micro_batch() -> None:
    params = jax.eval_shape(lambda: ENCODERS.init(jax.random.key(1)))
    arguments = params, jax.eval_shape(lambda: make_batch(128)), jax.random.key(0)
    sizes = [
        jax.jit(encode_parts, static_argnums=(0, 4))
        .lower(ENCODERS, *arguments, count)
        .compile()
        .memory_analysis()
        .temp_size_in_bytes
        for count in (1, 4)
    ]
    assert sizes[1] < 0.4 * sizes[0]


def test_backgrounds_are_encoded_in_the_same_micro_batches() -> None:
    def cut(side: int) -> refinement.Cut:
        batch = make_batch(side)
        masks = {"sketch_mask": batch.image[..., :1], "reference_mask": batch.reference[..., :1]}
        return refinement.Cut(batch.replace(**masks), jnp.flip(batch.reference, 2))

    key, encode = jax.random.key(2), jax.jit(refinement.encode, static_argnums=(0, 4))
    params = jax.jit(ENCODERS.init)(jax.random.key(1))
    whole, parts = (encode(ENCODERS, params, cut(16), key, count) for count in (1, 4))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), whole, parts)
    arguments = jax.eval_shape(lambda: (params, cut(128), key))
    sizes = [
        encode.lower(ENCODERS, *arguments, count).compile().memory_analysis().temp_size_in_bytes
        for count in (1, 4)
    ]
    assert sizes[1] < 0.4 * sizes[0]
