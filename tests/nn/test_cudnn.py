"""Odd numbers of tokens are padded for cuDNN; XLA's form takes the same padding on any platform."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax.nn import cudnn
from colorize_jax.nn.attention import attention


def value_and_gradients(function, arrays):
    def loss(q, k, v):
        y = function(q, k, v)
        return jnp.sum(jnp.sin(y)), y

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(*arrays)


@pytest.mark.parametrize(("queries", "keys"), [(7, 7), (6, 9), (9, 6), (6, 8), (1, 1), (257, 257)])
def test_padding_is_seen_by_nobody(queries, keys):
    streams = jax.random.split(jax.random.key(0), 3)
    tokens = (queries, keys, keys)
    q, k, v = (jax.random.normal(key, (2, n, 3, 8)) for key, n in zip(streams, tokens, strict=True))
    # Logits far below zero: a padded key, whose logit is zero, would take all of the weight.
    k, q = k - 5, jnp.abs(q) + 5
    padded = functools.partial(cudnn.attention, scale=0.3, implementation="xla")
    plain = functools.partial(attention, scale=0.3, implementation="plain")
    found, expected = (value_and_gradients(f, (q, k, v)) for f in (padded, plain))
    assert found[0][1].shape == q.shape
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5), found, expected
    )


def test_only_odd_numbers_cost_a_padding():
    def program(tokens):
        x = jnp.zeros((1, tokens, 2, 8))
        call = functools.partial(cudnn.attention, scale=1.0, implementation="xla")
        return str(jax.make_jaxpr(call)(x, x, x))

    assert "10,2,8" in program(9)
    assert "select_n" in program(9) and "select_n" not in program(10)
