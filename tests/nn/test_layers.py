"""Small layers: embeddings by hand and by the golden case."""

from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax.nn import layers
from colorize_jax.nn.layers import LAYER_NORM_EPSILON, LayerNorm, gelu, sinusoid, size_embedding
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


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 2e-5), (jnp.bfloat16, 2e-2)])
def test_layer_norm_and_its_gradients_are_flax_s(dtype, tolerance) -> None:
    keys = jax.random.split(jax.random.key(0), 4)
    x = (3 + 2 * jax.random.normal(keys[0], (2, 5, 24))).astype(dtype)
    params = {"scale": jax.random.normal(keys[1], (24,)), "bias": jax.random.normal(keys[2], (24,))}
    weights = jax.random.normal(keys[3], x.shape)

    def results(module):
        def loss(params, x):
            y = module.apply({"params": params}, x)
            return jnp.sum(weights * y.astype(jnp.float32)), y

        return jax.grad(loss, (0, 1), has_aux=True)(params, x)

    own = LayerNorm(dtype)
    assert jax.tree.map(jnp.shape, own.init(keys[0], x)["params"]) == {
        "scale": (24,),
        "bias": (24,),
    }
    flax = nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, dtype=dtype)
    for a, b in zip(*(jax.tree.leaves(results(module)) for module in (own, flax)), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(*(np.float32(v) for v in (a, b)), rtol=tolerance, atol=tolerance)


def test_a_constant_row_is_normalized_to_its_bias() -> None:
    y = LayerNorm().apply(
        {"params": {"scale": jnp.ones(8), "bias": jnp.ones(8)}}, jnp.full((1, 8), 1e4)
    )
    np.testing.assert_array_equal(y, jnp.ones((1, 8)))


@pytest.mark.parametrize("form", [gelu, layers._by_erf])  # the second is that of GPUs
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gelu_is_the_exact_one_in_every_form(form, dtype) -> None:
    x = jnp.linspace(-9, 9, 3001).astype(dtype)
    exact, slope = jax.vmap(jax.value_and_grad(lambda x: jax.nn.gelu(x, approximate=False)))(
        x.astype(jnp.float32)
    )
    y = form(x)
    assert y.dtype == dtype
    rounding = 1e-6 if dtype == jnp.float32 else 2**-8
    np.testing.assert_allclose(np.float32(y), exact, rtol=rounding, atol=rounding)
    own = jax.grad(lambda x: jnp.sum(form(x).astype(jnp.float32)))(x)
    tolerance = 1e-5 if dtype == jnp.float32 else 2**-5
    np.testing.assert_allclose(np.float32(own), slope, rtol=tolerance, atol=tolerance)
