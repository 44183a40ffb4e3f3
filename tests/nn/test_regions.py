"""Parts of a context by regions: by hand, and against attention to each part."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax.nn.attention_layer import Attention
from colorize_jax.nn.regions import Bank, Regions

MASK = jnp.array([0.0, 0.05, 0.3, 1.0]).reshape(1, 2, 2, 1)


def shares(**options):
    return np.asarray(Regions(MASK, **options).shares(2, 2))[:, 0, :, 0]


def test_a_blend_weighs_both_answers_by_the_mask_and_the_strengths():
    np.testing.assert_allclose(shares(), [[0, 0.05, 0.3, 1], [1, 0.95, 0.7, 0]], atol=1e-6)
    # m ((1 - merge) F fg + merge B bg) + (1 - m) B bg
    merged = shares(merge=0.25, foreground_scale=2.0, background_scale=0.5)
    m = np.array([0, 0.05, 0.3, 1])
    np.testing.assert_allclose(merged, [0.75 * 2 * m, 0.5 * (0.25 * m + 1 - m)], atol=1e-6)


def test_a_threshold_gives_every_query_to_one_side():
    np.testing.assert_array_equal(shares(threshold=0.05), [[0, 0, 1, 1], [1, 1, 0, 0]])
    # Where sides are merged, who is exactly at the threshold belongs to the foreground.
    merged = shares(threshold=0.05, merge=0.25)
    np.testing.assert_array_equal(merged, [[0, 0.75, 0.75, 0.75], [1, 0.25, 0.25, 0.25]])
    mask = jnp.broadcast_to(MASK, (2, 2, 2, 1))
    each = Regions(mask, jnp.array([0.2, 0.5])).shares(2, 2)
    np.testing.assert_array_equal(each[0, :, :, 0], [[0, 0, 1, 1], [0, 0, 0, 1]])


def test_masks_are_resized_before_they_are_compared():
    mask = jnp.zeros((1, 8, 8, 1)).at[:, :, 4:].set(1.0)
    whole = Regions(mask).shares(4, 4)
    assert whole.shape == (2, 1, 16, 1)
    assert Bank((mask, mask), mask).at(4, 4).mask.shape == (1, 16, 1)
    assert Bank((mask, mask)).at(4, 4).mask is None


@pytest.mark.parametrize("parts", [2, 3])
def test_a_context_of_parts_is_a_sum_of_answers(parts):
    random = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(random.standard_normal(shape), jnp.float32)

    layer = Attention(16, 8)
    x, context, weights = normal(2, 4, 16), normal(2, 5 * parts, 16), normal(parts, 2, 4, 1)
    params = layer.init(jax.random.key(0), x, context)
    kv = layer.apply(params, context, method="keys_values")
    found = layer.apply(params, x, kv, shares=weights, method="cross_attention")
    bias = params["params"]["to_out_0"]["bias"]
    expected = bias + sum(
        weights[p] * (layer.apply(params, x, context[:, 5 * p : 5 * p + 5]) - bias)
        for p in range(parts)
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)
