"""Several references of one picture: blended by their masks, weights and strengths."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_system
from PIL import Image

from colorize_jax.errors import UserError
from colorize_jax.inference.controls.scenes import (
    MAX_REFERENCES,
    RegionReference,
    Scene,
    latent_weights,
)
from colorize_jax.inference.options import InferenceOptions
from colorize_jax.inference.pipeline import ColorizePipeline
from colorize_jax.nn.regions import Regions

OPTIONS = InferenceOptions(sampler="Euler", steps=2, seed=0, region_softness=0.0)
SIDE = small_system.SIDE


@pytest.fixture(scope="module")
def pipeline():
    return ColorizePipeline(small_system.make_networks())


@pytest.fixture(scope="module")
def pictures():
    """A square sketch and three references."""
    sketch, _ = small_system.make_pictures(0, SIDE, SIDE)
    return sketch, [small_system.make_pictures(seed, SIDE, SIDE)[1] for seed in (1, 2, 3)]


def halves():
    """Masks of the left and the right half."""
    left = np.zeros((SIDE, SIDE), np.uint8)
    left[:, : SIDE // 2] = 255
    return left, 255 - left


def color(pipeline, sketch, reference, options=OPTIONS, **kwargs):
    (picture,) = pipeline(sketch, reference, options, **kwargs)
    return np.asarray(picture).astype(int)


def scene(*references):
    return Scene(tuple(RegionReference(*one) for one in references))


def test_shares_are_a_partition_at_every_resolution():
    weights = np.zeros((2, 1, 8, 8, 1), np.float32)
    weights[0, :, :, :4] = 1
    weights[1, :, 2:, 4:] = 3
    regions = Regions(weights=jnp.asarray(weights), strengths=jnp.ones((2, 1)))
    for side in (8, 4):
        shares = np.asarray(regions.shares(side, side)).reshape(2, side, side)
        np.testing.assert_allclose(shares.sum(axis=0), 1, rtol=1e-6)
        assert shares[0, side - 1, 0] > 0.999 and shares[1, side - 1, side - 1] > 0.999
    shares = np.asarray(regions.shares(8, 8)).reshape(2, 8, 8)
    assert shares[0, 0, 7] == shares[1, 0, 7] == 0.5  # no mask is white there: both count


def test_split_attention_and_references_are_one_blend():
    mask = jnp.full((1, 4, 4, 1), 0.25)
    weights = jnp.asarray([[[[[3.0]]]], [[[[1.0]]]]]) * jnp.ones((2, 1, 4, 4, 1))
    one = Regions(mask, merge=0.2, foreground_scale=2.0)
    both = one.replace(weights=weights, strengths=jnp.asarray([[1.0], [0.5]]))
    foreground, background = np.asarray(one.shares(4, 4))
    shares = np.asarray(both.shares(4, 4))
    np.testing.assert_allclose(shares[0], foreground * 0.75, rtol=1e-3)
    np.testing.assert_allclose(shares[1], foreground * 0.25 * 0.5, rtol=1e-3)
    np.testing.assert_array_equal(shares[2], background)


def test_a_scene_of_one_reference_is_that_reference(pipeline, pictures):
    sketch, (reference, *_) = pictures
    np.testing.assert_array_equal(
        color(pipeline, sketch, scene((reference,))), color(pipeline, sketch, reference)
    )


def test_equal_references_are_one(pipeline, pictures):
    sketch, (reference, *_) = pictures
    left, right = halves()
    found = color(pipeline, sketch, scene((reference, left), (reference, right)))
    assert np.abs(found - color(pipeline, sketch, reference)).max() <= 1


def test_every_part_follows_its_own_reference(pipeline, pictures):
    sketch, (one, other, _) = pictures
    left, right = halves()
    found = color(pipeline, sketch, scene((one, left), (other, right)))
    first, second = (color(pipeline, sketch, reference) for reference in (one, other))
    at_left, at_right = np.s_[:, : SIDE // 4], np.s_[:, -SIDE // 4 :]
    for part, right_one, wrong_one in ((at_left, first, second), (at_right, second, first)):
        own = np.abs(found[part] - right_one[part]).mean()
        assert own < np.abs(found[part] - wrong_one[part]).mean()
    swapped = color(pipeline, sketch, scene((other, right), (one, left)))
    assert np.abs(found - swapped).max() <= 1


def test_weights_and_strengths(pipeline, pictures):
    sketch, (one, other, _) = pictures
    alone = color(pipeline, sketch, one)
    unweighted = color(pipeline, sketch, scene((one,), (other, None, None, 0.0)))
    assert np.abs(unweighted - alone).max() <= 1  # the least weight is left
    off = scene((one, None, None, 1.0, 0.0))
    np.testing.assert_array_equal(
        color(pipeline, sketch, off),
        color(pipeline, sketch, one, OPTIONS.replace(reference_strength=0.0)),
    )


def test_what_lies_outside_of_its_own_mask_is_not_read(pipeline, pictures):
    sketch, (one, other, _) = pictures
    left, _ = halves()
    mixed = one.copy()
    mixed[:, SIDE // 2 :] = other[:, SIDE // 2 :]
    np.testing.assert_array_equal(
        color(pipeline, sketch, scene((one, None, left))),
        color(pipeline, sketch, scene((mixed, None, left))),
    )
    white = one.copy()
    white[:, SIDE // 2 :] = 255
    np.testing.assert_array_equal(
        color(pipeline, sketch, scene((one, None, left))), color(pipeline, sketch, white)
    )


def test_pictures_of_one_batch_may_have_different_numbers_of_references(pipeline, pictures):
    sketch, (one, other, third) = pictures
    left, right = halves()
    several = [scene((one, left), (other, right)), third, scene((one,), (other,), (third, left))]
    batch = [np.asarray(image).astype(int) for image in pipeline(sketch, several, OPTIONS)]
    for found, reference in zip(batch, several, strict=True):
        assert np.abs(found - color(pipeline, sketch, reference)).max() <= 1


def test_other_controls_go_with_several_references(pictures):
    pipeline = ColorizePipeline(small_system.make_networks(plugin=True))
    sketch, (one, other, _) = pictures
    left, right = halves()
    both = scene((one, left), (other, right))
    masks = {"sketch_mask": left, "reference_mask": left}
    for control in ("split_attention", "background_plugin", "attention_injection"):
        options = OPTIONS.replace(**{control: True})
        given = masks if control != "attention_injection" else {}
        found = color(pipeline, sketch, both, options, **given)
        alone = color(pipeline, sketch, one, options, **given)
        assert (found != alone).any()


def test_masks_are_softened_and_averaged_to_latents(pipeline, pictures):
    sketch, (one, other, _) = pictures
    left, _ = halves()
    both = scene((one, left), (other,))
    options = OPTIONS.replace(region_softness=0.1)
    reference = pipeline.read_reference(both, options)
    picture = pipeline.read_sketch(sketch, reference, options)
    row = picture.weights[0, SIDE // 2]
    assert row[0] > 0.99 and row[-1] < 0.01 and 0.3 < row[SIDE // 2] < 0.7
    weights, strengths = latent_weights([(picture.weights, both)], small_system.CELL)
    cells = SIDE // small_system.CELL
    assert weights.shape == (2, 1, cells, cells, 1) and strengths.shape == (2, 1)
    np.testing.assert_allclose(
        weights[0, 0, 0, 0, 0],
        picture.weights[0, : small_system.CELL, : small_system.CELL].mean(),
        rtol=1e-5,
    )


def test_only_cross_attention_grows_with_the_references(pipeline, pictures):
    """FLOPs of three references against the arithmetic: within 3 %."""
    from colorize_jax.inference import programs
    from colorize_jax.inference.program_options import make_static_options, make_traced_options

    sketch, references = pictures
    system, params = pipeline.system, pipeline.networks.params("unet")
    static = make_static_options(system, OPTIONS)
    traced = make_traced_options(system, OPTIONS)

    def flops(reference):
        read = pipeline.read_reference(reference, OPTIONS)
        inputs = pipeline.condition([pipeline.read_sketch(sketch, read, OPTIONS)], OPTIONS, [0])
        lowered = programs.denoise.lower(system, static, params, inputs, traced)
        return lowered.compile().cost_analysis()["flops"], inputs.context.shape[1]

    one, tokens = flops(scene((references[0],)))
    three, all_tokens = flops(scene(*((reference,) for reference in references)))
    assert all_tokens == 3 * tokens
    unet = system.colorizer.unet
    grid, expected = SIDE // small_system.CELL, 0
    for stage in unet.plan():
        if stage.depth:
            queries = (grid // (2 if stage.channels > unet.model_channels else 1)) ** 2
            # One more context of keys and values, and attention over it in both loops' bodies.
            projections = 2 * 2 * tokens * unet.context_channels * stage.channels
            attention = 2 * 2 * queries * tokens * stage.channels
            expected += stage.depth * 2 * (projections + attention)
    assert three - one == pytest.approx(expected, rel=0.2)
    assert three == pytest.approx(one + expected, rel=0.03)


REFUSED = {
    "no references": ({}, "got a scene without a list of references"),
    "nothing in them": ({"references": []}, "got 0 references, expected 1 to"),
    "no picture": ({"references": [{"mask": "a"}]}, "got a reference without a picture"),
    "unknown": ({"references": [{"picture": "a", "maks": "b"}]}, 'the nearest is "mask"'),
    "weight": ({"references": [{"picture": "a", "weight": -1}]}, "weight of a reference"),
    "weightless": ({"references": [{"picture": "a", "weight": 0}]}, "weights are all 0"),
    "many": ({"references": [{"picture": "a"}] * (MAX_REFERENCES + 1)}, "change their number"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_scenes_are_refused(name, tmp_path):
    content, said = REFUSED[name]
    with pytest.raises(UserError, match=said):
        Scene.from_dict(content)


def test_scenes_are_read_from_files_beside_their_pictures(tmp_path):
    content = {"references": [{"picture": "a.png", "mask": "m.png", "strength": 0.5}]}
    path = tmp_path / "scene.yaml"
    path.write_text(json.dumps(content))
    found = Scene.read(path)
    assert found.files() == [str(tmp_path / "a.png"), str(tmp_path / "m.png")]
    assert Scene.from_dict(found.to_dict()).to_dict() == found.to_dict()
    path.write_text("references: [")
    with pytest.raises(UserError, match="cannot be read"):
        Scene.read(path)


def test_a_mask_of_another_aspect_is_refused(pipeline, pictures, tmp_path):
    sketch, (one, *_) = pictures
    wide = tmp_path / "wide.png"
    Image.new("L", (64, 16), 255).save(wide)
    with pytest.raises(UserError, match="expected the same aspect"):
        color(pipeline, sketch, scene((one, str(wide))))
    with pytest.raises(UserError, match="expected the same aspect"):
        color(pipeline, sketch, scene((one, None, str(wide))))


def test_attention_is_the_blend_of_attentions():
    """shares of P contexts = sum of P attentions, weighted: no N x N bias is made for it."""
    from colorize_jax.nn.attention_layer import Attention

    layer = Attention(8, 4)
    x, context = (jax.random.normal(jax.random.key(i), (2, 6, 8)) for i in range(2))
    params = layer.init(jax.random.key(2), x, context)
    kv = layer.apply(params, context, method="keys_values")
    shares = jnp.asarray(np.random.default_rng(0).random((3, 2, 6, 1)), jnp.float32)
    found = layer.apply(params, x, kv, shares=shares, method="cross_attention")
    q = layer.apply(params, x, method="queries")
    heads = sum(
        shares[p][..., None]
        * layer.apply(params, q, tuple(t[:, 2 * p : 2 * p + 2] for t in kv), method="attend")
        for p in range(3)
    )
    np.testing.assert_allclose(found, layer.apply(params, heads, method="out"), rtol=1e-5)
