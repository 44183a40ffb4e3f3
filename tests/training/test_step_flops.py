"""What the second branch costs, counted on traced programs."""

import functools
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from small_training import make_inputs, make_params, make_train_system

from colorize_jax.analysis import shapes
from colorize_jax.analysis.flops import count_flops
from colorize_jax.analysis.step_flops import countable
from colorize_jax.benchmark.step import count_step
from colorize_jax.config.load import load_config
from colorize_jax.config.options import MeshConfig
from colorize_jax.setup.networks import build_train_system
from colorize_jax.sharding import make_mesh, state_shardings
from colorize_jax.training.gram_blocks import GramBlocks, gram_metrics
from colorize_jax.training.losses.gram import gram_loss
from colorize_jax.training.step import embed, gradients, jit_step

CONFIGS = Path(__file__).parents[2] / "configs"


def test_both_branches_at_full_size():
    """1024 px, published networks: a second whole pass would make it 2.0 for the UNet."""
    report = count_step(load_config(CONFIGS / "base.py"))
    print(report["ratios"])
    # Both branches share sketch and frozen encoders whole.
    assert (
        report["ratios"]["total"] < report["ratios"]["trained"] < report["ratios"]["unet"] <= 1.80
    )
    # Three passes of the plain forward, whose count is that of the published UNet.
    single = report["programs"]["single"]
    assert single["unet"] == pytest.approx(3 * 6_892_250_071_040, rel=0.01)


@pytest.mark.slow
def test_the_full_size_step_is_traced_and_lowered_within_a_minute():
    """In processor time, which does not depend on what else the machine does."""
    system = build_train_system(load_config(CONFIGS / "base.py"))
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    arguments = shapes.arguments(system, mesh)
    shardings = state_shardings(mesh, arguments[0])
    for dual in (True, False):
        start = time.process_time()
        with jax.set_mesh(mesh):
            jit_step(system, mesh, shardings, dual=dual).lower(*arguments)
        seconds = time.process_time() - start
        print(f"dual {dual}: {seconds:.1f} s")
        assert seconds <= 60


@pytest.fixture(scope="module")
def system():
    return countable(make_train_system())


@pytest.fixture(scope="module")
def abstract():
    """Parameters and inputs of a step."""
    return jax.eval_shape(lambda: (make_params(), make_inputs()))


def step_cost(system, abstract, *, dual):
    params, inputs = abstract
    run = functools.partial(gradients, system, dual=dual)
    return count_flops(lambda p, i: run(p, {}, i, jnp.float32(1)), params, inputs)


def test_without_the_gram_weight_the_second_branch_costs_nothing(system, abstract):
    """Such a step is one pass of networks that know of no second branch."""

    def plain(params, inputs):
        def total(params):
            conditions = embed(system.colorizer, params, inputs)
            latents, timesteps = inputs.latents, inputs.random.timesteps
            return jnp.sum(system.colorizer.denoise(params, latents, timesteps, conditions))

        return jax.value_and_grad(total)(params)

    assert step_cost(system, abstract, dual=False) == count_flops(plain, *abstract)


def test_the_second_branch_costs_only_what_is_its_own(system, abstract):
    """Neither the prefix nor anything past the last Gram block runs twice, forward or backward."""
    params, inputs = abstract
    colorizer, gram_blocks = system.colorizer, GramBlocks(system.colorizer, system.config.gram)
    conditions = jax.eval_shape(lambda p, i: embed(colorizer, p, i), params, inputs)
    unet_state = jax.eval_shape(
        lambda p, i, c: colorizer.prefix(p, i.latents, i.random.timesteps, c),
        params,
        inputs,
        conditions,
    )

    def features(params, unet_state, tokens, hints):
        # Keys and values of the context once, of the stacks that the branch goes through.
        keys_values = colorizer.project_context(params, colorizer.context(params, *tokens[0]))
        _, found = colorizer.body(
            params,
            unet_state,
            keys_values,
            hints,
            collect=gram_blocks.collect,
            until=gram_blocks.last,
        )
        return gram_blocks.select(found)

    def branch(params, unet_state, hints, tokens):
        def total(params, unet_state, hints):
            found = features(params, unet_state, tokens, hints)
            return sum(jnp.sum(leaf) for leaf in found.values())

        return jax.value_and_grad(total, argnums=(0, 1, 2))(params, unet_state, hints)

    own = count_flops(branch, params, unet_state, conditions.hints, inputs.other_tokens)
    found = jax.eval_shape(features, params, unet_state, inputs.other_tokens, conditions.hints)

    def compare(misaligned, aligned):
        return jax.value_and_grad(lambda x: gram_loss(x, aligned)[0])(misaligned)

    grams = count_flops(compare, found, found)
    # Most of these products are the loss's own, which the compiler computes once.
    shares = {block: jax.ShapeDtypeStruct((leaf.shape[0],), jnp.float32)
              for block, leaf in found.items()}  # fmt: skip
    watch = functools.partial(gram_metrics, gram=system.config.gram)
    grams += count_flops(watch, found, found, shares)
    single, dual = (step_cost(system, abstract, dual=dual) for dual in (False, True))
    assert dual - single == own + grams
