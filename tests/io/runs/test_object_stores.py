"""Checkpoints in object stores: nothing is copied only to be deleted."""

import uuid

import fsspec
import pytest
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem

import train
from colorize_jax.io.runs import owner as owners
from colorize_jax.io.runs.checkpoint import Checkpoints
from colorize_jax.io.runs.owner import Owner
from colorize_jax.io.runs.saved_steps import COMMIT, find_steps
from colorize_jax.io.runs.workdir import claim_workdir, read_workdir
from tests.io.runs.test_checkpoint import CONFIG, WEIGHTS


@pytest.fixture
def store(monkeypatch):
    """A bucket that lies in memory, where files cannot be renamed without being copied."""
    files = fsspec.filesystem("memory")
    monkeypatch.setattr("etils.epath.backend.fsspec_backend._get_filesystem", lambda _: files)
    monkeypatch.setattr(owners, "SETTLE_SECONDS", 0.0)

    def copies(*_, **__):
        raise AssertionError("an object was copied")

    for name in ("cp_file", "copy", "mv", "rename"):
        monkeypatch.setattr(MemoryFileSystem, name, copies)
    return f"gs://bucket-{uuid.uuid4().hex}/run"


def write_step(workdir: epath.Path, step: int, complete: bool = True) -> None:
    """A step as Orbax leaves it in a store."""
    folder = workdir / "checkpoints" / str(step)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params").write_text("values")
    (folder / "files.json").write_text('{"params": 6}')
    if complete:
        (folder / COMMIT).write_text("done")


def test_old_steps_go_without_a_copy_and_what_a_stopped_deletion_left_goes_too(store):
    workdir = epath.Path(store)
    for step in (1, 2, 3, 4):
        write_step(workdir, step)
    write_step(workdir, 0, complete=False)  # half deleted
    checkpoints = Checkpoints(store, keep_last=2, keep_every=2)
    checkpoints._prune()
    assert find_steps(store) == ([2, 3, 4], {})
    assert not (workdir / "checkpoints" / "0").exists()


def test_a_stopped_save_goes_without_a_copy(store, caplog):
    workdir = epath.Path(store)
    write_step(workdir, 1)
    write_step(workdir, 2, complete=False)
    Checkpoints(store)._set_damaged_aside()
    assert find_steps(store) == ([1], {})
    assert "damaged" not in caplog.text


def test_a_workdir_in_a_store_has_one_owner(store):
    with Owner(store) as owner:
        owner.take()
        claim_workdir(store, CONFIG, WEIGHTS)
        assert read_workdir(store)[0] == CONFIG
        with pytest.raises(Exception, match="holds since"), Owner(store) as other:
            other.take()
    assert not (epath.Path(store) / "owner.json").exists()


def test_stores_that_checkpoints_cannot_be_written_to_are_refused(capsys):
    config = "--config=tests/configs/smallest.py"
    assert train.main([config, "--workdir=s3://bucket/run"]) == 2
    error = capsys.readouterr().err
    assert "s3://bucket/run, expected a folder or gs://" in error and error.count("\n") == 1
