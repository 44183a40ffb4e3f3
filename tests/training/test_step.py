"""The training step: against two full forwards, through its options, and over a short run."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict
from small_training import BATCH, make_inputs, make_params, make_record, make_train_system

from colorize_jax.diffusion import schedule as diffusion
from colorize_jax.nn.transformer import STACK
from colorize_jax.training import augment
from colorize_jax.training.branches import pair_rows, split_pairs
from colorize_jax.training.gram_blocks import GramBlocks
from colorize_jax.training.losses.gram import gram_loss, gram_weight
from colorize_jax.training.state import create_state
from colorize_jax.training.step import (
    embed,
    gradients,
    is_dual,
    prepare,
    total_loss,
    train_step,
)

WEIGHT = jnp.float32(100.0)


@pytest.fixture(scope="module")
def params():
    return make_params()


@pytest.fixture(scope="module")
def inputs():
    return make_inputs()


def compiled_gradients(system, frozen=None):
    """(params, inputs, weight) -> gradients and metrics of a dual step."""

    @jax.jit
    def function(params, inputs, weight):
        return gradients(system, params, frozen or {}, inputs, weight, dual=True)

    return function


@pytest.fixture(scope="module")
def dual(params, inputs):
    """Gradients of a dual step, in two micro-batches, at two weights of the Gram loss."""
    function = compiled_gradients(make_train_system(optimizer={"accumulation": 2}))
    return {weight: function(params, inputs, jnp.float32(weight)) for weight in (0.0, 100.0)}


def assert_close(ours, theirs, rtol=1e-3):
    """Leaf by leaf, relative to its largest entry; biases before norms have noise alone."""
    noise = 1e-6 * max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(theirs))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=rtol * float(jnp.abs(b).max()) + noise),
        ours,
        theirs,
    )


# ---------------------------------------------------------------------- against two full forwards


def two_forwards(system, params, inputs, weight):
    """The loss as the paper writes it: both branches whole, each by itself."""
    unet, random = system.colorizer.unet, inputs.random
    conditions = embed(system.colorizer, params, inputs)
    context = system.colorizer.context(params, *inputs.tokens[0])
    dropped = augment.drop_context(context, random.keep_reference)
    noisy = diffusion.corrupt(system.schedule, inputs.latents, random.noise, random.timesteps)
    target = diffusion.target(system.schedule, inputs.latents, random.noise, random.timesteps, "v")
    places = {block: unet.locate(block) for block in system.config.gram.blocks}
    collect = tuple((stack, "ff") for stack, _ in places.values())

    def forward(context):
        prediction, features = unet.apply(
            {"params": params["unet"]},
            noisy,
            random.timesteps,
            context,
            conditions.hints,
            conditions.vector,
            collect=collect,
        )
        return prediction, {b: features[s, "ff"][i] for b, (s, i) in places.items()}

    prediction, aligned = forward(dropped)
    _, misaligned = forward(jnp.roll(dropped, 1, axis=0))
    loss = jnp.mean((prediction - target) ** 2)
    gram, _ = gram_loss(misaligned, aligned)
    return loss + weight * gram, (loss, gram)


def test_micro_batches_of_two_branches_are_two_full_forwards(params, inputs, dual):
    naive = jax.jit(
        jax.value_and_grad(functools.partial(two_forwards, make_train_system()), has_aux=True)
    )
    (total, (loss, gram)), expected = naive(params, inputs, WEIGHT)
    grads, metrics = dual[100.0]
    np.testing.assert_allclose(metrics["diffusion_loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(metrics["gram_loss"], gram, rtol=1e-3)  # a small difference
    np.testing.assert_allclose(metrics["loss"], total, rtol=1e-4)
    assert WEIGHT * gram > 0.01 * loss
    assert_close(grads, expected)


def test_what_the_gram_blocks_still_say(params, inputs, dual):
    """Contrast, difference and cross-attention's share, against two forwards' own features."""
    system = make_train_system()
    unet = system.colorizer.unet
    places = {block: unet.locate(block) for block in system.config.gram.blocks}
    collect = tuple((s, f) for s, _ in places.values() for f in ("attn2", "ff"))

    @jax.jit
    def run(context):
        conditions = embed(system.colorizer, params, inputs)
        random = inputs.random
        noisy = diffusion.corrupt(system.schedule, inputs.latents, random.noise, random.timesteps)
        _, features = unet.apply(
            {"params": params["unet"]},
            noisy,
            random.timesteps,
            context,
            conditions.hints,
            conditions.vector,
            collect=collect,
        )
        return features

    context = system.colorizer.context(params, *inputs.tokens[0])
    context = augment.drop_context(context, inputs.random.keep_reference)
    aligned, misaligned = run(context), run(jnp.roll(context, 1, axis=0))
    metrics = dual[100.0][1]
    for block, (stack, index) in places.items():
        cross, output = (np.float64(aligned[stack, f][index]) for f in ("attn2", "ff"))
        lengths = [np.linalg.norm(x.reshape(len(x), -1), axis=1) for x in (cross, output)]
        share = (lengths[0] / lengths[1]).mean()
        assert metrics[f"gram_cross_share/{block}"] == pytest.approx(share, rel=1e-4)
        grams = []
        for features in (output, np.float64(misaligned[stack, "ff"][index])):
            unit = features / np.linalg.norm(features, axis=-1, keepdims=True)
            grams.append(unit @ unit.transpose(0, 2, 1))
        contrast = grams[0].std(axis=(1, 2)).mean()
        assert metrics[f"gram_mean/{block}"] == pytest.approx(grams[0].mean(), rel=1e-3)
        assert metrics[f"gram_contrast/{block}"] == pytest.approx(contrast, rel=1e-2)
        # Micro-batches' own ratios are averaged: near the ratio of the whole batch.
        relative = np.sqrt(np.mean((grams[0] - grams[1]) ** 2)) / contrast
        assert metrics[f"gram_relative/{block}"] == pytest.approx(relative, rel=0.3)


def test_gradient_through_the_other_reference_is_an_option(params, inputs, dual):
    def projection(gradients, weight):
        return gradients[weight][0]["reference_projection"]

    function = compiled_gradients(make_train_system(gram={"context_gradient": False}))
    without = {weight: function(params, inputs, jnp.float32(weight)) for weight in (0.0, 100.0)}
    # Then the Gram loss says nothing to the projection; else it does, and to the UNet always.
    assert_close(projection(without, 100.0), projection(without, 0.0), rtol=1e-5)
    norms = [
        float(optax.tree.norm(projection(result, weight)))
        for result, weight in ((dual, 100.0), (dual, 0.0))
    ]
    assert abs(norms[0] - norms[1]) > 1e-3 * norms[1]
    assert_close(without[0.0][0], dual[0.0][0], rtol=1e-4)
    np.testing.assert_allclose(without[100.0][1]["loss"], dual[100.0][1]["loss"], rtol=1e-5)


def test_an_anchor_says_what_similar_means(params, inputs, dual):
    system = make_train_system(gram={"anchor": "folder"})

    @jax.jit
    def loss(anchor):
        frozen = {"anchor": anchor}
        return total_loss(system, params, frozen, inputs, WEIGHT, dual=True)[1]

    own, other = loss(params), loss(make_params(seed=1))
    np.testing.assert_allclose(own["gram_loss"], dual[100.0][1]["gram_loss"], rtol=1e-3)
    assert abs(other["gram_loss"] - own["gram_loss"]) > 0.01 * own["gram_loss"]
    np.testing.assert_allclose(other["diffusion_loss"], own["diffusion_loss"], rtol=1e-6)


def test_references_are_rolled_with_what_their_samples_lost(inputs):
    for own, other in zip(*map(jax.tree.leaves, (inputs.tokens, inputs.other_tokens)), strict=True):
        np.testing.assert_array_equal(other[1:], own[:-1])
        np.testing.assert_array_equal(other[0], own[-1])
    np.testing.assert_array_equal(inputs.random.keep_reference, [1, 0, 1, 1])
    np.testing.assert_array_equal(inputs.other_kept, [1, 1, 0, 1])


def test_pairs_keep_the_rows_of_a_sample_together():
    own, other = jnp.arange(6).reshape(3, 2), 10 + jnp.arange(6).reshape(3, 2)
    both = pair_rows({"a": own}, {"a": other})["a"]
    np.testing.assert_array_equal(both[:, 0], [0, 10, 2, 12, 4, 14])
    for axis in (0, 1):
        parts = split_pairs(pair_rows(own, other, axis), axis)
        np.testing.assert_array_equal(parts, (own, other))


# ------------------------------------------------------------------------------- options, by hand


class Pretender:
    """A colorizer that predicts zero and remembers what it was given."""

    def __init__(self):
        self.seen = {}

    def context(self, params, clip_tokens, tagger_tokens):
        return clip_tokens + tagger_tokens

    def hints(self, params, sketch, color_hints=None):
        return tuple(sketch for _ in range(2))

    def prefix(self, params, noisy, timesteps, conditions):
        self.seen |= {"noisy": noisy, "timesteps": timesteps, "hints": conditions.hints}
        return noisy

    def project_context(self, params, context):
        self.seen["context"] = context
        return context

    def body(self, params, unet_state, keys_values, hints, controls):
        return jnp.zeros_like(unet_state), {}


def pretend(inputs, **options):
    """Loss of predicting zero, and what the network was given."""
    system = make_train_system(diffusion=options)
    colorizer = Pretender()
    system = system.__class__(**{**vars(system), "colorizer": colorizer})
    loss, metrics = total_loss(system, {}, {}, inputs, WEIGHT, dual=False)
    assert metrics["loss"] == metrics["diffusion_loss"] == loss and metrics["gram_loss"] == 0
    return float(loss), colorizer.seen


def alphas(inputs):
    """sqrt(alpha bar) and sqrt(1 - alpha bar) of the inputs' timesteps, (B, 1, 1, 1)."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    kept = np.cumprod(1 - betas)[np.asarray(inputs.random.timesteps)][:, None, None, None]
    return np.sqrt(kept), np.sqrt(1 - kept)


def test_eps_and_v(inputs):
    a, s = alphas(inputs)
    z, noise = np.asarray(inputs.latents), np.asarray(inputs.random.noise)
    loss, seen = pretend(inputs, prediction_type="eps")
    assert loss == pytest.approx(np.mean(noise**2), rel=1e-5)
    np.testing.assert_allclose(seen["noisy"], a * z + s * noise, atol=1e-4)
    loss, _ = pretend(inputs, prediction_type="v")
    assert loss == pytest.approx(np.mean((a * noise - s * z) ** 2), rel=1e-4)


@pytest.mark.parametrize("prediction_type", ["eps", "v"])
def test_min_snr_weighs_every_sample_by_itself(inputs, prediction_type):
    a, s = alphas(inputs)
    snr = (a / s) ** 2
    weights = np.minimum(1.0, 5.0 / (snr if prediction_type == "eps" else snr + 1))
    z, noise = np.asarray(inputs.latents), np.asarray(inputs.random.noise)
    target = noise if prediction_type == "eps" else a * noise - s * z
    loss, _ = pretend(inputs, prediction_type=prediction_type, min_snr_gamma=5.0)
    assert loss == pytest.approx(np.mean(weights * target**2), rel=1e-3)


def test_masked_loss(inputs):
    noise, mask = np.asarray(inputs.random.noise), np.asarray(inputs.mask)
    share = mask.reshape(BATCH, 8, 4, 8, 4, 1).mean(axis=(2, 4))
    loss, _ = pretend(inputs, prediction_type="eps", masked_loss=True)
    assert loss == pytest.approx(np.mean(share * noise**2), rel=1e-5)


def test_dropped_conditions_are_zero(inputs):
    _, seen = pretend(inputs)
    whole = sum(inputs.tokens[0])
    for i, kept in enumerate(inputs.random.keep_reference):
        np.testing.assert_array_equal(seen["context"][i], kept * whole[i])
    for i in range(BATCH):
        for number, hint in enumerate(seen["hints"]):
            kept = inputs.random.keep_hints[i, number]
            np.testing.assert_array_equal(hint[i], kept * inputs.sketch[i])


# ------------------------------------------------------------------------------------ preparation


def test_precomputed_moments_and_tokens_take_the_place_of_pictures():
    system = make_train_system(diffusion={"inpaint_rate": 0.0})

    @jax.jit
    def inputs_of(record):
        return prepare(system, {}, augment.to_batch(record), jax.random.key(0), jnp.int32(3))

    record = make_record()
    batch = augment.to_batch(record)
    clip, tagger = system.encoders.encode_reference({}, batch.reference)
    stored = {name: record[name] for name in ("sketch", "size", "aesthetic_score", "sketch_mask")}
    stored |= {
        "moments": jnp.concatenate(system.encoders.moments({}, batch.image), axis=-1),
        "clip_tokens": clip,
        "tagger_tokens": tagger,
    }
    assert_close(inputs_of(stored), inputs_of(record), rtol=1e-5)
    # Tokens are of references that were painted, or not, before they were encoded.
    painting = make_train_system(diffusion={"inpaint_rate": 1.0})
    found = prepare(painting, {}, augment.to_batch(stored), jax.random.key(0), jnp.int32(3))
    assert_close(found, inputs_of(record), rtol=1e-5)


def test_the_ramp_says_when_there_are_two_branches():
    config = make_train_system(total_steps=100, gram={"zero_share": 0.33}).config
    assert [is_dual(config, step) for step in (0, 32, 33, 34, 99)] == [False] * 3 + [True] * 2
    never = make_train_system(total_steps=100, gram={"maximum": 0.0, "zero_share": 0.0}).config
    assert not any(is_dual(never, step) for step in range(100))


@pytest.mark.parametrize("share", [0.0, 0.07, 1 / 3, 0.7, 0.99, 1.0])
def test_two_branches_run_where_their_weight_is_not_zero(share):
    config = make_train_system(total_steps=1250, gram={"zero_share": share}).config
    weights = gram_weight(np.arange(1250), 1250, share, config.gram.maximum)
    assert [is_dual(config, step) for step in range(1250)] == (weights > 0).tolist()


def test_the_tap_of_a_stack_ends_the_second_branch_behind_all_of_its_blocks():
    system = make_train_system(gram={"tap": STACK})
    unet, blocks = system.colorizer.unet, GramBlocks(system.colorizer, system.config.gram)
    assert blocks.last[1] == unet.stacks()[blocks.last[0]]
    assert all(tap == STACK for _, tap in blocks.collect)
    features = {place: jnp.full((1, 2, 3, 4), i) for i, place in enumerate(blocks.collect)}
    found = blocks.select(features)
    for block in system.config.gram.blocks:
        assert (found[str(block)] == features[unet.locate(block)[0], STACK][0]).all()


# ------------------------------------------------------------------------------------ a short run


def test_a_run_compiles_two_programs_and_repeats_itself(params):
    """Four steps across the start of the ramp, on batches of one shape; with frozen parameters."""
    system = make_train_system(
        diffusion={"reference_dropout": 0.0, "hint_dropout": 0.0, "offset_noise": 0.05},
        optimizer={"trainable": ("^unet/", "^sketch_encoder/"), "weight_decay": 0.0},
    )
    chex.clear_trace_counter()

    @chex.assert_max_traces(n=2)
    def traced(*args, dual):
        return train_step(system, *args, dual=dual)

    step = jax.jit(traced, static_argnames="dual")

    def run(seed):
        states = [
            create_state(params, system.optimizer, trainable=system.config.optimizer.trainable)
        ]
        metrics = []
        for number in range(4):
            dual = is_dual(system.config, number)
            record = make_record(seed=number)
            state, values = step(states[-1], record, jax.random.key(seed), dual=dual)
            states.append(state)
            metrics.append(jax.device_get(values))
        return states, metrics

    states, metrics = run(seed=0)
    assert [float(m["gram_weight"]) > 0 for m in metrics] == [False, False, True, True]
    assert [float(m["gram_loss"]) > 0 for m in metrics] == [False, False, True, True]
    for before, after, values in zip(states[:-1], states[1:], metrics, strict=True):
        changed = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), before.params, after.params)
        assert not [path for path, moved in flatten_dict(changed, sep="/").items() if not moved]
        chex.assert_trees_all_equal(before.frozen, after.frozen)
        norm = optax.tree.norm(before.params)
        assert values["parameter_norm"] == pytest.approx(float(norm), rel=1e-5)
        assert values["learning_rate"] == pytest.approx(1e-3)
        assert np.isfinite(values["gradient_norm"]) and values["gradient_norm"] > 0
        assert all(value.dtype == np.float32 for value in values.values())
    assert set(states[0].frozen) == {"reference_projection"} and int(states[-1].step) == 4

    again, again_metrics = run(seed=0)
    chex.assert_trees_all_equal(states[-1].params, again[-1].params)
    chex.assert_trees_all_equal(metrics, again_metrics)
    _, other = run(seed=1)
    assert metrics[0]["loss"] != other[0]["loss"]
