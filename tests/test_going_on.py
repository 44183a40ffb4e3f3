"""How runs go on: after failed starts, moves, changes, from other runs, and one at a time."""

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

import train
from colorize_jax.io.runs import owner as owners
from colorize_jax.io.runs.run_weights import RunWeights
from colorize_jax.io.runs.workdir import read_history
from tests.test_train import ROOT, finished, run

__all__ = ["finished"]  # a fixture

SHORT = ("--config.logging.samples_every=0",)

# smallest.py says how many examples are drawn, which folders have no use for.
SMALL_FOLDER = ("--config.data.num_examples=100000", *SHORT)


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, error
    return lines[0]


def draw_pictures(folder: Path, names: str) -> Path:
    for kind in ("color", "sketch"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for i, name in enumerate(names):
            picture = np.random.default_rng(i).integers(0, 256, (40, 40, 3), np.uint8)
            Image.fromarray(picture).save(folder / kind / f"{name}.png")
    return folder


def folder_flags(pictures: Path | str) -> tuple[str, ...]:
    path = ["--config.data.source=folder", f"--config.data.path={pictures}"]
    return (*path, *SMALL_FOLDER)


def test_a_start_that_failed_leaves_the_workdir_to_the_corrected_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir, pictures = tmp_path / "run", draw_pictures(tmp_path / "pictures", "abcdef")
    assert run(workdir, *folder_flags(tmp_path / "mistyped")) == 2
    assert "mistyped" in error_of(capsys) and not workdir.exists()
    # One that fails later: the first sample cannot be drawn.
    assert run(workdir, *folder_flags(pictures), "--config.model.init_from=nowhere") == 2
    assert "nowhere" in error_of(capsys)
    assert json.loads((workdir / "config.json").read_text())["config"]["model"]["init_from"]
    assert run(workdir, *folder_flags(pictures)) == 0
    assert RunWeights(workdir).step == 4


def test_a_last_step_that_could_not_be_saved_is_no_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    one = ("--config.total_steps=1", *SHORT)
    with monkeypatch.context() as patch:
        patch.setattr(ocp.AsyncCheckpointer, "save", full)
        assert run(tmp_path, *one) == 2
    error = error_of(capsys)
    assert "no checkpoint of step 1" in error and "newest is that of step 0" in error
    assert run(tmp_path, *one) == 0
    assert RunWeights(tmp_path).step == 1


def test_where_things_lie_is_no_part_of_a_run_and_what_they_are_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir, pictures = tmp_path / "run", draw_pictures(tmp_path / "pictures", "abcdef")
    assert run(workdir, *folder_flags(pictures)) == 0
    moved = tmp_path / "disk" / "pictures"
    moved.parent.mkdir()
    shutil.move(pictures, moved)
    shutil.move(workdir, tmp_path / "moved")
    workdir = tmp_path / "moved"
    monkeypatch.chdir(tmp_path)
    for path in (moved, f"{moved}/", "disk/pictures"):
        assert run(workdir, *folder_flags(path)) == 0
    draw_pictures(moved, "abcdefg")
    more = folder_flags(moved)
    assert run(workdir, *more) == 2
    error = error_of(capsys)
    assert "pictures is 6 there and 7 here" in error and "--allow_changes=data" in error
    assert run(workdir, *more, "--allow_changes=data") == 0
    assert read_history(workdir)[-1]["changes"]["data: pictures"] == [6, 7]


def test_a_run_goes_on_with_changes_that_are_allowed_and_its_history_says_so(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    longer = ("--config.total_steps=5", "--config.optimizer.learning_rate=5e-4")
    assert run(workdir, *longer) == 2
    error = error_of(capsys)
    assert "--allow_changes=total_steps,optimizer.learning_rate" in error
    assert run(workdir, *longer, "--allow_changes=total_steps") == 2
    assert "optimizer.learning_rate is 0.001 there" in error_of(capsys)
    assert run(workdir, *longer, "--allow_changes=total_step") == 2
    assert "nearest: total_steps" in error_of(capsys)
    assert run(workdir, *longer, "--allow_changes=total_steps,optimizer") == 0
    assert RunWeights(workdir).step == 5
    changes = {"total_steps": [4, 5], "optimizer.learning_rate": [1e-3, 5e-4]}
    assert [event.get("changes") for event in read_history(workdir)] == [None, changes]
    assert read_history(workdir)[-1]["step"] == 4
    assert run(workdir, *longer) == 0  # it is this run now


@pytest.mark.parametrize("with_optimizer", [False, True])
def test_a_new_run_starts_from_the_weights_of_another(
    finished: Path, tmp_path: Path, with_optimizer: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [f"--fork_from={finished}@2", "--config.optimizer.learning_rate=0"]
    flags += ["--config.optimizer.weight_decay=0", "--config.total_steps=1"]
    flags += ["--with_optimizer"] if with_optimizer else []
    assert run(tmp_path / "fork", *flags) == 0
    ours, theirs = RunWeights(tmp_path / "fork", raw=True), RunWeights(finished, raw=True, step=2)
    jax.tree.map(np.testing.assert_array_equal, ours.read_all(), theirs.read_all())
    assert ours.step == 1
    assert read_history(tmp_path / "fork")[0]["origin"] == f"{finished}@2"
    counts = optimizer_counts(tmp_path / "fork" / "checkpoints" / "1")
    assert counts == {1 + 2 * with_optimizer}
    assert run(tmp_path / "other", f"--fork_from={finished}@3") == 2
    assert "expected one of 2, 4" in error_of(capsys)


def optimizer_counts(checkpoint: Path) -> set[int]:
    import orbax.checkpoint as ocp

    tree = ocp.StandardCheckpointer().restore(checkpoint.absolute() / "optimizer")
    leaves = jax.tree_util.tree_leaves_with_path(tree["opt_state"])
    return {int(leaf) for path, leaf in leaves if "count" in jax.tree_util.keystr(path)}


def test_an_optimizer_needs_the_run_that_it_is_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--with_optimizer") == 2
    assert "--with_optimizer without --fork_from" in error_of(capsys)


HOLD = """
import sys, time
from colorize_jax.io.runs.owner import Owner
with Owner(sys.argv[1]) as owner:
    owner.take()
    print("held", flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def holder(workdir: Path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(workdir)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_second_start_says_who_holds_the_workdir_and_touches_nothing(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    saving = workdir / "checkpoints" / "6.orbax-checkpoint-tmp-1"  # a save in flight
    saving.mkdir()
    (saving / "array").write_text("half")
    with holder(workdir) as process:
        assert run(workdir) == 2
        assert f"process {process.pid} of {os.uname().nodename} holds since" in error_of(capsys)
        assert (saving / "array").exists()
    # It was killed: the next start takes over at once, and clears what it left.
    assert run(workdir) == 0
    assert not saving.exists() and not (workdir / "owner.json").exists()


def other_machine(workdir: Path, beats: bool) -> dict[str, object]:
    content = {"host": "far", "machine": "far", "pid": 1, "process_start": "1", "token": "x"}
    content |= {"started": "then", "beat": int(1000 * time.time()) if beats else 0}
    (workdir / "owner.json").write_text(json.dumps(content))
    return content


def test_another_machines_owner_is_dead_when_it_gives_no_sign_of_life(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    monkeypatch.setattr(owners, "PATIENCE_SECONDS", 1.0)
    read = owners.Owner._read

    def beating(self):
        other_machine(workdir, beats=True)
        return read(self)

    with monkeypatch.context() as patch:
        patch.setattr(owners.Owner, "_read", beating)
        assert run(workdir) == 2
        assert "process 1 of far holds since then" in error_of(capsys)
    other_machine(workdir, beats=False)
    assert run(workdir) == 0


def test_a_run_that_lost_its_workdir_writes_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(owners, "BEAT_SECONDS", 0.05)
    begin = train.begin

    def taken(*arguments):
        other_machine(tmp_path, beats=False)
        time.sleep(0.5)
        return begin(*arguments)

    monkeypatch.setattr(train, "begin", taken)
    assert run(tmp_path, *SHORT) == 2
    assert "process 1 of far took over" in error_of(capsys)
    assert not (tmp_path / "checkpoints").exists()
    assert json.loads((tmp_path / "owner.json").read_text())["token"] == "x"
