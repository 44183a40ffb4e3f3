"""Hints of colour that training draws: what they show, and what a step learns of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_training import make_record, make_train_system, random_tree

from colorize_jax.config.method import ColorHintsConfig
from colorize_jax.models.colorizer import TRAINED_NETWORKS
from colorize_jax.models.sketch_encoder import COLOR_HINT_CHANNELS
from colorize_jax.setup.networks import build_train_system, random_params
from colorize_jax.training import trees
from colorize_jax.training.augment import to_batch
from colorize_jax.training.color_hints import draw_hints
from colorize_jax.training.step import gradients, prepare

SIDE, BATCH = 48, 12
MANY = ColorHintsConfig(dropout=0.0, recolor_rate=0.0, max_radius=0.1)


@pytest.fixture(scope="module")
def pictures():
    """Flat areas with lines between them: pictures and sketches."""
    random = np.random.default_rng(0)
    colors = random.uniform(-1, 1, (BATCH, 2, 2, 3)).astype(np.float32)
    image = colors.repeat(SIDE // 2, axis=1).repeat(SIDE // 2, axis=2)
    sketch = np.full_like(image, -1)
    middle = slice(SIDE // 2 - 2, SIDE // 2 + 2)
    for lines, value in ((sketch, 1), (image, -1)):
        lines[:, middle], lines[:, :, middle] = value, value
    return image, sketch


def draw(pictures, options, seed=0):
    drawn = jax.jit(lambda *given: draw_hints(*given, jax.random.key(seed), options))(*pictures)
    return tuple(np.asarray(part) for part in drawn)


def test_hints_show_what_the_picture_has_there(pictures):
    image, hints = draw(pictures, MANY)
    np.testing.assert_allclose(image, pictures[0], atol=1e-6)
    mask = hints[..., 3] > 0
    assert hints.shape == (BATCH, SIDE, SIDE, COLOR_HINT_CHANNELS)
    assert set(np.unique(hints[..., 3])) == {0, 1} and 0 < mask.mean() < 0.5
    np.testing.assert_allclose(hints[mask][:, :3], image[mask], atol=1e-6)
    assert not hints[~mask].any()
    # None begins on a line, and areas end at lines.
    assert not mask[pictures[1][..., 0] > 0].any()


def test_how_many_there_are(pictures):
    def areas(**changes):
        options = dataclasses.replace(MANY, stroke_rate=0.0, max_radius=0.01, **changes)
        found = [draw(pictures, options, seed)[1][..., 3] > 0 for seed in range(20)]
        return np.sum(found, axis=(2, 3)).ravel()

    assert not areas(dropout=1.0).any()
    one = areas(maximum=1)
    assert 0 < one.min() + one.max() <= 4  # a point is the pixel that it lies in, about
    many = areas(maximum=30)
    # The logarithm is uniform: a fifth has one, a fifth has more than fifteen.
    assert many.max() > 5 * one.max() and np.median(many) < 0.5 * many.max()
    some = areas(maximum=30, dropout=0.5)
    assert 0.3 < np.mean(some == 0) - np.mean(many == 0) < 0.6


def test_strokes_are_longer_than_points(pictures):
    options = dataclasses.replace(MANY, maximum=4, max_radius=0.02, max_length=0.4)
    strokes = draw(pictures, dataclasses.replace(options, stroke_rate=1.0))[1][..., 3].mean()
    points = draw(pictures, dataclasses.replace(options, stroke_rate=0.0))[1][..., 3].mean()
    assert strokes > 2 * points > 0


def test_another_colour_is_that_of_one_part_and_of_its_hints(pictures):
    image, hints = draw(pictures, dataclasses.replace(MANY, recolor_rate=1.0))
    changed = np.abs(image - pictures[0]).max(axis=-1) > 1e-3
    assert changed.any(axis=(1, 2)).sum() >= BATCH // 2
    # Areas that lines part change as a whole or not at all, and lines do not.
    half = SIDE // 2
    for own in changed:
        areas = [area[:-2, :-2] for area in (own[:half, :half], own[half:, half:][::-1, ::-1])]
        assert all(area.all() or not area.any() for area in areas)
        assert not own[half - 2 : half + 2].any()
    mask = hints[..., 3] > 0
    np.testing.assert_allclose(hints[mask][:, :3], image[mask], atol=1e-5)
    assert (mask & changed).any()


@pytest.fixture(scope="module")
def hinted():
    """The small system, without and with hints, and parameters of the second, untrained."""
    plain = make_train_system().config
    config = dataclasses.replace(
        plain,
        model=dataclasses.replace(plain.model, hints=True),
        color_hints=ColorHintsConfig(dropout=0.0, recolor_rate=0.0),
    )
    system = build_train_system(config)
    shapes = jax.eval_shape(lambda: random_params(system, jax.random.key(0)))
    params = random_tree(shapes)
    kernel = params["sketch_encoder"]["color_hints"]["kernel"]
    params["sketch_encoder"]["color_hints"]["kernel"] = jnp.zeros_like(kernel)
    return make_train_system(), system, params


def run(system, params, **changes):
    """Inputs, gradients and loss of a step of both branches."""
    trained = {name: params[name] for name in TRAINED_NETWORKS}
    frozen = {name: tree for name, tree in params.items() if name not in trained}

    @jax.jit
    def step(trained, record):
        batch = to_batch(record)
        inputs = prepare(system, frozen, batch, jax.random.key(1), jnp.int32(0), **changes)
        grads, metrics = gradients(system, trained, frozen, inputs, jnp.float32(1), dual=True)
        return inputs, grads, metrics

    return step(trained, make_record())


def test_a_step_that_begins_from_published_weights_has_their_loss(hinted):
    plain, system, params = hinted
    without = {**params, "sketch_encoder": {**params["sketch_encoder"]}}
    del without["sketch_encoder"]["color_hints"]
    inputs, grads, metrics = run(system, params)
    theirs, _, expected = run(plain, without)
    assert inputs.color_hints.any() and theirs.color_hints is None
    for name in ("diffusion_loss", "gram_loss", "loss"):  # the compiler may fuse otherwise
        assert float(metrics[name]) == pytest.approx(float(expected[name]), rel=1e-5)
    assert metrics["gram_loss"] > 0
    # Every other random number is what it was, and the hints' kernel learns from the first step.
    np.testing.assert_array_equal(inputs.random.noise, theirs.random.noise)
    np.testing.assert_array_equal(inputs.latents, theirs.latents)
    assert grads["sketch_encoder"]["color_hints"]["kernel"].any()


def test_validation_is_without_hints(hinted):
    _, system, params = hinted
    assert run(system, params, hint=False)[0].color_hints is None


def test_nothing_is_added_where_there_are_no_hints(hinted):
    plain, _, params = hinted
    theirs = jax.eval_shape(lambda: random_params(plain, jax.random.key(0)))
    added = set(trees.flatten(params)) - set(trees.flatten(theirs))
    assert added == {"sketch_encoder/color_hints/kernel"}
