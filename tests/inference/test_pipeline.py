"""The pipeline: what goes in and out, what is compiled, what a seed fixes."""

import dataclasses

import numpy as np
import pytest
import small_system
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from colorize_jax.errors import UserError
from colorize_jax.inference import programs
from colorize_jax.inference.options import InferenceOptions
from colorize_jax.inference.pictures.tiles import decode_tiled
from colorize_jax.inference.pipeline import ColorizePipeline

OPTIONS = InferenceOptions(sampler="Euler", steps=3, seed=0)
SKETCH, REFERENCE = small_system.make_pictures()
OTHER_SKETCH, OTHER_REFERENCE = small_system.make_pictures(1, 30, 50)


@pytest.fixture(scope="module")
def pipeline():
    return ColorizePipeline(small_system.make_networks())


def pixels(images):
    return [np.asarray(image, np.int16) for image in images]


def assert_same(a, b, slack=1):
    """Equal but for rounding."""
    for one, other in zip(pixels(a), pixels(b), strict=True):
        assert one.shape == other.shape and np.abs(one - other).max() <= slack


def differ(a, b):
    return any(np.abs(x - y).max() > 1 for x, y in zip(pixels(a), pixels(b), strict=True))


def test_pictures_of_every_kind_go_in_and_pil_pictures_come_out(pipeline, tmp_path):
    (expected,) = pipeline(SKETCH, REFERENCE, OPTIONS)
    assert isinstance(expected, Image.Image) and expected.mode == "RGB"
    # 48 x 40 px inside 32 x 32: cut back to the sketch's aspect.
    assert expected.size == (27, 32)
    path = tmp_path / "sketch.png"
    Image.fromarray(SKETCH).save(path)
    for sketch in (Image.fromarray(SKETCH), path, str(path), SKETCH[None]):
        assert_same(pipeline(sketch, Image.fromarray(REFERENCE), OPTIONS), [expected], 0)
    whole = pipeline(SKETCH, REFERENCE, OPTIONS.replace(crop_to_sketch=False))[0]
    assert whole.size == (32, 32)
    assert_same([whole.crop((2, 0, 29, 32))], [expected], 0)


def test_a_picture_depends_on_its_own_seed_and_not_on_its_batch(pipeline):
    alone = pipeline(OTHER_SKETCH, REFERENCE, OPTIONS)
    together = pipeline([SKETCH, OTHER_SKETCH, SKETCH], REFERENCE, OPTIONS)
    assert_same(together[1:2], alone)
    assert_same(together[:1], together[2:], 0)
    # References vary under one sketch, and pair by pair.
    for sketch in (SKETCH, [SKETCH] * 3):
        results = pipeline(sketch, [REFERENCE, OTHER_REFERENCE, REFERENCE], OPTIONS)
        assert_same(results[:1], together[:1])
        assert differ(results[:1], results[1:2])
    seeds = pipeline([SKETCH] * 3, REFERENCE, OPTIONS, seeds=[0, 1, 0])
    assert differ(seeds[:1], seeds[1:2])
    assert_same([seeds[0], seeds[2]], [together[0]] * 2)


def test_numbers_change_without_compiling(pipeline):
    first = pipeline(SKETCH, REFERENCE, OPTIONS)
    compiled = programs.denoise._cache_size()
    changes = {
        "steps": 7,
        "seed": 2**32 - 1,
        "reference_guidance": 2.0,
        "reference_strength": 0.5,
        "level_strengths": (0.5, 1.0, 2.0),
        "block_strengths": (0.5,) * 4,
        "sketch_strength": 0.5,
        "sketch_strengths": (0.1, 1.0, 1.0, 1.0),
        "guidance_window": (0.0, 0.2),
        "no_guidance_window": (0.0, 0.5),
        "schedule": "Karras",
    }
    for name, value in changes.items():
        changed = pipeline(SKETCH, REFERENCE, OPTIONS.replace(**{name: value}))
        assert differ(changed, first), name
    assert programs.denoise._cache_size() == compiled


def test_sizes(pipeline):
    # Sketches whose sizes differ are coloured apart and come back in order.
    images = pipeline([OTHER_SKETCH, SKETCH], REFERENCE, OPTIONS.replace(autofit=True))
    assert [image.size for image in images] == [(40, 24), (27, 32)]
    # No multiple of what the UNet halves: drawn on a larger canvas, cut back.
    options = OPTIONS.replace(height=20, width=40)
    assert pipeline(SKETCH, REFERENCE, options)[0].size == (17, 20)
    options = options.replace(crop_to_sketch=False)
    assert pipeline(SKETCH, REFERENCE, options)[0].size == (40, 20)
    with pytest.raises(UserError, match="got width 30 px, expected a multiple of 4 from 16 up"):
        pipeline(SKETCH, REFERENCE, OPTIONS.replace(width=30))


def test_unrolled_stacks_colour_alike(pipeline):
    networks = small_system.make_networks()
    unet = networks.system.colorizer.unet.clone(block_loop="unrolled")
    colorizer = dataclasses.replace(networks.system.colorizer, unet=unet)
    networks.system = dataclasses.replace(networks.system, colorizer=colorizer)
    unrolled, expected = ColorizePipeline(networks), pipeline(SKETCH, REFERENCE, OPTIONS)
    for options in (OPTIONS, OPTIONS.replace(low_memory=True)):
        assert_same(unrolled(SKETCH, REFERENCE, options), expected)
    other = OPTIONS.replace(injection_fidelity=0.5, reference_strength=0.7)
    assert_same(unrolled(SKETCH, REFERENCE, other), pipeline(SKETCH, REFERENCE, other))


def test_memory_is_given_back_and_nothing_else_changes(pipeline):
    expected = pipeline(SKETCH, REFERENCE, OPTIONS)
    assert_same(pipeline(SKETCH, REFERENCE, OPTIONS.replace(low_memory=True)), expected, 0)
    assert set(pipeline.networks._loaded) == {"vae"}
    assert_same(pipeline(SKETCH, REFERENCE, OPTIONS.replace(tiled_decode=True)), expected, 0)


def test_tiles_meet_without_seams():
    random = np.random.default_rng(0)
    latents = random.standard_normal((2, 13, 9, 3)).astype(np.float32)
    shapes = set()

    def decode(part):
        shapes.add(part.shape)
        return np.repeat(np.repeat(part, 2, 1), 2, 2)

    tiled = decode_tiled(decode, latents, 2, tile=6, overlap=2)
    np.testing.assert_allclose(tiled, decode(latents), atol=1e-5)
    assert shapes == {(2, 6, 6, 3), latents.shape}


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from(["1", "L", "LA", "RGB", "RGBA", "P", "CMYK", "I;16", "F"]),
    st.sampled_from(["invert", "none", "extract"]),
    st.integers(0, 2**32 - 1),
)
def test_any_sketch_gives_a_picture_of_its_aspect(
    pipeline, height, width, mode, preprocessor, seed
):
    levels = np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)
    if mode == "I;16":
        sketch = Image.fromarray(levels.astype(np.uint16) * 257)
    else:
        sketch = Image.fromarray(levels).convert(mode)
    options = OPTIONS.replace(preprocessor=preprocessor, seed=seed)
    (image,) = pipeline(sketch, REFERENCE, options)
    scale = 32 / max(height, width)
    assert abs(image.height - max(1, height * scale)) <= 0.5
    assert abs(image.width - max(1, width * scale)) <= 0.5


@pytest.mark.parametrize(
    ("sketch", "reference", "options", "message"),
    [
        (SKETCH, None, {}, "got no reference, expected one"),
        (SKETCH, None, {"unconditional": True, "split_attention": True}, "got split_attention wit"),
        ([SKETCH] * 2, [REFERENCE] * 3, {}, "got 2 sketches and 3 references"),
        ([], REFERENCE, {}, "got an empty list of pictures"),
        ("missing.png", REFERENCE, {}, "got missing.png, which does not exist"),
        (SKETCH, REFERENCE, {"background_plugin": True}, "expected a checkpoint of the plugin"),
        (SKETCH, REFERENCE, {"foreground_latent": True}, "expected a checkpoint of the plugin"),
        (SKETCH, REFERENCE, {"lora_scales": {"style": 1}}, "low-rank additions style"),
        (SKETCH, REFERENCE, {"block_strengths": (1.0,)}, "got 1 block_strengths, expected 4"),
        (SKETCH, REFERENCE, {"steps": 600}, "got 600 steps for Euler"),
    ],
)
def test_bad_input_is_one_line(pipeline, sketch, reference, options, message):
    with pytest.raises(UserError, match=message) as caught:
        pipeline(sketch, reference, OPTIONS.replace(**options))
    assert "\n" not in str(caught.value)


def test_seeds_are_as_many_as_pictures(pipeline):
    with pytest.raises(UserError, match="got seeds"):
        pipeline(SKETCH, REFERENCE, OPTIONS, seeds=[1, 2])
