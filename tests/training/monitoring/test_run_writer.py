"""Metrics and pictures: every step once, whatever happened in between."""

import json
from contextlib import closing

import jax.numpy as jnp
import numpy as np
from PIL import Image

from colorize_jax.training.monitoring.run_writer import METRICS_FILE, Writer, read_metrics
from tests.full_disk import full_disk


def test_metrics_are_json_lines_and_events(tmp_path):
    with closing(Writer(tmp_path / "run")) as writer:
        writer.write(1, {"loss": jnp.float32(0.5), "rate": 1e-3})
        writer.write(2, {"loss": np.float64("nan")})
    lines = (tmp_path / "run" / METRICS_FILE).read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 1, "loss": 0.5, "rate": 1e-3},
        {"step": 2, "loss": None},
    ]
    assert len(list((tmp_path / "run").glob("events.out.tfevents.*"))) == 1


def test_a_resumed_run_takes_back_later_steps(tmp_path):
    with closing(Writer(tmp_path, tracker="none")) as writer:
        for step in range(1, 6):
            writer.write(step, {"loss": step})
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write('{"step": 6, "lo')  # killed here
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2, 3, 4, 5]
    with closing(Writer(tmp_path, resumed_step=3, tracker="none")) as writer:
        writer.write(4, {"loss": 40})
    assert [(r["step"], r["loss"]) for r in read_metrics(tmp_path)] == [
        (1, 1),
        (2, 2),
        (3, 3),
        (4, 40),
    ]
    with closing(Writer(tmp_path, tracker="none")):
        pass
    assert read_metrics(tmp_path) == []


def test_pictures_are_files_and_events(tmp_path):
    content = np.zeros((4, 6, 3), np.uint8)
    content[0] = 255
    with closing(Writer(tmp_path)) as writer:
        path = writer.write_picture(12, "samples", content)
        writer.write_picture(13, "samples", Image.fromarray(content[..., 0]))
    assert path == tmp_path / "samples" / "samples-0000012.png"
    np.testing.assert_array_equal(np.asarray(Image.open(path)), content)
    event_file = next(tmp_path.glob("events.out.tfevents.*"))
    assert event_file.stat().st_size > 200


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("jax.process_index", lambda: 1)
    with closing(Writer(tmp_path / "run")) as writer:
        writer.write(1, {"loss": 1.0})
        assert writer.write_picture(1, "samples", np.zeros((2, 2, 3), np.uint8)) is None
    assert not (tmp_path / "run").exists()


def test_no_metrics_are_no_error(tmp_path):
    assert read_metrics(tmp_path) == []


def test_a_full_disk_is_told_and_ends_nothing(tmp_path, caplog):
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    with closing(Writer(tmp_path)) as writer:
        writer.write(1, {"loss": 1.0})
        with full_disk(200):
            for step in range(2, 30):
                writer.write(step, {"loss": step})
            assert writer.write_picture(29, "samples", picture) is None
        writer.write(30, {"loss": 30})
        assert writer.write_picture(30, "samples", picture)
    assert "the run goes on" in caplog.text
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["samples-0000030.png"]
    assert [record["step"] for record in read_metrics(tmp_path)] == list(range(1, 31))
