"""Checkpoints of training: exact, whole or passed over, readable elsewhere."""

import errno
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from colorize_jax.errors import UserError
from colorize_jax.io.formats.weights_folder import WeightsMetadata
from colorize_jax.io.open_weights import open_weights
from colorize_jax.io.runs.checkpoint import Checkpoints, find_steps
from colorize_jax.io.runs.run_weights import RunWeights
from colorize_jax.io.runs.workdir import claim_workdir, read_workdir
from colorize_jax.training import optim
from colorize_jax.training.state import apply_gradients, create_state
from tests.full_disk import full_disk

OPTIMIZER = optim.make_optimizer(optim.learning_rate(0.1, 10), clip_norm=1.0)
CONFIG = {"seed": 0, "model": {"channels": [1, 2]}, "mesh": {"data": -1}}
WEIGHTS = WeightsMetadata(
    kind="colorizer",
    configs={"unet": {}, "vae": {}},
    prefixes={"unet": "model.", "vae": "first."},
    prediction_type="v",
)


class Position:
    """A data iterator's stand-in."""

    def __init__(self, index):
        self.index = index

    def get_state(self):
        return {"next_index": self.index}

    def set_state(self, state):
        self.index = state["next_index"]


def make_state(step=0, ema=True, width=8):
    rng = np.random.default_rng(step)
    params = {
        "unet": {
            "a": {"kernel": rng.standard_normal((8, width)).astype(np.float32)},
            "b": {"kernel": np.eye(4, dtype=np.float32)},  # frozen
        },
        "vae": {"c": {"kernel": np.arange(4, dtype=np.float32)}},
    }
    state = create_state(
        params, OPTIMIZER, trainable=("^unet/a",), ema=ema, frozen_dtype=jnp.bfloat16
    )
    grads = jax.tree.map(jnp.ones_like, state.params)
    state = apply_gradients(state, grads, OPTIMIZER, 0.9)
    return state.replace(step=jnp.int32(step))


def assert_equal(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def save(workdir, steps, **options):
    with Checkpoints(workdir, **options) as checkpoints:
        for step in steps:
            assert checkpoints.save(step, make_state(step), Position(step))


def largest_file(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def test_nothing_saved_is_nothing_restored(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() is None
        assert checkpoints.restore(make_state()) is None


@pytest.mark.parametrize("ema", [True, False])
def test_restored_state_is_the_saved_one_bit_for_bit(tmp_path, ema):
    state = make_state(7, ema=ema)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(7, state, Position(70))
        assert not checkpoints.save(7, state, Position(71))
    with Checkpoints(tmp_path) as checkpoints:
        position = Position(0)
        abstract = jax.eval_shape(lambda: make_state(0, ema=ema))
        restored, step = checkpoints.restore(abstract, position)
    assert step == 7
    assert position.index == 70
    assert_equal(restored, state)


def test_arrays_may_be_donated_while_the_save_runs(tmp_path):
    state = make_state(1)
    kept = jax.tree.map(np.array, state)
    overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        for _ in range(3):
            state = overwrite(state)
        restored, _ = checkpoints.restore(make_state())
    assert_equal(restored, kept)


def test_old_steps_go_but_for_the_kept_ones(tmp_path):
    save(tmp_path, range(1, 8), keep_last=2, keep_every=3)
    assert find_steps(tmp_path) == ([3, 6, 7], {})
    assert len(list((tmp_path / "checkpoints").iterdir())) == 3


def test_a_truncated_newest_checkpoint_is_passed_over(tmp_path, caplog):
    save(tmp_path, [1, 2, 3], keep_last=3)
    file = largest_file(tmp_path / "checkpoints" / "3" / "optimizer")
    file.write_bytes(file.read_bytes()[:-1])
    position = Position(0)
    with caplog.at_level(logging.WARNING), Checkpoints(tmp_path) as checkpoints:
        restored, step = checkpoints.restore(make_state(), position)
        assert (step, position.index) == (2, 2)
        assert_equal(restored, make_state(2))
        assert f"step 3 is damaged (optimizer/{file.name}"[:30] in caplog.text
        assert (tmp_path / "checkpoints" / "damaged-3").exists()
        # The run gets there again.
        assert checkpoints.save(3, make_state(3), Position(3))
    assert find_steps(tmp_path)[0] == [2, 3]


def test_files_of_the_right_size_but_wrong_content_are_found_by_reading(tmp_path, caplog):
    save(tmp_path, [1, 2])
    for file in (tmp_path / "checkpoints" / "2" / "params").rglob("manifest.ocdbt"):
        file.write_bytes(bytes(file.stat().st_size))
    with Checkpoints(tmp_path) as checkpoints:
        restored, step = checkpoints.restore(make_state())
    assert step == 1
    assert_equal(restored, make_state(1))
    assert "step 2 is damaged" in caplog.text


def test_interrupted_saves_are_no_checkpoints(tmp_path):
    save(tmp_path, [1])
    folder = tmp_path / "checkpoints"
    (folder / "2.orbax-checkpoint-tmp" / "params").mkdir(parents=True)
    (folder / ".deleting-0" / "params").mkdir(parents=True)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == 1
    assert [path.name for path in folder.iterdir()] == ["1"]


def test_all_damaged_is_told(tmp_path):
    save(tmp_path, [1])
    (tmp_path / "checkpoints" / "1" / "files.json").unlink()
    for _ in range(2):  # not only the first time
        with (
            Checkpoints(tmp_path) as checkpoints,
            pytest.raises(UserError, match="no checkpoint is complete"),
        ):
            checkpoints.restore(make_state())


def test_another_architecture_is_told_and_nothing_is_set_aside(tmp_path):
    save(tmp_path, [1])
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(UserError, match=r"params/unet/a/kernel is \(8, 8\) there and \(8, 9\)"):
            checkpoints.restore(make_state(width=9))
        assert checkpoints.latest_step() == 1


def test_a_full_disk_costs_the_checkpoint_and_not_the_run(tmp_path, caplog, monkeypatch):
    save(tmp_path, [1])
    with Checkpoints(tmp_path) as checkpoints:
        with monkeypatch.context() as patch:

            def full(*_):
                raise OSError(errno.ENOSPC, "No space left on device")

            patch.setattr("colorize_jax.io.runs.checkpoint._Handler.finalize", full)
            checkpoints.save(2, make_state(2))
            checkpoints.wait()
        assert "step 2 could not be saved" in caplog.text
        assert "No space left" in caplog.text
        assert "newest checkpoint is that of step 1" in caplog.text
        assert find_steps(tmp_path) == ([1], {})
        assert checkpoints.save(3, make_state(3))
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"1", "3"}
    assert find_steps(tmp_path) == ([1, 3], {})


def test_arrays_that_do_not_fit_on_the_disk_cost_the_checkpoint_and_not_the_run(tmp_path, caplog):
    save(tmp_path, [1])
    state = make_state(2, width=40_000)
    with Checkpoints(tmp_path) as checkpoints:
        with full_disk(100_000):
            checkpoints.save(2, state)
            checkpoints.wait()
        assert "step 2 could not be saved" in caplog.text
        assert "File too large" in caplog.text
        assert "the run goes on, and its newest checkpoint is that of step 1" in caplog.text
        assert find_steps(tmp_path) == ([1], {})
        assert checkpoints.save(3, state)
    Checkpoints(tmp_path).close()  # what slow threads of step 2 still wrote goes at the latest now
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2
    assert find_steps(tmp_path)[0] == [1, 3]


def test_restores_onto_other_devices(tmp_path):
    save(tmp_path, [1])
    mesh = jax.make_mesh((1,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))

    def place(leaf):
        sharding = NamedSharding(mesh, P("fsdp") if leaf.ndim == 2 else P())
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    with Checkpoints(tmp_path) as checkpoints:
        restored, _ = checkpoints.restore(jax.tree.map(place, make_state()))
    assert_equal(restored, make_state(1))
    assert restored.params["unet"]["a"]["kernel"].sharding.spec == P("fsdp")
    assert restored.opt_state[1].mu["unet"]["a"]["kernel"].sharding.spec == P("fsdp")


@pytest.mark.parametrize("raw", [True, False])
def test_weights_of_a_run_are_opened_like_any_others(tmp_path, raw):
    claim_workdir(tmp_path, CONFIG, WEIGHTS)
    save(tmp_path, [1, 2])
    weights = open_weights(tmp_path, raw=raw)
    state = make_state(2)
    trained = state.params if raw else state.ema
    assert isinstance(weights, RunWeights)
    assert (weights.step, weights.averaged) == (2, not raw)
    assert weights.metadata.prediction_type == "v"
    assert weights.config == CONFIG
    assert weights.abstract["unet"]["a"]["kernel"].shape == (8, 8)
    # Part of the network is trained, part of it frozen.
    everything = weights.read_all()
    np.testing.assert_array_equal(everything["unet"]["a"]["kernel"], trained["unet"]["a"]["kernel"])
    np.testing.assert_array_equal(
        everything["unet"]["b"]["kernel"], state.frozen["unet"]["b"]["kernel"]
    )
    assert list(everything) == ["unet", "vae"]
    assert list(weights.read("unet", "b")) == ["b"]
    assert isinstance(everything["vae"]["c"]["kernel"], np.ndarray)


def test_weights_of_a_run_pass_over_a_damaged_checkpoint_without_touching_it(tmp_path, caplog):
    claim_workdir(tmp_path, CONFIG, WEIGHTS)
    with pytest.raises(UserError, match="without a complete checkpoint"):
        RunWeights(tmp_path)
    save(tmp_path, [1, 2])
    largest_file(tmp_path / "checkpoints" / "2").write_bytes(b"")
    assert RunWeights(tmp_path).step == 1
    assert "step 2 is incomplete" in caplog.text
    assert (tmp_path / "checkpoints" / "2").exists()


def test_a_workdir_belongs_to_one_config(tmp_path):
    workdir = tmp_path / "run"
    claim_workdir(workdir, CONFIG, WEIGHTS)
    claim_workdir(workdir, CONFIG | {"mesh": {"data": 1}}, WEIGHTS, free=("mesh",))
    config, weights = read_workdir(workdir)
    assert config["mesh"] == {"data": 1}
    assert weights == WEIGHTS
    other = CONFIG | {"model": {"channels": [1, 3]}, "new": 1}
    claim_workdir(workdir, other, WEIGHTS)  # nothing is lost with a run that saved nothing
    claim_workdir(workdir, CONFIG, WEIGHTS)
    (workdir / "checkpoints" / "1").mkdir(parents=True)
    with pytest.raises(
        UserError,
        match=r"model.channels is \[1, 2\] there and \[1, 3\] here; new is 'missing' there and 1",
    ):
        claim_workdir(workdir, other, WEIGHTS, free=("mesh",))


def test_workdirs_that_cannot_be_claimed(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be used"):
        claim_workdir(tmp_path / "file" / "run", CONFIG, WEIGHTS)
    (tmp_path / "strange" / "checkpoints" / "1").mkdir(parents=True)
    with pytest.raises(UserError, match=r"without a config\.json"):
        claim_workdir(tmp_path / "strange", CONFIG, WEIGHTS)
    with pytest.raises(UserError, match="expected the workdir of a training run"):
        read_workdir(tmp_path)


def test_a_workdir_may_be_named_from_where_one_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = make_state(1)
    claim_workdir("runs/one", CONFIG, WEIGHTS)
    with Checkpoints("runs/one") as checkpoints:
        assert checkpoints.save(1, state)
    with Checkpoints("runs/one") as checkpoints:
        _, step = checkpoints.restore(state)
    weights = RunWeights("runs/one", raw=True)
    assert step == weights.step == 1
    np.testing.assert_array_equal(
        weights.read("unet")["a"]["kernel"], state.params["unet"]["a"]["kernel"]
    )
