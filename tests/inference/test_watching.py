"""Sampling step by step, between which the host looks and may stop."""

import jax
import numpy as np
import pytest
import small_system

from colorize_jax.inference import programs
from colorize_jax.inference.options import InferenceOptions
from colorize_jax.inference.pipeline import ColorizePipeline

SKETCH, REFERENCE = small_system.make_pictures()


class StoppedError(Exception):
    """What a watch raises here."""


@pytest.fixture(scope="module")
def pipeline():
    return ColorizePipeline(small_system.make_networks())


def conditioned(pipeline, options):
    reference = pipeline.read_reference(REFERENCE, options)
    picture = pipeline.read_sketch(SKETCH, reference, options)
    return pipeline.condition([picture] * 2, options, [0, 1])


# Each has a loop of its own, or a state that others lack.
@pytest.mark.parametrize(
    ("sampler", "evaluations"),
    [
        ("Euler a", 4),
        ("Heun", 7),
        ("DPM++ 3M SDE", 4),
        ("PNDM", 13),
        ("DPM fast", 4),
        ("DPM adaptive", None),
    ],
)
def test_steps_are_the_whole_bit_for_bit(pipeline, sampler, evaluations):
    options = InferenceOptions(sampler=sampler, steps=4, seed=0)
    inputs = conditioned(pipeline, options)
    seen = []

    def watch(done, expected, total):
        seen.append((done, np.asarray(expected), total))

    latents = pipeline.denoise(inputs, options, watch)
    assert [now[0] for now in seen] == list(range(1, len(seen) + 1))
    assert {now[2] for now in seen} == {evaluations}
    if evaluations is not None:
        assert len(seen) == evaluations
    assert all(now[1].shape == latents.shape and np.isfinite(now[1]).all() for now in seen)
    if sampler in ("Euler a", "Heun"):  # whose last step lands on what it expects
        np.testing.assert_allclose(seen[-1][1], latents, atol=1e-6)
    whole = np.asarray(pipeline.denoise(inputs, options))
    assert np.isfinite(whole).all()
    np.testing.assert_array_equal(np.asarray(latents), whole)


def test_previews_are_what_latents_decode_to_where_colours_are_flat(pipeline):
    system, params = pipeline.system, pipeline.networks.params("vae")
    colors = np.array([[0.9, -0.5, 0.1], [-0.9, 0.2, 0.6]], np.float32)
    images = np.broadcast_to(colors[:, None, None], (2, 32, 32, 3))
    seen = pipeline.color_map.pixels(programs.encode_images(system, params, images))
    assert seen.dtype == np.uint8 and seen.shape == (2, *(32 // system.cell,) * 2, 3)
    middle = seen[:, seen.shape[1] // 2, seen.shape[2] // 2]
    np.testing.assert_allclose(middle, (colors + 1) * 127.5, atol=1)


def test_other_numbers_of_steps_compile_nothing(pipeline):
    options = InferenceOptions(sampler="Euler", seed=0, steps=2)
    inputs = conditioned(pipeline, options)
    pipeline.denoise(inputs, options, lambda *now: None)
    compiled = programs.advance._cache_size()
    pipeline.denoise(inputs, options.replace(steps=5), lambda *now: None)
    assert programs.advance._cache_size() == compiled


def test_what_a_watch_raises_ends_the_picture_after_that_step(pipeline):
    options = InferenceOptions(sampler="Euler", seed=0, steps=5)
    inputs, seen = conditioned(pipeline, options), []

    def watch(done, latents, total):
        seen.append(done)
        if done == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        pipeline.denoise(inputs, options, watch)
    assert seen == [1, 2]
    # The networks are as they were.
    jax.block_until_ready(pipeline.denoise(inputs, options))
