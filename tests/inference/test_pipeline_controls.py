"""What every control of the pipeline does to a picture, told by pairs that must be equal."""

import numpy as np
import pytest
import small_system
from test_pipeline import assert_same, differ

from colorize_jax.diffusion.samplers import SAMPLERS
from colorize_jax.errors import UserError
from colorize_jax.inference.inputs import crop_shares, on_canvas
from colorize_jax.inference.options import InferenceOptions
from colorize_jax.inference.pictures.preprocess import to_pictures
from colorize_jax.inference.pipeline import ColorizePipeline

OPTIONS = InferenceOptions(sampler="Euler", steps=3, seed=0)
PLAIN = OPTIONS.replace(reference_guidance=1.0)
SKETCH, REFERENCE = small_system.make_pictures()
ALL, NOTHING = np.full(SKETCH.shape, 255, np.uint8), np.zeros(SKETCH.shape, np.uint8)
HALF = np.where(np.arange(SKETCH.shape[0])[:, None] < 24, ALL, NOTHING)
# Fills its canvas: no margin is background where a mask is white.
SQUARE = small_system.make_pictures(height=32, width=32)[0]


@pytest.fixture(scope="module")
def pipeline():
    return ColorizePipeline(small_system.make_networks(plugin=True))


def colorer(pipeline, sketch=SKETCH):
    """Return what colours the same pair with some options changed."""

    def color(options=OPTIONS, mask=HALF, reference=REFERENCE, background=None, **changes):
        height, width = sketch.shape
        return pipeline(
            sketch,
            reference,
            options.replace(**changes),
            sketch_mask=mask[:height, :width],
            reference_mask=HALF,
            background=background,
        )

    return color


@pytest.fixture(scope="module")
def color(pipeline):
    return colorer(pipeline)


# ------------------------------------------------------------------------- guidance and strengths


def test_no_strength_no_window_and_no_reference_are_the_same(color, pipeline):
    (without,) = [pipeline(SKETCH, None, PLAIN.replace(unconditional=True))]
    assert differ(without, color(PLAIN))
    assert_same(color(PLAIN, reference_strength=0), without)
    assert_same(color(PLAIN, level_strengths=(1, 0, 0)), without)
    assert_same(color(PLAIN, block_strengths=(0,) * 4), without)
    assert_same(color(OPTIONS, no_guidance_window=(0, 1)), without)
    assert differ(color(OPTIONS, no_guidance_window=(0.4, 0.6)), color(OPTIONS))
    # Guidance pushes away from the picture without reference.
    assert differ(color(OPTIONS), color(PLAIN))


def test_guidance_by_the_sketch(color):
    both = OPTIONS.replace(sketch_guidance=2.0)
    assert differ(color(both), color(OPTIONS))
    # Where the sketch does not count there is nothing to be guided by: half of a mean of two.
    by_none = color(both, sketch_strength=0)
    halved = color(OPTIONS, sketch_strength=0, reference_guidance=2.5)
    assert_same(by_none, halved)


def test_strength_of_the_sketch_and_its_levels(color):
    none = color(PLAIN, sketch_strength=0)
    assert differ(none, color(PLAIN))
    assert_same(color(PLAIN, sketch_strengths=(0, 0, 0, 0)), none, 0)
    assert differ(color(PLAIN, sketch_strengths=(1, 0, 0, 0)), none)


# ------------------------------------------------------------------------ foreground, background


def test_split_attention_of_a_unet_without_additions_compares_the_mask():
    color = colorer(ColorizePipeline(small_system.make_networks()))
    split = OPTIONS.replace(split_attention=True)
    assert_same(color(split, mask=ALL), color(OPTIONS))
    backgrounds = color(split, mask=NOTHING)
    assert_same(backgrounds, color(OPTIONS, remove_foreground=True))
    assert differ(color(split), backgrounds)
    # Each strength rules its own side, also where nothing is merged.
    for side, mask in (("foreground", ALL), ("background", NOTHING)):
        other = {"foreground": "background", "background": "foreground"}[side]
        weak = color(split, mask=mask, **{f"{side}_strength": 0.5})
        assert differ(weak, color(split, mask=mask))
        same = color(split, mask=mask, **{f"{other}_strength": 0.5})
        assert_same(same, color(split, mask=mask), 0)
    assert_same(color(split, mask=ALL, merge=1), backgrounds)
    assert differ(color(split, mask=ALL, merge=0.5), backgrounds)
    grey = ALL // 2
    assert_same(color(split, mask=grey), color(split, mask=ALL))
    assert_same(color(split, mask=grey, sketch_mask_threshold=0.9), backgrounds)


def test_split_attention_of_a_unet_with_additions_blends_by_the_mask(pipeline):
    color, split = colorer(pipeline, SQUARE), OPTIONS.replace(split_attention=True)
    assert_same(color(split, mask=ALL), color(OPTIONS))
    backgrounds = color(split, mask=NOTHING)
    assert_same(backgrounds, color(OPTIONS, remove_foreground=True))
    grey = color(split, mask=ALL // 2)
    assert differ(grey, color(OPTIONS)) and differ(grey, backgrounds)
    assert_same(color(split, mask=ALL // 2, sketch_mask_threshold=0.9), grey, 0)
    # Merged additions leave the rule as it was.
    assert_same(color(split, mask=ALL // 2, merge_loras=True), grey)


def test_removed_parts_do_not_count(color):
    painted = REFERENCE.copy()
    painted[24:] = 255
    assert_same(color(remove_background=True), color(reference=painted), 0)
    painted = REFERENCE.copy()
    painted[:24] = 255
    assert_same(color(remove_foreground=True), color(reference=painted), 0)


@pytest.mark.parametrize(
    "sampler",
    [
        pytest.param(name, marks=() if name in ("DPM fast", "PNDM") else pytest.mark.slow)
        for name in SAMPLERS
    ],
)
def test_known_background_stays_under_every_sampler(pipeline, sampler):
    options = PLAIN.replace(
        background_latent_copy=True, sampler=sampler, steps=6, crop_to_sketch=False
    )
    copied = pipeline(SKETCH, REFERENCE, options, sketch_mask=HALF)[0]
    plain = pipeline(SKETCH, REFERENCE, options.replace(background_latent_copy=False))[0]
    reference = pipeline.read_reference(REFERENCE, options)
    (expected,) = to_pictures(on_canvas(reference.image, 32, 32)[None])
    assert_same([copied.crop((0, 20, 32, 32))], [expected.crop((0, 20, 32, 32))])
    assert differ([copied.crop((4, 0, 28, 16))], [expected.crop((4, 0, 28, 16))])
    assert differ([copied], [plain])


# ------------------------------------------------------------------------------------- the plugin


def test_background_plugin(pipeline):
    color = colorer(pipeline, SQUARE)
    off = color(OPTIONS)
    plugin = OPTIONS.replace(background_plugin=True)
    masked = color(plugin)
    assert differ(masked, off)
    # Inside the mask nothing looks at the bank or the background's tokens; what is left is the
    # low-rank addition.
    assert_same(color(plugin, mask=ALL), color(OPTIONS, lora_scales={"background": 1}))
    # The context is split with and without the other switch; no threshold of the user's counts.
    assert_same(color(plugin, split_attention=True), masked, 0)
    assert_same(color(plugin, sketch_mask_threshold=0.9), masked, 0)
    assert_same(color(plugin, mask=ALL, lora_scales={"background": 0}), off)
    assert differ(color(plugin, mask=NOTHING), masked)
    foreground = color(plugin, foreground_latent=True)
    assert differ(foreground, masked)


def test_low_rank_additions_beside_the_kernels_and_inside(color):
    for scale in (0.5, -1.0):
        options = PLAIN.replace(lora_scales={"background": scale})
        assert differ(color(options), color(PLAIN))
        assert_same(color(options, merge_loras=True), color(options))


# ----------------------------------------------------------------------------- attention injection


def test_attention_injection(color):
    injected = OPTIONS.replace(attention_injection=True)
    half = color(injected)
    assert differ(half, color(OPTIONS))
    faithful, free = color(injected, injection_fidelity=1), color(injected, injection_fidelity=0)
    assert differ(faithful, free)
    # Unguided rows alone know fidelity.
    weak = OPTIONS.replace(attention_injection=True, reference_guidance=1.0)
    assert_same(color(weak, injection_fidelity=1), color(weak, injection_fidelity=0), 0)


def test_background_is_the_reference_without_its_foreground(pipeline):
    options = OPTIONS.replace(background_plugin=True)
    reference = pipeline.read_reference(REFERENCE, options, HALF)
    background = reference.background
    assert (background.image[:24] == 1).all()
    np.testing.assert_array_equal(background.image[24:], reference.image[24:])
    wide = options.replace(reference_mask_dilation=300)  # 6 px either way at this size
    background = pipeline.read_reference(REFERENCE, wide, HALF).background
    assert (background.image[:30] == 1).all() and (background.mask[:30] == 1).all()
    np.testing.assert_array_equal(background.image[30:], reference.image[30:])


def test_backgrounds_of_their_own(color, pipeline):
    plugin, other = OPTIONS.replace(background_plugin=True), REFERENCE[::-1, ::-1, ::-1]
    own, given = color(plugin), color(plugin, background=other)
    assert differ(given, own)
    assert differ(color(plugin, white_background=True), own)
    assert differ(color(plugin, background=other, remove_background_figure=True), given)
    with pytest.raises(UserError, match="got a background that nothing takes"):
        color(PLAIN, background=REFERENCE)
    with pytest.raises(UserError, match="got 2 backgrounds for 1, expected one for each"):
        color(plugin, background=[REFERENCE, other])
    with pytest.raises(UserError, match="a white background has no figure"):
        plugin.replace(white_background=True, remove_background_figure=True)


def test_a_canvas_shows_a_background_from_its_top_left_corner():
    for shape, shares in (((100, 50), (1, 1)), ((100, 100), (1, 0.5)), ((50, 50), (1, 0.5))):
        crop = crop_shares(np.zeros((*shape, 3)), 40, 20)
        np.testing.assert_allclose(crop, (0, 0, *shares))
