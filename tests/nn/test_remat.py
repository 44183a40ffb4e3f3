"""What the backward pass computes again under each policy."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax.models.unet_stages import make_module, unet_stages
from colorize_jax.nn.remat import POLICIES
from colorize_jax.nn.transformer import SpatialTransformer

DEPTH = 3
COSTLY = ("dot_general", "conv_general_dilated")


def transformer(policy):
    module = SpatialTransformer(
        32, DEPTH, 8, head_dim=16, context_channels=24, remat=policy, implementation="plain"
    )
    x, context = jnp.ones((2, 4, 4, 32)), jnp.ones((2, 6, 24))
    params = module.init(jax.random.key(0), x, context, method=touch)
    x = jax.random.normal(jax.random.key(1), x.shape)

    def loss(params):
        kv = module.apply(params, context, method="project_context")
        return jnp.sum(jnp.sin(module.apply(params, x, kv)[0]))

    return loss, params


def touch(module, x, context):
    return module(x, module.project_context(context))


def res_block(policy):
    stage = next(s for s in unet_stages(32, (1, 2), 1, (0, 1)) if s.kind == "res")
    module = make_module(stage, policy, norm_groups=8)
    x, embedding = jax.random.normal(jax.random.key(1), (2, 4, 4, 32)), jnp.ones((2, 16))
    params = module.init(jax.random.key(0), x, embedding)
    return lambda params: jnp.sum(jnp.sin(module.apply(params, x, embedding))), params


def count(jaxpr, times=1):
    """How often each costly primitive runs."""
    found = collections.Counter()
    for equation in jaxpr.eqns:
        if equation.primitive.name in COSTLY:
            found[equation.primitive.name] += times
        inner = times * equation.params.get("length", 1)
        for value in jax.tree.leaves(equation.params, is_leaf=is_jaxpr):
            if is_jaxpr(value):
                found += count(getattr(value, "jaxpr", value), inner)
    return found


def is_jaxpr(value):
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


@pytest.mark.parametrize("build", [transformer, res_block])
def test_products_and_convolutions_with_parameters_run_once(build):
    counts, gradients = {}, []
    for name in ("none", "norms", "elementwise", "wide", "block"):
        loss, params = build(POLICIES[name])
        counts[name] = count(jax.make_jaxpr(jax.grad(loss))(params).jaxpr)
        if name != "block":
            gradients.append(jax.jit(jax.grad(loss))(params))
    logits, wide = ({"dot_general": 2 * DEPTH}, DEPTH) if build is transformer else ({}, 0)
    assert counts["elementwise"] - counts["none"] == logits
    assert counts["norms"] == counts["elementwise"]
    # GEGLU's projection, once a block.
    assert counts["wide"]["dot_general"] - counts["elementwise"]["dot_general"] == wide
    assert counts["block"].total() > counts["wide"].total()
    for other in gradients[1:]:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
            gradients[0],
            other,
        )


def kept(policy):
    """Shapes that a transformer keeps for its backward pass."""
    loss, params = transformer(POLICIES[policy])
    jaxpr = jax.make_jaxpr(lambda params: jax.vjp(loss, params)[1])(params).jaxpr
    return collections.Counter(var.aval.shape for var in jaxpr.outvars)


def test_what_is_kept():
    logits, projection = (DEPTH, 2, 2, 16, 16), (DEPTH, 2, 16, 8 * 32)
    assert kept("none")[logits] and kept("none")[projection] == 0  # it keeps its halves
    assert not kept("elementwise")[logits] and kept("elementwise")[projection]
    gated = (DEPTH, 2, 16, 4 * 32)
    assert kept("norms")[gated] == 1 + kept("elementwise")[gated]
    assert kept("norms").total() == 1 + kept("elementwise").total()
    assert not kept("wide")[projection] and kept("wide")[DEPTH, 2, 16, 32]
    assert kept("block")[DEPTH, 2, 16, 32] < kept("wide")[DEPTH, 2, 16, 32]
