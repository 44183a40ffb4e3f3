"""Stacks of transformer blocks: loops, unrolled ones and those of separate blocks are the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax.nn.regions import Bank
from colorize_jax.nn.remat import POLICIES
from colorize_jax.nn.transformer import BLOCK_LOOPS, SpatialTransformer, runs_unrolled, unstack

DEPTH = 3
COLLECTED = ("attn1", "ff")


def stack(block_loop, remat="none"):
    return SpatialTransformer(
        32,
        DEPTH,
        8,
        head_dim=16,
        context_channels=24,
        remat=POLICIES[remat],
        implementation="plain",
        block_loop=block_loop,
    )


@pytest.fixture(scope="module")
def given():
    """Parameters, pixels, context, tokens of a bank in every block, and strengths of blocks."""

    def normal(seed, *shape):
        return 0.3 * jax.random.normal(jax.random.key(seed), shape)

    x, context = normal(0, 2, 4, 4, 32), normal(1, 2, 6, 24)

    def touch(module, x, context):
        return module(x, module.project_context(context))

    shapes = jax.eval_shape(lambda: stack("loop").init(jax.random.key(0), x, context, method=touch))
    leaves, tree = jax.tree.flatten(shapes)
    params = tree.unflatten([normal(i + 4, *leaf.shape) for i, leaf in enumerate(leaves)])
    return params, x, context, normal(2, DEPTH, 2, 5, 32), jnp.linspace(0.5, 1.5, DEPTH)


def forward(module, params, x, context, bank, strength):
    """Everything that a stack is asked for, in one piece and in two."""
    kv = module.apply(params, context, method="project_context")
    foreign = Bank(module.apply(params, bank, method="project_bank"))
    options = {"strength": strength, "collect": COLLECTED}
    whole, features = module.apply(params, x, kv, bank=foreign, **options)
    tokens, _ = module.apply(params, x, kv, stop=1)
    rest, _ = module.apply(params, x, kv, begun=(1, tokens))
    return whole, features, kv, rest


@pytest.mark.parametrize("separate", [False, True])
def test_unrolled_and_separate_blocks_are_the_loop(given, separate) -> None:
    params, *inputs = given
    expected = jax.jit(lambda p: forward(stack("loop"), p, *inputs))(params)

    def other(params):
        if separate:
            return forward(stack("loop"), unstack(params), *inputs)
        return forward(stack("unrolled"), params, *inputs)

    compiled = jax.jit(other).lower(params).compile()
    assert "while(" not in compiled.as_text()
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), compiled(params), expected
    )


@pytest.mark.parametrize("policy", ["none", "elementwise", "block"])
def test_gradients_are_those_of_the_loop(given, policy) -> None:
    params, *inputs = given

    def gradients(block_loop):
        def loss(params, inputs):
            whole, features, _, rest = forward(stack(block_loop, policy), params, *inputs)
            return sum(jnp.sum(jnp.sin(leaf)) for leaf in (whole, rest, *features.values()))

        return jax.jit(jax.grad(loss, argnums=(0, 1)))(params, inputs)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-4),
        gradients("unrolled"),
        gradients("loop"),
    )


def test_rematerialization_survives_unrolling(given) -> None:
    """Common subexpression elimination would keep what is computed again."""
    params, *inputs = given

    def temporaries(policy):
        def loss(params):
            return jnp.sum(jnp.sin(forward(stack("unrolled", policy), params, *inputs)[0]))

        compiled = jax.jit(jax.grad(loss)).lower(params).compile()
        return compiled.as_text().count(" dot(") + compiled.as_text().count("custom-call(")

    assert temporaries("block") > temporaries("none")


def test_what_auto_is() -> None:
    assert [runs_unrolled(name) for name in BLOCK_LOOPS] == [False, False, True, False, False, True]
    assert jax.default_backend() == "cpu"


def test_blocks_of_every_stack_are_taken_apart() -> None:
    tree = {"a": {"transformer_blocks": {"k": jnp.arange(6).reshape(3, 2)}}, "b": jnp.ones(2)}
    apart = unstack(tree)
    assert [block["k"].tolist() for block in apart["a"]["transformer_blocks"]] == [
        [0, 1],
        [2, 3],
        [4, 5],
    ]
    assert unstack(apart)["a"]["transformer_blocks"][1] is apart["a"]["transformer_blocks"][1]
    assert apart["b"] is tree["b"]
