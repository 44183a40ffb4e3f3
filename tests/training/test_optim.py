"""Schedules, decay masks, groups, the running average and accumulation, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from colorize_jax.errors import UserError
from colorize_jax.training import optim, trees
from colorize_jax.training.state import all_params, apply_gradients, create_state

PARAMS = {
    "unet": {
        "conv": {"kernel": np.full((2, 3), 2.0, np.float32), "bias": np.ones(3, np.float32)},
        "norm": {"scale": np.ones((4, 3), np.float32)},  # stacked over four layers
    },
    "sketch_encoder": {"proj": {"kernel": np.full((3, 3), 4.0, np.float32)}},
    "vae": {"conv": {"kernel": np.full((2, 2), 3.0, np.float32)}},
}
TRAINABLE = ("^unet/", "^sketch_encoder/")


def optimizer(**options):
    return optim.make_optimizer(optim.learning_rate(0.5, 100), **options)


def one_update(tx, grads):
    """What the first update adds to parameters of that shape."""
    return tx.update(grads, tx.init(grads), grads)[0]


def test_learning_rates_by_hand():
    constant = optim.learning_rate(2.0, 100, warmup_steps=4)
    np.testing.assert_allclose([constant(i) for i in (0, 1, 3, 4, 99)], [0.5, 1, 2, 2, 2])
    cosine = optim.learning_rate(2.0, 104, schedule="cosine", warmup_steps=4, final_share=0.1)
    expected = [0.5, 2.0, 2 * 0.55, 0.2, 0.2]
    np.testing.assert_allclose([cosine(i) for i in (0, 4, 54, 104, 200)], expected, rtol=1e-6)
    assert optim.learning_rate(2.0, 100)(0) == 2.0
    with pytest.raises(ValueError, match="cosine"):
        optim.learning_rate(1.0, 10, schedule="linear")


def test_only_kernels_decay():
    params = {"unet": PARAMS["unet"]}
    tx = optimizer(weight_decay=0.1)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(zeros, tx.init(params), params)
    np.testing.assert_allclose(updates["unet"]["conv"]["kernel"], -0.5 * 0.1 * 2.0, rtol=1e-6)
    assert not np.any(updates["unet"]["conv"]["bias"])
    assert not np.any(updates["unet"]["norm"]["scale"])


def test_groups_scale_the_learning_rate():
    tx = optimizer(weight_decay=0.0, groups=(("bias$", 0.1), ("^unet/", 3.0)))
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    updates, _ = tx.update(grads, tx.init(PARAMS), PARAMS)
    # Adam's first update is the gradient's sign.
    assert updates["unet"]["conv"]["bias"][0] == pytest.approx(-0.05, rel=1e-4)
    assert updates["unet"]["conv"]["kernel"][0, 0] == pytest.approx(-1.5, rel=1e-4)
    assert updates["vae"]["conv"]["kernel"][0, 0] == pytest.approx(-0.5, rel=1e-4)


def test_muon_makes_the_updates_of_kernels_orthogonal():
    draw = np.random.default_rng(0).standard_normal
    grads = {
        "dense": {"kernel": draw((64, 32)), "bias": draw(32)},
        "conv": {"kernel": draw((3, 3, 32, 48))},
        "transformer_blocks": {"proj": {"kernel": draw((2, 32, 96))}},
        "pixels": {"kernel": draw((3, 3, 3, 32))},
    }
    grads = jax.tree.map(jnp.float32, grads)
    updates = one_update(optimizer(name="muon", weight_decay=0.0), grads)
    layers = updates["transformer_blocks"]["proj"]["kernel"]
    matrices = [updates["dense"]["kernel"], updates["conv"]["kernel"].reshape(-1, 48), *layers]
    for matrix in matrices:
        # Orthogonal rows or columns, at learning rate 0.5 and Adam's usual size of 0.2; the
        # iteration stops when all directions are about as long.
        lengths = np.linalg.svd(matrix, compute_uv=False) / np.sqrt(max(matrix.shape))
        assert lengths == pytest.approx(0.5 * 0.2, rel=0.4)
    # What is no kernel, or reads pixels, is Adam's, whose first update is the gradient's sign.
    for rest in ("dense/bias", "pixels/kernel"):
        module, name = rest.split("/")
        expected = -0.5 * np.sign(grads[module][name])
        np.testing.assert_allclose(updates[module][name], expected, rtol=1e-4)


def test_muon_takes_every_layer_of_a_stack_for_itself():
    stack = jnp.float32(np.random.default_rng(1).standard_normal((2, 32, 64)))
    tx = optimizer(name="muon", weight_decay=0.0)
    both = one_update(tx, {"layers": {"kernel": stack}})["layers"]["kernel"]
    alone = [one_update(tx, {"dense": {"kernel": layer}})["dense"]["kernel"] for layer in stack]
    np.testing.assert_allclose(both, np.stack(alone), rtol=1e-4, atol=1e-6)


def test_clipping_uses_the_norm_of_all_parameters():
    tx = optax.chain(optimizer(clip_norm=1.0, weight_decay=0.0, b1=0.0, b2=0.0, eps=1.0))
    grads = {"a": jnp.full((3,), 4.0), "b": jnp.full((1,), 4.0)}  # norm 8
    updates, _ = tx.update(grads, tx.init(grads), grads)
    # g = 0.5 after clipping; Adam without memory: g / (|g| + eps).
    np.testing.assert_allclose(updates["a"], -0.5 * 0.5 / 1.5, rtol=1e-5)


def test_frozen_parameters_have_no_optimizer_state():
    tx = optimizer(clip_norm=1.0)
    state = create_state(PARAMS, tx, trainable=TRAINABLE, frozen_dtype=jnp.bfloat16)
    assert trees.paths(state.frozen) == ["vae/conv/kernel"]
    assert state.frozen["vae"]["conv"]["kernel"].dtype == jnp.bfloat16
    trained = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert trained == 6 + 3 + 12 + 9
    assert sum(leaf.size for leaf in jax.tree.leaves(state.opt_state)) == 2 * trained + 2
    assert sum(leaf.size for leaf in jax.tree.leaves(state.ema)) == trained
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
    assert len(set(buffers)) == len(buffers)


def test_an_update_moves_all_that_is_trained_and_nothing_else():
    tx = optimizer()
    state = create_state(PARAMS, tx, trainable=TRAINABLE)
    grads = jax.tree.map(jnp.ones_like, state.params)
    new = apply_gradients(state, grads, tx, 0.999)
    assert new.step == 1
    for before, after in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(new.params), strict=True
    ):
        assert np.all(before != after)
    assert new.frozen is state.frozen
    merged = all_params(new, ema=True)
    assert jax.tree.structure(merged) == jax.tree.structure(PARAMS)
    np.testing.assert_array_equal(
        merged["unet"]["conv"]["kernel"], new.ema["unet"]["conv"]["kernel"]
    )


def test_running_average_in_closed_form():
    counts, values = np.arange(40), np.random.default_rng(0).standard_normal(40)
    ema, decay = {"a": jnp.float32(2.0)}, 0.7
    decays = np.minimum(decay, (1 + counts) / (10 + counts))
    for count in counts:
        ema = optim.update_ema(ema, {"a": jnp.float32(values[count])}, count, decay)
    # Value k stays by (1 - d_k) times all later decays.
    later = np.append(np.cumprod(decays[::-1])[::-1][1:], 1.0)
    expected = 2.0 * np.prod(decays) + np.sum((1 - decays) * later * values)
    assert float(ema["a"]) == pytest.approx(expected, rel=1e-5)
    assert decays[0] == pytest.approx(float(optim.ema_decay(0, decay))) == 0.1


@pytest.mark.parametrize("count", [1, 2, 4])
def test_accumulation_equals_one_batch(count):
    rng = np.random.default_rng(0)
    inputs = {"x": rng.standard_normal((8, 3)).astype(np.float32), "y": np.ones(8, np.float32)}
    weights = jnp.asarray(rng.standard_normal(3), jnp.float32)

    def gradients(batch):
        def loss(weights):
            return jnp.mean(jnp.square(jnp.tanh(batch["x"] @ weights) - batch["y"]))

        return jax.value_and_grad(loss)(weights)

    ours = jax.jit(lambda batch: optim.accumulate(gradients, batch, count))(inputs)
    for got, expected in zip(ours, gradients(inputs), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_micro_batches_take_rows_from_everywhere():
    parts = optim.micro_batches({"x": jnp.arange(6)}, 2)["x"]
    np.testing.assert_array_equal(parts, [[0, 2, 4], [1, 3, 5]])
    with pytest.raises(ValueError, match="multiple of 4"):
        optim.micro_batches(jnp.arange(6), 4)


def test_rules_that_name_nothing_are_told():
    with pytest.raises(UserError, match=r"'\^unett/' that names no parameter.*unet/conv/kernel"):
        trees.split(PARAMS, ("^unett/",))
    with pytest.raises(UserError, match="regular expression"):
        trees.split(PARAMS, ("(",))
    with pytest.raises(UserError, match="no trainable parameters"):
        trees.split(PARAMS, ())


def test_split_and_merge_are_inverse():
    trained, frozen = trees.split(PARAMS, ("^unet/", "proj/kernel$"))
    assert "vae" not in trained and list(frozen) == ["vae"]
    merged = trees.merge(frozen, trained)
    assert sorted(trees.paths(merged)) == sorted(trees.paths(PARAMS))
    everything, nothing = trees.split(PARAMS, ("",))
    assert nothing == {} and trees.merge(everything, nothing) == everything


def test_an_update_that_is_not_finite_is_left_out_where_it_is_asked():
    tx = optimizer()
    state = create_state(PARAMS, tx, trainable=TRAINABLE)
    grads = jax.tree.map(jnp.ones_like, state.params)
    broken = jax.tree.map(lambda x: x * jnp.nan, grads)
    left = apply_gradients(state, broken, tx, 0.9, jnp.asarray(False))
    assert int(left.step) == 1
    jax.tree.map(np.testing.assert_array_equal, left.replace(step=state.step), state)
    done, plain = (apply_gradients(state, grads, tx, 0.9, x) for x in (jnp.asarray(True), None))
    jax.tree.map(np.testing.assert_array_equal, done, plain)
