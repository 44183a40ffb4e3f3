"""Options: defaults of the published system, ranges, files, flags and PNG metadata."""

import argparse
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from colorize_jax.commands.option_flags import add_option_flags, options_from_flags
from colorize_jax.diffusion.samplers import SAMPLERS, SCHEDULES
from colorize_jax.errors import UserError
from colorize_jax.inference.metadata import KEYWORD, PictureMetadata, read_metadata, save_png
from colorize_jax.inference.options import InferenceOptions, block_levels, read_options
from colorize_jax.inference.pictures.sizes import SizeLimits
from colorize_jax.inference.text.manipulation import TextManipulation

PUBLISHED_LEVELS = block_levels((0, 2, 10), 2)

some_texts = st.text(min_size=1).filter(str.strip)
some_manipulations = st.builds(
    TextManipulation,
    target=some_texts,
    anchor=some_texts,
    control=st.none() | some_texts,
    strength=st.floats(-10, 10),
    threshold=st.floats(0, 1),
    adaptive=st.booleans(),
)
some_options = st.builds(
    InferenceOptions,
    reference_guidance=st.floats(0, 100),
    guidance_window=st.tuples(st.floats(0, 0.5), st.floats(0.5, 1)),
    no_guidance_window=st.none() | st.just((0.2, 0.3)),
    sketch_strengths=st.tuples(*[st.floats(0, 10)] * 4),
    block_strengths=st.none() | st.lists(st.floats(0, 10), min_size=1, max_size=70).map(tuple),
    lora_scales=st.dictionaries(st.text("ab_", min_size=1), st.floats(-10, 10), max_size=3),
    steps=st.integers(1, 1000),
    sampler=st.sampled_from(sorted(SAMPLERS)),
    schedule=st.sampled_from(sorted(SCHEDULES)),
    seed=st.none() | st.integers(0, 2**32 - 1),
    tiled_decode=st.booleans(),
    text=st.lists(some_manipulations, max_size=3).map(tuple),
    height=st.none() | st.just(768),
)


def test_published_defaults():
    options = InferenceOptions()
    assert options.reference_guidance == 4
    assert options.sketch_guidance == 1
    assert options.guidance_window == (0, 1)
    assert (options.steps, options.sampler, options.schedule) == (20, "DPM++ 3M SDE", "automatic")
    assert (options.sketch_mask_threshold, options.reference_mask_threshold) == (0.05, 0.5)
    assert options.merge == 0
    assert options.injection_fidelity == 0.5
    assert options.aesthetic_score == 7
    assert options.output_size(500, 900) == (1024, 1024)
    assert options.seed is None
    assert hash(options) == hash(InferenceOptions())


@settings(max_examples=30, deadline=None)
@given(some_options)
def test_json_there_and_back(options):
    assert InferenceOptions.from_json(options.to_json()) == options
    assert InferenceOptions.from_dict(options.to_dict()) == options


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference_guidance": -1}, "got reference_guidance -1, expected a number from 0 to 100"),
        ({"reference_guidance": "4"}, "expected a number"),
        ({"reference_guidance": True}, "expected a number"),
        ({"reference_guidance": float("nan")}, "expected a number"),
        ({"steps": 0}, "a whole number from 1 to 1000"),
        ({"steps": 2.5}, "a whole number"),
        ({"steps": True}, "a whole number"),
        ({"seed": -1}, "a whole number from 0 to 4294967295"),
        ({"merge": 1.5}, "from 0 to 1"),
        ({"tiled_decode": 1}, "true or false"),
        ({"preprocessor": "canny"}, "one of invert, none, extract"),
        ({"preprocessor": ["invert"]}, "one of invert, none, extract"),
        ({"sampler": "DPM++ 2N"}, 'nearest: "DPM\\+\\+ 2M"'),
        ({"sampler": 3}, "expected a name"),
        ({"schedule": "karas"}, 'nearest: "Karras"'),
        ({"sketch_strengths": [1, 1]}, "a list of 4 numbers"),
        ({"sketch_strengths": [1, 1, 1, "x"]}, r"sketch_strengths\[3\]"),
        ({"sketch_strengths": "1111"}, "a list of 4 numbers"),
        ({"block_strengths": []}, "at least one, a number"),
        ({"guidance_window": [0.6, 0.5]}, "its start before its end"),
        ({"guidance_window": [0, 2]}, "from 0 to 1"),
        ({"lora_scales": {"background": "x"}}, "lora_scales.background"),
        ({"lora_scales": 3}, "numbers by name"),
        ({"text": "red hair"}, "a list of objects with target"),
        ({"text": ["red hair"]}, "an object such as"),
        ({"text": [{"anchor": "blue hair"}]}, "an object such as"),
        ({"text": [{"target": " "}]}, "got text target ' ', expected a text"),
        ({"text": [{"target": "red", "control": 3}]}, "got text control 3, expected a text"),
        ({"text": [{"target": "red", "strength": 11}]}, "text strength 11.*from -10 to 10"),
        ({"text": [{"target": "red", "threshold": -1}]}, "text threshold -1.*from 0 to 1"),
        ({"text": [{"target": "red", "adaptive": 1}]}, "text adaptive 1, expected true or false"),
        ({"text": [{"target": "red", "adaptive": True}]}, '"red" as adaptive without anchor'),
        ({"text": [{"target": "red", "anker": "blue"}]}, 'nearest: "anchor"'),
        ({"autofit": True, "height": 512}, "one of them"),
        ({"remove_foreground": True, "remove_background": True}, "leave nothing"),
        ({"refrence_guidance": 4}, "nearest"),
        ({"low_memry": True}, '"low_memory"'),
    ],
)
def test_bad_values_give_one_line(change, message):
    for build in (InferenceOptions.from_dict, lambda c: InferenceOptions().replace(**c)):
        with pytest.raises(UserError, match=message) as caught:
            build(change)
        assert "\n" not in str(caught.value)


def test_numbers_of_numpy_and_lists_become_plain():
    options = InferenceOptions(
        reference_guidance=np.float32(2), steps=np.int64(3), sketch_strengths=[1, 1, 0, np.int32(1)]
    )
    assert type(options.steps) is int
    assert options.sketch_strengths == (1.0, 1.0, 0.0, 1.0)
    json.loads(options.to_json())


def test_names_are_found_however_written():
    options = InferenceOptions(sampler="dpm++ 2m sde", schedule="KARRAS")
    assert (options.sampler, options.schedule) == ("DPM++ 2M SDE", "Karras")


def test_seed_zero_is_a_seed():
    assert InferenceOptions(seed=0).with_seed().seed == 0
    seeds = {InferenceOptions().with_seed().seed for _ in range(5)}
    assert len(seeds) == 5
    assert None not in seeds


def test_output_sizes():
    assert InferenceOptions(height=768, width=1536).output_size(1, 1) == (768, 1536)
    assert InferenceOptions(autofit=True).output_size(300, 200) == (1248, 832)
    small = SizeLimits(default=64, minimum=32, multiple=8, autofit_multiple=8)
    assert InferenceOptions().output_size(9, 9, small) == (64, 64)
    with pytest.raises(UserError, match="multiple of 8 from 256 up"):
        InferenceOptions(height=100).output_size(1, 1)


def test_levels_of_the_published_blocks():
    """Blocks 1-4 and 65-70 are high, 5-24 and 35-64 low, 25-34 the bottom."""
    expected = ["high"] * 4 + ["low"] * 20 + ["bottom"] * 10 + ["low"] * 30 + ["high"] * 6
    assert list(PUBLISHED_LEVELS) == expected


def test_block_scales_multiply():
    blocks = [1.0] * 70
    blocks[62] = 0.0
    options = InferenceOptions(
        reference_strength=0.5, level_strengths=(1, 2, 3), block_strengths=blocks
    )
    scales = options.block_scales(PUBLISHED_LEVELS)
    assert scales[0] == scales[69] == 0.5
    assert scales[4] == scales[61] == 1.0
    assert scales[24] == 1.5
    assert scales[62] == 0
    with pytest.raises(UserError, match="got 3 block_strengths, expected 70"):
        options.replace(block_strengths=[1, 1, 1]).block_scales(PUBLISHED_LEVELS)


def _parser():
    parser = argparse.ArgumentParser()
    add_option_flags(parser)
    return parser


def test_flags_say_what_was_given_and_nothing_else():
    assert options_from_flags(_parser().parse_args([])) == {}
    words = (
        "--seed 0 --steps 7 --lora_scales background=0.5,other=-1 --sketch_strengths 1,.5,0,1 "
        "--guidance_window 0,0.5 --no-crop_to_sketch --low_memory --sampler dpm++2m "
        "--no_guidance_window none --preprocessor extract --reference_guidance 1e0"
    )
    given_options = options_from_flags(_parser().parse_args(words.split()))
    options = InferenceOptions.from_dict({"no_guidance_window": [0, 1], **given_options})
    assert options == InferenceOptions(
        seed=0,
        steps=7,
        lora_scales={"background": 0.5, "other": -1},
        sketch_strengths=(1, 0.5, 0, 1),
        guidance_window=(0, 0.5),
        crop_to_sketch=False,
        low_memory=True,
        sampler="DPM++ 2M",
        preprocessor="extract",
        reference_guidance=1,
    )
    assert len(given_options) == 11


def test_texts_are_flags_one_after_another():
    def read(*texts):
        words = [word for text in texts for word in ("--text", text)]
        return InferenceOptions.from_dict(options_from_flags(_parser().parse_args(words))).text

    assert read("red hair") == (TextManipulation("red hair"),)
    line = " red hair, long ;anchor = blue hair; control=hair; strength=-1e0;threshold=0 ;"
    expected = TextManipulation("red hair, long", "blue hair", "hair", -1.0, 0.0)
    assert read(line, "night; anchor=day; adaptive=true") == (
        expected,
        TextManipulation("night", "day", adaptive=True),
    )
    assert read("red; anchor=none; control=2") == (TextManipulation("red", control="2"),)
    assert read("none") == ()
    # A picture that is made again may be made without its texts.
    given_options = options_from_flags(_parser().parse_args(["--text", "None"]))
    assert InferenceOptions(text=(expected,)).replace(**given_options) == InferenceOptions()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("; anchor=blue", "text target '', expected a text"),
        ("red; ankor=blue", 'unknown setting "ankor".*nearest: "anchor"'),
        ("red; strength=much", "text strength 'much', expected a number"),
        ("red; strength", "each setting at most once as NAME=VALUE"),
        ("red; strength=1; strength=2", "each setting at most once as NAME=VALUE"),
        ("red; target=blue", "each setting at most once as NAME=VALUE"),
        ("red; adaptive=yes; anchor=blue", "text adaptive 'yes', expected true or false"),
    ],
)
def test_bad_texts(text, message):
    with pytest.raises(UserError, match=message) as caught:
        options_from_flags(_parser().parse_args(["--text", text]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "words", ["--steps many", "--steps 1.5", "--sketch_strengths 1,2", "--lora_scales background"]
)
def test_bad_flags(words):
    with pytest.raises(UserError, match="expected"):
        options_from_flags(_parser().parse_args(words.split()))


def test_help_page_names_every_option():
    page = _parser().format_help()
    assert all(f"--{name}" in page for name in InferenceOptions().to_dict())


def test_option_files(tmp_path):
    (tmp_path / "a.json").write_text('{"steps": 5, "lora_scales": {"background": 0.5}}')
    (tmp_path / "a.yaml").write_text("steps: 5\nlora_scales:\n  background: 0.5\n")
    for name in ("a.json", "a.yaml"):
        options = InferenceOptions.from_dict(read_options(tmp_path / name))
        assert options == InferenceOptions(steps=5, lora_scales={"background": 0.5})
    (tmp_path / "text.yaml").write_text("text:\n- target: red\n  control: hair\n- target: night\n")
    texts = InferenceOptions.from_dict(read_options(tmp_path / "text.yaml")).text
    assert texts == (TextManipulation("red", control="hair"), TextManipulation("night"))
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "broken.yaml").write_text("a: [")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\xff")
    for name in ("list.json", "broken.json", "broken.yaml", "bytes.yaml", "missing.json"):
        with pytest.raises(UserError, match=name) as caught:
            read_options(tmp_path / name)
        assert "\n" not in str(caught.value)


@settings(max_examples=10, deadline=None)
@given(some_options)
def test_metadata_survives_in_the_png(tmp_path_factory, options):
    path = tmp_path_factory.mktemp("png") / "a.png"
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    made_with = PictureMetadata(options, inputs={"sketch": "Skizze ü 線画.png"}, extra={"index": 3})
    save_png(Image.fromarray(pixels), path, made_with)
    assert read_metadata(path) == made_with
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)
        assert json.loads(image.info[KEYWORD])["seed"] == options.seed
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]
    with pytest.raises(UserError, match="exists"):
        save_png(Image.fromarray(pixels), path, made_with)


def test_pngs_without_metadata(tmp_path):
    image = Image.new("L", (4, 4))
    image.save(tmp_path / "plain.png")
    image.save(tmp_path / "plain.jpg")
    (tmp_path / "text.png").write_text("no picture")
    for name in ("plain.png", "plain.jpg"):
        with pytest.raises(UserError, match="without colorize-jax's options"):
            read_metadata(tmp_path / name)
    for name in ("text.png", "missing.png"):
        with pytest.raises(UserError, match="cannot be read"):
            read_metadata(tmp_path / name)


def test_damaged_or_foreign_metadata(tmp_path):
    from PIL.PngImagePlugin import PngInfo

    for i, text in enumerate(("{", "[]", "{}", '{"version": "9", "options": {"stepz": 3}}')):
        info = PngInfo()
        info.add_text(KEYWORD, text)
        Image.new("L", (4, 4)).save(tmp_path / f"{i}.png", pnginfo=info)
        with pytest.raises(UserError, match="nearest" if i == 3 else "damaged"):
            read_metadata(tmp_path / f"{i}.png")
