"""Colour hints: read, brought to latents, and led to without training."""

import jax.numpy as jnp
import numpy as np
import pytest
import small_system
from PIL import Image

from colorize_jax.errors import UserError
from colorize_jax.inference.controls import hints
from colorize_jax.inference.options import InferenceOptions
from colorize_jax.inference.pipeline import ColorizePipeline

OPTIONS = InferenceOptions(sampler="Euler", steps=2, seed=0)
SIDE, CELL = small_system.SIDE, small_system.CELL
RED = (204, 34, 68)


@pytest.fixture(scope="module")
def pipeline():
    return ColorizePipeline(small_system.make_networks())


@pytest.fixture(scope="module")
def pair():
    return small_system.make_pictures(0, SIDE, SIDE)


def stroke():
    """A hint of red over one column of latents."""
    rgba = np.zeros((SIDE, SIDE, 4), np.uint8)
    rgba[:, 8:12] = (*RED, 255)
    return Image.fromarray(rgba)


def color(pipeline, pair, options=OPTIONS, **kwargs):
    (picture,) = pipeline(*pair, options, **kwargs)
    return np.asarray(picture).astype(int)


def test_the_map_is_exact_where_colours_are_linear_in_latents(pipeline):
    pipeline(*small_system.make_pictures(0, SIDE, SIDE), OPTIONS, color_hints=stroke())
    found = pipeline.color_map
    random = np.random.default_rng(1)
    color = random.uniform(-1, 1, 3).astype(np.float32)
    image = np.broadcast_to(color, (1, SIDE, SIDE, 3))
    params = pipeline.networks.params("vae")
    latents = pipeline.system.encoders.encode_image(params, image)
    np.testing.assert_allclose(found.colors(latents)[0, 0, 0], color, atol=1e-4)
    change = jnp.asarray([0.5, -0.25, 0.125])
    np.testing.assert_allclose(
        found.colors(latents + change @ found.inverse) - found.colors(latents),
        jnp.broadcast_to(change, (*latents.shape[:3], 3)),
        atol=1e-4,
    )


def test_hinted_places_take_the_colour(pipeline, pair):
    options = OPTIONS.replace(color_hint_reach=0.0)
    found = color(pipeline, pair, options, color_hints=stroke())
    plain = color(pipeline, pair, options)
    cells = found[:, 8:12].reshape(SIDE // CELL, CELL, CELL, 3).mean(axis=(1, 2))
    # Single pixels that would leave the range of colours are clipped.
    assert np.abs(cells - RED).mean() < 12 < np.abs(plain[:, 8:12] - RED).mean()
    # Two steps: what lies around has hardly changed.
    around = np.abs(found[:, 20:] - plain[:, 20:]).mean()
    assert around < 0.2 * np.abs(found[:, 8:12] - plain[:, 8:12]).mean()


def test_strength_and_window(pipeline, pair):
    plain = color(pipeline, pair)
    for changes in ({"color_hint_strength": 0.0}, {"color_hint_window": (0.2, 0.3)}):
        found = color(pipeline, pair, OPTIONS.replace(**changes), color_hints=stroke())
        np.testing.assert_array_equal(found, plain)
    half = color(pipeline, pair, OPTIONS.replace(color_hint_strength=0.5), color_hints=stroke())
    whole = color(pipeline, pair, color_hints=stroke())
    distance = [np.abs(x[:, 8:12] - RED).mean() for x in (plain, half, whole)]
    assert distance[0] > distance[1] > distance[2]


def flat_hints():
    """Two areas of one colour each, a hint in the first."""
    colors = np.zeros((1, 8, 8, 3), np.float32)
    mask = np.zeros((1, 8, 8, 1), np.float32)
    colors[0, 4, 1], mask[0, 4, 1] = (1.0, 0.0, 0.0), 1.0
    places = hints._places(mask.reshape(1, -1))
    identity = hints.ColorMap(jnp.eye(3), jnp.zeros(3), jnp.eye(3))
    return hints.Hints(jnp.asarray(colors), jnp.asarray(mask), jnp.asarray(places), identity)


def test_hints_spread_near_and_in_one_colour_alone():
    clean = np.zeros((1, 8, 8, 3), np.float32)
    clean[:, :, 4:] = (-1.0, 1.0, 1.0)
    strength = jnp.ones(1)
    led = np.asarray(flat_hints().lead(jnp.asarray(clean), strength, jnp.float32(0.5)))[0]
    np.testing.assert_allclose(led[4, 1], (1, 0, 0), atol=1e-6)
    assert led[4, 2, 0] > 0.9 > led[4, 3, 0] > led[0, 3, 0] > 0
    np.testing.assert_allclose(led[:, 4:], clean[0, :, 4:], atol=1e-4)
    still = np.asarray(flat_hints().lead(jnp.asarray(clean), strength, jnp.float32(0.0)))[0]
    np.testing.assert_allclose(np.delete(still, 4, axis=0), np.delete(clean[0], 4, axis=0))
    np.testing.assert_allclose(still[4, 1], (1, 0, 0), atol=1e-6)


def test_a_batch_may_mix_pictures_with_hints_and_without(pipeline, pair):
    sketch, reference = pair
    read = pipeline.read_reference(reference, OPTIONS)
    pictures = [
        pipeline.read_sketch(sketch, read, OPTIONS),
        pipeline.read_sketch(sketch, read, OPTIONS, color_hints=stroke()),
    ]
    without, with_hints = (
        np.asarray(image).astype(int) for image in pipeline.color(pictures, OPTIONS, [0, 0])
    )
    assert np.abs(without - color(pipeline, pair)).max() <= 1
    assert np.abs(with_hints - color(pipeline, pair, color_hints=stroke())).max() <= 1


def test_points_are_drawn(pipeline, pair):
    read = pipeline.read_reference(pair[1], OPTIONS)
    point = "0.5,0.25,#cc2244,0.1"
    picture = pipeline.read_sketch(pair[0], read, OPTIONS, color_hints=[point])
    colors, mask = picture.color_hints
    y, x = np.nonzero(mask > 0.5)
    assert abs(y.mean() - SIDE / 4) < 1 and abs(x.mean() - SIDE / 2) < 1
    assert np.ptp(x) == pytest.approx(0.2 * SIDE, abs=1.5)
    np.testing.assert_allclose(colors[8, 16] * 127.5 + 127.5, RED, atol=1)


@pytest.mark.parametrize(
    "point",
    ["", "1,2", "0.5,0.5,red", "2,0,#ffffff", "0,0,#fffffff", "0,0,#ffffff,0", "1..,0,#ffffff"],
)
def test_what_is_no_point_is_refused(pipeline, pair, point):
    with pytest.raises(UserError, match="expected x,y,#rrggbb"):
        pipeline(*pair, OPTIONS, color_hints=[point])


def test_a_picture_without_transparency_is_refused(pipeline, pair):
    with pytest.raises(UserError, match="without transparency"):
        pipeline(*pair, OPTIONS, color_hints=pair[1])


def test_many_hinted_places_are_thinned_evenly():
    mask = np.zeros((2, 1000), np.float32)
    mask[0, 100:900] = 1
    places = hints._places(mask)
    assert places.shape == (2, hints.MAX_PLACES)
    assert places[0].min() == 100 and places[0].max() == 899
    assert (np.diff(places[0]) <= 4).all() and (mask[1][places[1]] == 0).all()


@pytest.fixture(scope="module")
def trained():
    return ColorizePipeline(small_system.make_networks(hints=True))


def test_a_model_that_takes_hints_gets_them(trained, pair):
    named = OPTIONS.replace(color_hint_method="trained")
    plain, found = color(trained, pair), color(trained, pair, named, color_hints=stroke())
    assert (plain != found).any() and "color_map" not in vars(trained)
    # The convolution alone says what hints do: at strength 0 they are not there.
    none = color(trained, pair, named.replace(color_hint_strength=0.0), color_hints=stroke())
    np.testing.assert_array_equal(none, plain)
    read = trained.read_reference(pair[1], OPTIONS)
    pictures = [
        trained.read_sketch(pair[0], read, OPTIONS, color_hints=hints) for hints in (None, stroke())
    ]
    rows = [np.asarray(x).astype(int) for x in trained.color(pictures, named, [0, 0])]
    assert np.abs(rows[0] - plain).max() <= 1 and np.abs(rows[1] - found).max() <= 1


def test_hints_go_into_the_encoder_and_lead_the_loop_too(trained, pair):
    pictures = {
        method: color(
            trained, pair, OPTIONS.replace(color_hint_method=method), color_hints=stroke()
        )
        for method in ("trained", "led", "both", "automatic")
    }
    np.testing.assert_array_equal(pictures["automatic"], pictures["both"])
    assert np.abs(pictures["led"] - pictures["trained"]).mean() > 1
    # What leads does so from what the network was told: neither alone makes this picture.
    for alone in ("trained", "led"):
        assert (pictures["both"] != pictures[alone]).any()
    colors, mask = np.asarray(stroke(), int)[..., :3], np.asarray(stroke())[..., 3] > 0
    error = {name: np.abs(p - colors)[mask].mean() for name, p in pictures.items()}
    assert error["both"] < error["trained"]


def test_what_a_sketch_encoder_takes():
    random = np.random.default_rng(0)
    colors = random.uniform(-1, 1, (SIDE, SIDE, 3)).astype(np.float32)
    mask = (random.uniform(size=(SIDE, SIDE)) > 0.5).astype(np.float32)
    stacked = hints.stack_hints([None, (colors, mask)], (SIDE, SIDE))
    assert not stacked[0].any()
    np.testing.assert_array_equal(stacked[1, ..., 3], mask)
    np.testing.assert_array_equal(stacked[1, ..., :3], np.where(mask[..., None], colors, 0))


def test_options_that_a_model_cannot_follow_are_refused(pipeline, trained, pair):
    for method in ("trained", "both"):
        with pytest.raises(UserError, match=f"color_hint_method {method} .* takes no hints"):
            pipeline(*pair, OPTIONS.replace(color_hint_method=method))
    options = OPTIONS.replace(color_hint_method="trained", color_hint_reach=0.2)
    with pytest.raises(UserError, match="color_hint_reach with color_hint_method trained"):
        trained(*pair, options, color_hints=stroke())
