"""Boards that a run is logged to; those that are installed, offline."""

import json
import os
import sqlite3
import types
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from colorize_jax.config.load import config_from_dict
from colorize_jax.config.options import TRACKERS
from colorize_jax.errors import UserError
from colorize_jax.training.monitoring import trackers
from colorize_jax.training.monitoring.run_writer import Writer

CONFIG = {"seed": 3, "data": {"height": 32, "sizes": (1, 2)}}


class FakeBoard(types.ModuleType):
    """The interface that wandb and trackio share."""

    Image = staticmethod(np.asarray)

    def __init__(self):
        super().__init__("wandb")
        self.begun, self.logged, self.finished = [], [], 0

    def init(self, **options):
        self.begun.append(options)
        return self

    def log(self, values, step):
        if values.get("loss") == "broken":
            raise ConnectionError("no network")
        self.logged.append((step, values))

    def finish(self):
        self.finished += 1


@pytest.fixture
def board(monkeypatch):
    fake = FakeBoard()
    monkeypatch.setitem(__import__("sys").modules, "wandb", fake)
    return fake


def write(workdir, steps, **options):
    with closing(Writer(workdir, tracker="wandb", config=CONFIG, **options)) as writer:
        for step in steps:
            writer.write(step, {"loss": step})
        writer.write_picture(step, "samples", np.zeros((2, 3, 3), np.uint8))


def test_a_resumed_run_is_the_same_one_and_sends_no_step_twice(tmp_path, board):
    write(tmp_path, (1, 2, 3))
    write(tmp_path, (2, 3, 4), resumed_step=1)
    first, second = board.begun
    assert first["id"] == second["id"] and first["resume"] == "allow"
    assert first["config"]["data"]["height"] == 32 and "commit" in first["config"]["git"]
    assert [step for step, values in board.logged if "loss" in values] == [1, 2, 3, 4]
    assert [step for step, values in board.logged if "samples" in values] == [3, 4]
    assert board.finished == 2
    assert json.loads((tmp_path / trackers.RECORD).read_text()) == {"wandb": first["id"]}


def test_another_workdir_is_another_run(tmp_path, board):
    for name in ("a/my run", "b/my run"):
        write(tmp_path / name, (1,))
    one, two = (begun["id"] for begun in board.begun)
    assert one != two
    assert one.startswith("my-run-") and two.startswith("my-run-")


def test_a_board_that_fails_stops_no_run(tmp_path, board, caplog):
    tracker = trackers.open_tracker("wandb", tmp_path)
    tracker.log(1, {"loss": "broken"})
    assert "did not take the metrics of step 1 (no network)" in caplog.text


def test_a_board_that_cannot_begin_is_one_line(tmp_path, board, monkeypatch):
    monkeypatch.setattr(board, "init", lambda **options: 1 / 0)
    with pytest.raises(UserError, match=r"cannot begin \(division by zero\)"):
        trackers.open_tracker("wandb", tmp_path)


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_board_that_is_not_installed_is_one_line(tmp_path, monkeypatch, name):
    monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(UserError, match="install the extra tracking"):
        trackers.open_tracker(name, tmp_path)


def test_none_writes_nothing(tmp_path):
    with closing(Writer(tmp_path, tracker="none")) as writer:
        writer.write(1, {"loss": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_configs_of_earlier_runs_are_understood():
    for said, tracker in ((True, "tensorboard"), (False, "none")):
        assert config_from_dict({"logging": {"tensorboard": said}}).logging.tracker == tracker
    with pytest.raises(UserError, match=", ".join(TRACKERS)):
        config_from_dict({"logging": {"tracker": "other"}})


def test_configs_are_flat_for_boards_that_want_it():
    expected = {"seed": 3, "data.height": 32, "data.sizes": "(1, 2)"}
    assert trackers.flat(CONFIG) == expected


def test_wandb_offline(tmp_path, monkeypatch):
    """The real one: two starts of a run are two folders of one identifier."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    write(tmp_path, (1, 2))
    write(tmp_path, (2, 3), resumed_step=1)
    name = json.loads((tmp_path / trackers.RECORD).read_text())["wandb"]
    folders = list((tmp_path / "wandb").glob(f"offline-run-*-{name}"))
    assert folders
    assert all(list(folder.glob(f"run-{name}.wandb")) for folder in folders)
    assert any(folder.rglob("samples*.png") for folder in folders)


def test_trackio_offline(tmp_path, monkeypatch):
    """The real one: its database has every step once."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "board"))
    pytest.importorskip("trackio")

    def start(steps, resumed):
        with closing(
            Writer(tmp_path / "run", tracker="trackio", config=CONFIG, resumed_step=resumed)
        ) as writer:
            for step in steps:
                writer.write(step, {"loss": step})
            writer.write_picture(steps[-1], "samples", np.zeros((2, 3, 3), np.uint8))

    start((1, 2), 0)
    start((2, 3), 1)
    (database,) = (tmp_path / "board").glob("*.db")
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("select run_name, step, metrics from metrics").fetchall()
    name = json.loads((tmp_path / "run" / trackers.RECORD).read_text())["trackio"]
    assert {row[0] for row in rows} == {name}
    losses = [step for _, step, metrics in rows if "loss" in json.loads(metrics)]
    assert sorted(losses) == [1, 2, 3]
    assert os.environ["TRACKIO_DIR"] in str(Path(epath.Path(database)))
