"""The VAE: golden case, dtypes, and images that do not fit."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from colorize_jax.errors import UserError
from colorize_jax.models.frozen.vae import AttentionBlock, Vae
from colorize_jax.verify import verify_folder

GOLDEN = Path(__file__).parents[2] / "golden"


def test_golden() -> None:
    checks = list(verify_folder(GOLDEN, "vae"))
    assert checks and all(check.passed for check in checks), checks


def test_float16_is_refused() -> None:
    with pytest.raises(UserError, match="float16"):
        Vae(dtype=jnp.float16)


def test_bfloat16_computes_and_returns_float32() -> None:
    module = Vae(32, (1, 2), 1, dtype=jnp.bfloat16)
    images = jax.ShapeDtypeStruct((2, 16, 8, 3), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), images)
    encode = functools.partial(module.apply, method="encode")
    mean, logvar = jax.eval_shape(encode, variables, images)
    assert mean.shape == logvar.shape == (2, 8, 4, 4)
    decode = functools.partial(module.apply, method="decode")
    decoded = jax.eval_shape(decode, variables, mean)
    assert decoded.shape == images.shape
    assert mean.dtype == logvar.dtype == decoded.dtype == jnp.float32


def test_odd_sides_are_refused() -> None:
    module = Vae(32, (1, 2), 1)
    with pytest.raises(UserError, match=r"9x8 px.*multiples of 2"):
        jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 9, 8, 3)))


def test_attention_at_full_size_is_never_whole() -> None:
    block = AttentionBlock(jnp.bfloat16)
    latents = jax.ShapeDtypeStruct((1, 128, 128, 512), jnp.bfloat16)
    variables = jax.eval_shape(block.init, jax.random.key(0), latents)
    compiled = jax.jit(block.apply).lower(variables, latents).compile()
    # All 16,384 x 16,384 probabilities in float32 would be 1.07 GB.
    assert compiled.memory_analysis().temp_size_in_bytes < 0.6e9
