"""Attention: blocks of queries change memory and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax.nn import attention as module
from colorize_jax.nn.attention import attention, block_size


def test_by_hand():
    q = jnp.array([[[[0.0]], [[100.0]]]])  # (1, 2, 1, 1)
    k = jnp.array([[[[0.0]], [[1.0]]]])
    v = jnp.array([[[[2.0]], [[4.0]]]])
    # Queries of zero see all alike, a large one sees the largest key alone.
    np.testing.assert_allclose(attention(q, k, v).ravel(), [3.0, 4.0])


@pytest.mark.parametrize("implementation", module.IMPLEMENTATIONS)
def test_causal_queries_see_themselves_and_what_is_before_them(implementation):
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (jax.random.normal(key, (2, 5, 2, 4)) for key in keys)
    found = attention(q, k, v, implementation=implementation, causal=True)
    for n in range(5):
        seen = attention(q[:, n : n + 1], k[:, : n + 1], v[:, : n + 1], implementation="plain")
        np.testing.assert_allclose(found[:, n], seen[:, 0], atol=1e-6)


@pytest.mark.parametrize("queries", [24, 21])
def test_blocks_are_the_whole(monkeypatch, queries):
    monkeypatch.setattr(module, "BLOCK_BYTES", 4 * 8 * 2 * 10)  # ten rows of 8 keys, 2 heads
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = (queries, 8, 8)
    q, k, v = (jax.random.normal(key, (2, n, 2, 4)) for key, n in zip(keys, shapes, strict=True))

    def value_and_gradients(implementation):
        def loss(q, k, v):
            y = attention(q, k, v, implementation=implementation)
            return jnp.sum(jnp.sin(y)), y

        return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(q, k, v)

    assert "scan" in str(
        jax.make_jaxpr(lambda *a: attention(*a, implementation="blockwise"))(q, k, v)
    )
    blocks, plain = value_and_gradients("blockwise"), value_and_gradients("plain")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), blocks, plain)


@pytest.mark.parametrize("side", [32, 48, 64, 96])
def test_blocks_fit_and_are_hardly_padded(side):
    queries = side**2
    size = block_size(queries, queries, 10)
    assert 4 * 10 * queries * (size - 8) <= module.BLOCK_BYTES
    assert -(-queries // size) * size <= 1.02 * queries


def test_few_queries_are_one_block():
    assert block_size(100, 196, 20) == 100


def test_huge_contexts_still_have_blocks():
    assert block_size(10_000, 10**7, 20) == 8
