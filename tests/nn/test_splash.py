"""The TPU kernel, interpreted on the CPU, is the plain attention."""

import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.nn import splash
from colorize_jax.nn.attention import attention


def test_values_and_gradients_with_padding():
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = ((1, 130, 2, 16), (1, 200, 2, 16), (1, 200, 2, 16))
    q, k, v = (jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True))

    def loss(q, k, v, function):
        return jnp.sum(jnp.sin(function(q, k, v)))

    def kernel(q, k, v):
        return splash.attention(q, k, v, 0.3, interpret=True)

    def plain(q, k, v):
        return attention(q, k, v, scale=0.3, implementation="plain")

    gradients = [
        jax.jit(jax.value_and_grad(loss, (0, 1, 2)), static_argnums=3)(q, k, v, function)
        for function in (kernel, plain)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), *gradients)


def test_short_or_wide_heads_are_left_to_the_compiler():
    def shape(tokens, head_dim):
        return jax.ShapeDtypeStruct((1, tokens, 2, head_dim), jnp.bfloat16)

    assert splash.pays(shape(4096, 64), shape(4096, 64))
    assert not splash.pays(shape(4096, 64), shape(196, 64))
    assert splash.refusal(shape(4096, 64), shape(196, 64)) is None
    assert "heads of 512 channels" in splash.refusal(shape(4096, 512), shape(4096, 512))
