"""Attention: blocks of queries change memory and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax.errors import UserError
from colorize_jax.nn import attention as module
from colorize_jax.nn.attention import attention, block_size, choose
from colorize_jax.nn.platforms import for_platform


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


def shape(tokens, heads, channels, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct((2, tokens, heads, channels), dtype)


# Every attention of the published networks at 1024 px: queries, keys, heads, channels.
SHAPES = {
    "UNet, level 2": (4096, 4096, 10, 64),
    "UNet, level 3": (1024, 1024, 20, 64),
    "its cross-attention": (4096, 196, 10, 64),
    "two references": (1024, 392, 20, 64),
    "half of two references": (1024, 98, 20, 64),
    "bank": (1024, 2048, 20, 64),
    "CLIP": (257, 257, 16, 104),
    "projection": (257, 257, 10, 128),
    "sketch encoder, finest": (16384, 22529, 10, 128),
    "sketch encoder, coarsest": (1024, 1025, 10, 128),
}


@pytest.mark.parametrize("name", SHAPES)
def test_gpus_take_their_kernel_for_every_half_precision_call_of_the_model(name):
    queries, keys, heads, channels = SHAPES[name]
    q, k = shape(queries, heads, channels), shape(keys, heads, channels)
    assert choose("auto:gpu", q, k) == choose("cudnn", q, k) == "cudnn"


@pytest.mark.parametrize(
    ("platform", "q", "expected"),
    [
        ("gpu", shape(16384, 1, 512), "blockwise"),  # the autoencoder's
        ("gpu", shape(1024, 20, 64, jnp.float32), "blockwise"),
        ("gpu", shape(1024, 20, 60), "blockwise"),
        ("tpu", shape(1024, 20, 64), "splash"),
        ("tpu", shape(256, 20, 64), "blockwise"),
        ("tpu", shape(16384, 1, 512), "blockwise"),
        ("cpu", shape(1024, 20, 64), "blockwise"),
    ],
)
def test_others_go_where_they_can(platform, q, expected):
    assert choose(for_platform("auto", platform), q, q) == expected


@pytest.mark.parametrize(
    ("name", "q", "reason"),
    [
        ("cudnn", shape(64, 1, 512), "heads of 512 channels, expected a multiple of 8 up to 128"),
        ("cudnn", shape(64, 1, 12), "heads of 12 channels"),
        ("cudnn", shape(64, 1, 64, jnp.float32), "float32 queries and float32 keys, expected bf"),
        ("splash", shape(64, 1, 512), "heads of 512 channels"),
    ],
)
def test_what_is_named_and_cannot_is_refused(name, q, reason):
    with pytest.raises(UserError, match=f'got attention "{name}" for {reason}.*choose "auto"'):
        attention(*(jnp.zeros(q.shape, q.dtype),) * 3, implementation=name)


def test_what_auto_takes_is_told_once(caplog):
    caplog.set_level("INFO", logger=module.__name__)
    module._tell.cache_clear()
    for _ in range(2):
        choose("auto:gpu", shape(10, 3, 64), shape(7, 3, 64))
    assert caplog.messages == [
        "attention of 10 queries, 7 keys, 3 heads of 64 channels, bfloat16: cudnn"
    ]
