"""Texts in the pipeline: what they change, what they cost, and what they need."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_models
import small_system
import small_tokenizer
from test_pipeline import assert_same, differ

from colorize_jax.errors import UserError
from colorize_jax.inference import programs
from colorize_jax.inference.options import InferenceOptions
from colorize_jax.inference.pipeline import ColorizePipeline
from colorize_jax.inference.system import Networks
from colorize_jax.inference.text.manipulation import TextManipulation
from colorize_jax.io.published import torch_names
from colorize_jax.models.architectures import abstract_params, build
from colorize_jax.models.frozen.patch import PatchReferenceEncoder
from colorize_jax.models.reference_projection import ReferenceProjection

OPTIONS = InferenceOptions(sampler="Euler", steps=2, seed=0)
SKETCH, REFERENCE = small_system.make_pictures()
RED = TextManipulation("red hair", "blue hair", strength=8)
SKY = TextManipulation("night", "green sky", "sky", strength=8, threshold=0.2)


def tower(name, scale):
    """A tower of CLIP with random parameters that are large enough to matter."""
    config = small_models.full_config(name)
    arrays = small_models.tensors(name, prefix="", dtype=np.float32)
    params = torch_names.from_torch(name, arrays, abstract_params(name, config))
    return build(name, config), jax.tree.map(lambda leaf: leaf * scale, params)


@pytest.fixture(scope="module")
def networks():
    """The small system, whose references are read by CLIP, and its text tower."""
    small = small_system.make_networks()
    clip, clip_params = tower("clip_vision", 2)
    text, text_params = tower("clip_text", 8)
    tagger = PatchReferenceEncoder(image_size=16, patch_size=8, channels=240)
    system = small.system
    projection = ReferenceProjection(4, 24, head_dim=8)
    encoders = dataclasses.replace(system.encoders, clip=clip, tagger=tagger)
    colorizer = dataclasses.replace(system.colorizer, reference_projection=projection)
    system = dataclasses.replace(system, encoders=encoders, colorizer=colorizer, clip_text=text)
    tokens = jnp.zeros((1, 5, 16)), jnp.zeros((1, 4, 240))
    random = np.random.default_rng(0)
    projection_params = jax.tree.map(
        lambda leaf: np.float32(random.standard_normal(leaf.shape) / 2),
        jax.eval_shape(projection.init, jax.random.key(0), *tokens)["params"],
    )
    readers = small._readers | {
        "clip_vision": lambda: clip_params,
        "clip_text": lambda: text_params,
        "tagger": dict,
        "reference_projection": lambda: projection_params,
    }
    return Networks(system, readers)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return small_tokenizer.save(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def pipeline(networks, tokenizer):
    return ColorizePipeline(networks, tokenizer=tokenizer)


def context(pipeline, **changes):
    """What the UNet attends to."""
    options = OPTIONS.replace(**changes)
    reference = pipeline.read_reference(REFERENCE, options)
    picture = pipeline.read_sketch(SKETCH, reference, options)
    return np.asarray(pipeline.condition([picture], options, [0]).context)


def test_texts_lead_the_picture(pipeline):
    plain = pipeline(SKETCH, REFERENCE, OPTIONS)
    red, sky, both, none = (
        pipeline(SKETCH, REFERENCE, OPTIONS.replace(text=text))
        for text in ([RED], [SKY], [RED, SKY], [dataclasses.replace(RED, strength=0)])
    )
    assert differ(red, plain) and differ(sky, plain)
    assert differ(red, sky) and differ(both, red) and differ(both, sky)
    assert_same(none, plain, 0)


def test_the_context_is_that_of_moved_tokens(pipeline, networks):
    system, names = pipeline.system, ("clip_vision", "clip_text", "tagger", "reference_projection")
    params = networks.params(*names)
    image = pipeline.read_reference(REFERENCE, OPTIONS).image[None]
    clip, tags = system.encoders.encode_reference(params, image)
    ids = [pipeline._texts.tokenize([RED])[text] for text in RED.texts]
    target, anchor = np.asarray(programs.encode_texts(system, params, np.int32(ids)))
    direction = target / np.linalg.norm(target) - anchor / np.linalg.norm(anchor)
    moved = clip + 8 * jnp.linalg.norm(clip[0, 0]) * direction
    expected = system.colorizer.context(params, moved, tags)
    np.testing.assert_allclose(context(pipeline, text=[RED]), expected, atol=2e-4)
    # The background's tokens are moved as well.
    split = context(pipeline, text=[RED], split_attention=True)
    np.testing.assert_allclose(split[:, :4], expected, atol=2e-4)
    assert np.abs(split - context(pipeline, split_attention=True))[:, 4:].max() > 0.01


def test_other_texts_and_numbers_compile_nothing(pipeline):
    context(pipeline, text=[RED])
    compiled = programs.encode_references._cache_size(), programs.encode_texts._cache_size()
    for text in (
        [dataclasses.replace(RED, strength=-0.5)],
        [TextManipulation("smiling girl")],
        [dataclasses.replace(RED, adaptive=True)],
        [SKY, RED, dataclasses.replace(SKY, threshold=0.9)],
    ):
        context(pipeline, text=text)
    sizes = programs.encode_references._cache_size(), programs.encode_texts._cache_size()
    assert sizes == compiled
    # Without text it is the program that it always was: nothing of the tower or the directions.
    context(pipeline)
    plain = programs.encode_references._cache_size()
    context(pipeline)
    assert programs.encode_references._cache_size() == plain


def test_the_tower_is_loaded_for_new_texts_alone(networks, tokenizer):
    pipeline = ColorizePipeline(networks, tokenizer=tokenizer)
    networks.free(*tuple(networks._loaded))
    low = OPTIONS.replace(low_memory=True)
    pipeline(SKETCH, REFERENCE, low)
    loaded, load = [], networks._load
    networks._load = lambda name: loaded.append(name) or load(name)
    try:
        expected = pipeline(SKETCH, REFERENCE, low.replace(text=[RED]))
        assert set(networks._loaded) == {"vae"} and loaded.count("clip_text") == 1
        again = pipeline(SKETCH, REFERENCE, low.replace(text=[RED]))
        assert loaded.count("clip_text") == 1 and loaded.count("clip_vision") == 2
    finally:
        del networks._load
    assert_same(again, expected, 0)


def test_what_texts_need(networks, tokenizer):
    def refused(pipeline, message, reference=REFERENCE, text=RED, **changes):
        options = OPTIONS.replace(text=[text], **changes)
        with pytest.raises(UserError, match=message) as caught:
            pipeline(SKETCH, reference, options)
        assert "\n" not in str(caught.value)

    system = networks.system
    refused(ColorizePipeline(networks), "got text without a tokenizer.*--tokenizer")
    pipeline = ColorizePipeline(networks, tokenizer=tokenizer)
    refused(pipeline, "got text without a reference", reference=None, unconditional=True)
    long = TextManipulation("red", "blue " * 11)
    refused(pipeline, '"blue blue .*of 11 tokens, expected at most 10', text=long)
    patches = ColorizePipeline(small_system.make_networks(), tokenizer=tokenizer)
    refused(patches, "references are encoded without CLIP")
    without = dataclasses.replace(system, clip_text=None)
    pipeline = ColorizePipeline(Networks(without, networks._readers), tokenizer=tokenizer)
    refused(pipeline, "expected checkpoints with clip_text too; import a CLIP folder")
    other = dataclasses.replace(system, clip_text=system.clip_text.clone(projection_dim=8))
    pipeline = ColorizePipeline(Networks(other, networks._readers), tokenizer=tokenizer)
    refused(pipeline, "a text tower of 8 channels and a vision tower of 16")
