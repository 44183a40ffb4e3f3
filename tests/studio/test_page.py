"""The page's parts: controls made from the options, presets, and what is painted over pictures."""

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("prometheus_client")

from colorize_jax.errors import UserError
from colorize_jax.inference.options import InferenceOptions
from colorize_jax.studio.page import painting
from colorize_jax.studio.page.presets import OWN, Presets, built_in

CHANGED = InferenceOptions(
    reference_guidance=2.5,
    steps=7,
    seed=2**32 - 1,
    sampler="PNDM",
    schedule="Karras",
    guidance_window=(0.1, 0.7),
    no_guidance_window=(0.2, 0.3),
    level_strengths=(0.5, 1.0, 2.0),
    block_strengths=(0.5, 1.0),
    split_attention=True,
    height=512,
    lora_scales={"background": 0.5, "other": -1.0},
    text=[
        {"target": "red hair", "anchor": "blue hair", "control": "hair", "adaptive": True},
        {"target": "night", "strength": -2.5},
    ],
)


@pytest.mark.parametrize("options", [InferenceOptions(), CHANGED], ids=["defaults", "changed"])
def test_every_option_has_one_control_that_gives_it_back(options):
    pytest.importorskip("gradio")
    from colorize_jax.studio.page import controls

    placed = [*controls.FRONT, *(n for names in controls.groups().values() for n in names)]
    assert sorted(placed) == sorted(controls.FIELDS)
    held = {}
    for name, value in options.to_dict().items():
        control = controls.make_control(name, value)
        assert control.label and control.info == controls.FIELDS[name].metadata["help"]
        # A browser knows one kind of number.
        held[name] = float(control.value) if type(control.value) is int else control.value
    assert controls.options_of(held) == options
    with pytest.raises(UserError, match="got seed"):
        controls.options_of({**held, "seed": "five"})


def test_presets_are_kept_and_read_again(tmp_path):
    own = InferenceOptions(steps=3, reference_guidance=1.2, sampler="Euler")
    presets = Presets(tmp_path / "presets", own)
    assert presets.names() == list(built_in(own))
    assert presets.load(OWN) == presets.load("fast") == own
    assert presets.load("published defaults") == InferenceOptions()
    # Others change the model's own options, of which it may allow few.
    faithful = presets.load("faithful to the reference")
    assert (faithful.steps, faithful.sampler) == (3, "Euler")
    assert faithful.reference_guidance == pytest.approx(1.8)
    assert built_in(InferenceOptions(steps=20))["fast"].steps == 12
    presets.save(" mine ", CHANGED)
    assert presets.names()[-1] == "mine" and presets.load("mine") == CHANGED
    presets.save("mine", InferenceOptions())
    assert presets.load("mine") == InferenceOptions()
    for name in ("", "../mine", "a/b", ".hidden", "fast", OWN, "x" * 41, "mine.yaml"):
        with pytest.raises(UserError, match="got preset name"):
            presets.save(name, CHANGED)
    for name in ("../mine", "/etc/passwd", "missing"):
        with pytest.raises(UserError, match="got preset"):
            presets.load(name)


def editor(layer=None, background=None):
    layers = [] if layer is None else [layer]
    return {"background": background, "layers": layers, "composite": None}


def strokes(*boxes):
    """A layer with filled boxes (colour, box) on nothing."""
    layer = Image.new("RGBA", (20, 10))
    for color, box in boxes:
        layer.paste(color, box)
    return layer


def test_paint_goes_over_the_estimate():
    picture = Image.new("RGB", (20, 10), "white")
    estimate = np.zeros((10, 20), np.float32)
    estimate[:, 10:] = 1
    layer = strokes((painting.FOREGROUND, (0, 0, 4, 4)), (painting.BACKGROUND, (12, 0, 20, 5)))
    mask = painting.painted_mask(editor(layer, picture), lambda: estimate, "the mask").rgb[..., 0]
    expected = estimate * 255
    expected[:4, :4], expected[:5, 12:] = 255, 0
    np.testing.assert_array_equal(mask, expected)
    for value in (None, editor(None, picture), editor(strokes(), picture)):
        assert painting.painted_mask(value, lambda: estimate, "the mask") is None


def test_regions_are_told_by_their_paint():
    layer = strokes((painting.REGIONS[1], (0, 0, 8, 10)), (painting.REGIONS[3], (10, 0, 12, 10)))
    first, second = (mask.rgb[..., 0] for mask in painting.painted_regions(editor(layer), 2))
    expected = np.zeros((10, 20))
    expected[:, :8] = 255
    np.testing.assert_array_equal(second, expected)
    # Nothing is painted of the first: it takes what is left; paint of a fourth is none.
    np.testing.assert_array_equal(first, 255 - expected)
    for value, count in ((None, 3), (editor(strokes()), 3), (editor(layer), 1)):
        assert painting.painted_regions(value, count) == [None] * count


def test_strokes_of_any_colour_are_hints():
    hints = painting.painted_hints(editor(strokes(("#cc2244", (3, 2, 6, 8)))))
    np.testing.assert_array_equal(hints.rgb[4, 4], (0xCC, 0x22, 0x44))
    assert (hints.alpha[2:8, 3:6] == 255).all() and hints.alpha.sum() == 18 * 255
    for value in (None, editor(), editor(strokes())):
        assert painting.painted_hints(value) is None


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"others": [Image.new("RGB", (8, 8))]}, "without the first"),
        ({"regions": editor(strokes((painting.REGIONS[0], (0, 0, 4, 4))))}, "for one reference"),
    ],
)
def test_regions_and_references_without_a_partner_are_told(more, message):
    from colorize_jax.studio.page.making import read_pictures

    sketch = editor(None, Image.new("RGB", (20, 10), "white"))
    with pytest.raises(UserError, match=message):
        read_pictures(sketch, None, None, InferenceOptions(), **more)


def test_black_draws_lines_and_alone_makes_a_sketch():
    layer = strokes((painting.LINE, (5, 0, 6, 10)), (painting.FOREGROUND, (0, 0, 4, 4)))
    for background in (None, Image.new("RGB", (20, 10), "white")):
        picture = painting.read_editor(editor(layer, background), "the sketch")
        expected = np.full((10, 20, 3), 255)
        expected[:, 5] = 0
        np.testing.assert_array_equal(picture.rgb, expected)
    assert painting.read_editor(None, "the sketch") is None
    assert painting.read_editor(editor(strokes()), "the sketch") is None
