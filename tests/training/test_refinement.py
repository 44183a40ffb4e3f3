"""The second stage: backgrounds cut by hand, what it trains, and what it leaves alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_training import MODEL, make_record, make_train_system, random_tree

from colorize_jax.config.options import ModelConfig, OptimizerConfig, RefineConfig
from colorize_jax.errors import UserError
from colorize_jax.setup.initialize import encoder_from_unet
from colorize_jax.setup.networks import build_train_system, random_params
from colorize_jax.training import refinement, trees
from colorize_jax.training.augment import to_batch
from colorize_jax.training.refinement import CutRandomness
from colorize_jax.training.state import create_state
from colorize_jax.training.step import train_step
from colorize_jax.types import Batch

TRAINABLE = ("^background_encoder/", "/lora_(down|up)_background/")


def make_system(**gram):
    """The small system of the first stage's tests, with a plugin."""
    config = make_train_system(gram={"maximum": 0.0} | gram).config
    model = {**dataclasses.asdict(MODEL), "loras": (("background", 2),), "foreground_channels": 48}
    return build_train_system(
        dataclasses.replace(
            config,
            model=ModelConfig(**model),
            refine=RefineConfig(enabled=True, vector_channels=32, bleach_rate=0.5),
            optimizer=OptimizerConfig(trainable=TRAINABLE, learning_rate=1e-2),
        )
    )


def make_batch():
    """Two samples of 2 x 2 px: a figure at the right, a reference's figure at the bottom."""
    ramp = jnp.linspace(-0.8, 0.8, 12).reshape(1, 2, 2, 3)
    right = jnp.array([[0.0, 1.0], [0.2, 0.6]]).reshape(1, 2, 2, 1)
    twice = functools.partial(jnp.repeat, repeats=2, axis=0)
    return Batch(
        sketch=twice(-ramp),
        size=jnp.ones(2),
        aesthetic_score=jnp.ones(2),
        image=twice(ramp),
        reference=twice(ramp[:, ::-1]),
        sketch_mask=twice(right),
        reference_mask=twice(jnp.swapaxes(right, 1, 2)),
    )


def test_figures_and_backgrounds_are_cut_at_the_samples_thresholds():
    batch = make_batch()
    random = CutRandomness(
        sketch_threshold=jnp.array([0.1, 0.5]),
        reference_threshold=jnp.array([0.1, 0.7]),
        bleach=jnp.array([0.0, 1.0]),
        bleach_value=jnp.array([0.96, 0.97]),
    )
    cut = refinement.cut(batch, random)
    figures = np.array([[[0, 1], [1, 1]], [[0, 1], [0, 1]]], bool)[..., None]
    np.testing.assert_array_equal(cut.batch.sketch, np.where(figures, batch.sketch, -1))
    # Only a bleached sample loses its background.
    np.testing.assert_array_equal(cut.batch.image[0], batch.image[0])
    np.testing.assert_array_equal(cut.batch.image[1], np.where(figures[1], batch.image[1], 1))
    kept = np.array([[1, 0], [0, 0]], bool)[..., None]
    np.testing.assert_array_equal(cut.background[0], np.where(kept, batch.reference[0], 1))
    np.testing.assert_array_equal(cut.background[1], np.full((2, 2, 3), np.float32(0.97)))
    np.testing.assert_array_equal(cut.batch.reference, batch.reference)


def test_draws_stay_in_their_ranges_and_follow_the_step():
    batch = to_batch(make_record(batch=64))
    draws = [refinement.draw(jax.random.key(0), step, batch, 0.25) for step in (0, 0, 1)]
    first, again, other = draws
    for name in ("sketch_threshold", "reference_threshold", "bleach_value"):
        low, high = (0.95, 1.0) if name == "bleach_value" else (0.01, 0.99)
        values = np.asarray(getattr(first, name))
        assert values.min() >= low and values.max() <= high and np.ptp(values) > 0.5 * (high - low)
        np.testing.assert_array_equal(values, getattr(again, name))
        assert (values != getattr(other, name)).any()
    assert 4 <= int(first.bleach.sum()) <= 30


def test_data_without_masks_is_named():
    batch = make_batch().replace(reference_mask=None)
    random = refinement.draw(jax.random.key(0), 0, batch, 0.1)
    with pytest.raises(UserError, match="got pictures without reference_mask for the second stage"):
        refinement.cut(batch, random)


@pytest.fixture(scope="module")
def update():
    """A system, its state before an update and after it, the metrics."""
    system = make_system()
    abstract = jax.eval_shape(functools.partial(random_params, system), jax.random.key(0))
    state = create_state(
        random_tree(abstract),
        system.optimizer,
        trainable=TRAINABLE,
        held=system.held,
        ema=True,
        other_dtype=jnp.bfloat16,
        frozen_networks=(),
    )
    step = jax.jit(functools.partial(train_step, system, dual=False))
    after, metrics = step(state, make_record(), jax.random.key(0))
    return system, state, after, metrics


def test_an_update_changes_the_plugin_and_nothing_else(update):
    system, before, after, metrics = update
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before.params, after.params)
    assert not [path for path, changed in trees.flatten(moved).items() if not changed]
    jax.tree.map(np.testing.assert_array_equal, before.frozen, after.frozen)
    assert set(before.params) == {"background_encoder", "unet"}
    assert all("lora" in path for path in trees.flatten(before.params["unet"]))
    # Frozen as the caller says, never by accident: attention that runs, layers that never do.
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(before.frozen)}
    assert dtypes == {jnp.dtype("bfloat16")}
    held = trees.flatten(before.frozen["background_encoder"])
    last, depth = list(system.background_encoder.stacks().items())[-1]
    assert {path.split("/")[0] for path in held} == {last}
    assert f"{last}/transformer_blocks_{depth - 1}/attn1/to_q/kernel" in held
    assert f"{last}/proj_out/kernel" in held and len(held) == 13
    counts = [leaf.size for leaf in jax.tree.leaves(after.opt_state) if leaf.ndim]
    assert sum(counts) == 2 * sum(leaf.size for leaf in jax.tree.leaves(after.params))
    assert metrics["gram_loss"] == 0 and metrics["diffusion_loss"] > 0


def test_the_gram_loss_is_an_option(update):
    _, state, _, _ = update
    system = make_system(maximum=1.0, zero_share=0.0, blocks=(1, 5))
    step = jax.jit(functools.partial(train_step, system, dual=True))
    _, metrics = step(state.replace(step=jnp.int32(3)), make_record(), jax.random.key(0))
    assert metrics["gram_loss"] > 0 and np.isfinite(metrics["gradient_norm"])


def test_an_encoder_starts_from_the_unet_where_shapes_fit():
    system = make_system()
    abstract = jax.eval_shape(functools.partial(random_params, system), jax.random.key(0))
    unet = jax.tree.map(np.asarray, random_tree(abstract["unet"]))
    encoder = trees.flatten(encoder_from_unet(unet, abstract["background_encoder"]))
    flat, expected = trees.flatten(unet), trees.flatten(abstract["background_encoder"])
    assert set(expected) - set(encoder) == {"label_emb_0_0/kernel"}
    assert all(leaf.shape == expected[path].shape for path, leaf in encoder.items())
    last, depth = list(system.background_encoder.stacks().items())[-1]
    kernel = "attn1/to_q/kernel"
    stack = flat[f"{last}/transformer_blocks/{kernel}"]
    np.testing.assert_array_equal(encoder[f"{last}/transformer_blocks/{kernel}"], stack[:-1])
    name = f"{last}/transformer_blocks_{depth - 1}/{kernel}"
    np.testing.assert_array_equal(encoder[name], stack[-1])
    first = encoder["input_blocks_0_0/kernel"]
    np.testing.assert_array_equal(first[:, :, :48], flat["input_blocks_0_0/kernel"])
    assert not first[:, :, 48:].any()
    assert first.shape[2] == 50
