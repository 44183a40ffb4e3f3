"""The real train.py and eval.py, end to end, on the smallest network."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import eval as evaluation
import train
from colorize_jax.io.runs.run_weights import RunWeights
from colorize_jax.setup import datasets
from colorize_jax.training.monitoring.run_writer import read_metrics

ROOT = Path(__file__).parents[1]
CONFIG = str(ROOT / "tests" / "configs" / "smallest.py")


def run(workdir: Path, *overrides: str) -> int:
    return train.main([f"--config={CONFIG}", f"--workdir={workdir}", *overrides])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a run that nobody stopped."""
    workdir = tmp_path_factory.mktemp("finished")
    assert run(workdir) == 0
    return workdir


def stop_at(monkeypatch: pytest.MonkeyPatch, batch: int, number: int) -> None:
    """Send a signal while batch number `batch`, from 1, is on its way to the step."""
    calls = []

    def record(content: dict) -> dict:
        calls.append(1)
        if len(calls) == batch:
            os.kill(os.getpid(), number)
        return {name: content[name] for name in datasets.RECORD_KEYS}

    monkeypatch.setattr(datasets, "step_record", record)


def test_run_leaves_metrics_events_samples_and_checkpoints(finished: Path) -> None:
    metrics = read_metrics(finished)
    assert [line["step"] for line in metrics] == [1, 2, 3, 4]
    assert [line["gram_weight"] > 0 for line in metrics] == [False, False, True, True]
    assert all(line["gram_loss"] > 0 for line in metrics[2:])
    for block in (2, 5):
        assert [f"gram_contrast/{block}" in line for line in metrics] == [False, False, True, True]
        assert all(line[f"gram_contrast/{block}"] > 0 for line in metrics[2:])
    assert list(finished.glob("events.out.tfevents.*"))
    assert [path.name for path in (finished / "samples").iterdir()] == ["samples-0000004.png"]
    assert sorted(path.name for path in (finished / "checkpoints").iterdir()) == ["2", "4"]


@pytest.mark.parametrize(
    ("batch", "number"),
    [(2, signal.SIGINT), pytest.param(3, signal.SIGTERM, marks=pytest.mark.slow)],
)
def test_stopped_run_resumes_to_the_same_bits(
    finished: Path, tmp_path: Path, batch: int, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, batch, number)
        assert run(tmp_path) == 128 + number
    assert f"saved step {batch}; the same command goes on from there" in caplog.text
    assert RunWeights(tmp_path).step == batch
    assert run(tmp_path) == 0
    for raw in (True, False):
        ours, theirs = (RunWeights(d, raw=raw).read_all() for d in (tmp_path, finished))
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    losses = [[line["loss"] for line in read_metrics(d)] for d in (tmp_path, finished)]
    assert losses[0] == losses[1]


def test_finished_run_is_left_alone(finished: Path) -> None:
    before = (finished / "metrics.jsonl").read_bytes()
    assert run(finished) == 0
    assert (finished / "metrics.jsonl").read_bytes() == before


def test_loss_that_is_no_number_stops_with_its_step_and_keeps_the_last_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def poisoned(content: dict) -> dict:
        calls.append(1)
        record = {name: content[name] for name in datasets.RECORD_KEYS}
        if len(calls) == 3:
            record["size"] = np.full_like(record["size"], np.nan)
        return record

    monkeypatch.setattr(datasets, "step_record", poisoned)
    assert run(tmp_path) == 2
    error = capsys.readouterr().err
    assert "got loss nan at step 3 (of record " in error
    assert "look at these pictures, lower optimizer.learning_rate" in error
    assert RunWeights(tmp_path).step == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--config.optimizer.learning_rat=1"], "nearest: optimizer.learning_rate"),
        (["--config.total_steps=many"], "got total_steps 'many', expected a whole number"),
        (["--config.gram.blocks=(99,)"], "expected 1..7"),
        (["--steps=3"], "got argument '--steps=3'"),
        (["--profile=5"], "got --profile=5, expected START:STOP of updates"),
        (["--config.mesh.data=2", "--config.mesh.fsdp=3"], "expected sizes whose product is 1"),
    ],
)
def test_bad_options_are_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], message: str
) -> None:
    assert run(tmp_path / "run", *overrides) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


SLOW_DATA = """
import sys, time
import train
from colorize_jax.setup import datasets

def slow(content):
    time.sleep(0.5)
    return {name: content[name] for name in datasets.RECORD_KEYS}

datasets.step_record = slow
sys.exit(train.main(sys.argv[1:]))
"""


def test_a_trace_and_a_warning_where_the_time_goes_to_waiting(tmp_path: Path) -> None:
    # In a process of its own: XLA's profiler has crashed one that held the programs of many tests.
    flags = [f"--config={CONFIG}", f"--workdir={tmp_path}", "--profile=1:2"]
    result = subprocess.run(
        [sys.executable, "-c", SLOW_DATA, *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert len(list(tmp_path.glob("plugins/profile/*/*.xplane.pb"))) == 1
    assert "of the time waits for data; raise data.num_workers" in result.stderr


def test_compiled_programs_are_kept_where_the_flag_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    before = jax.config.jax_compilation_cache_dir

    def start(*arguments: object) -> int:
        seen.append(jax.config.jax_compilation_cache_dir)
        return 0

    monkeypatch.setattr(train, "train", start)
    try:
        assert run(tmp_path, f"--compilation_cache={tmp_path / 'xla'}") == 0
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert seen == [str(tmp_path / "xla")]


def test_workdir_of_another_config_is_refused(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(finished, "--config.optimizer.learning_rate=0.5") == 2
    assert "optimizer.learning_rate is 0.001 there and 0.5 here" in capsys.readouterr().err


def test_unusable_workdir_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert run(tmp_path / "file" / "run") == 2
    assert "expected a writable folder" in capsys.readouterr().err


def test_a_run_evaluates_itself_while_it_goes_on(tmp_path: Path) -> None:
    assert run(tmp_path / "run", "--config.evaluation.every_steps=3") == 0
    steps = {line["step"]: line for line in read_metrics(tmp_path / "run")}
    assert [step for step, line in steps.items() if "eval_color_error_cross" in line] == [3, 4]
    assert 0 < steps[3]["eval_color_error_other"] < 100 and 0 <= steps[4]["eval_line_f1_cross"] <= 1


def test_evaluation_reports_on_pairs(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "evaluation"
    flags = [f"--checkpoint={finished}", f"--output={output}", "--num=3", "--batch-size=2"]
    assert evaluation.main(flags) == 0
    report = json.loads((output / "report.json").read_text())
    assert report["num_pairs"] == 3
    means = {name: figure["value"] for name, figure in report["means"].items()}
    ratio = means["color_error_cross"] / means["color_error_other"]
    assert report["ratios"]["color_error"]["value"] == pytest.approx(ratio)
    assert 0 <= means["line_f1_cross"] <= 1 < means["psnr_cross"]
    printed = capsys.readouterr().out
    assert f"{means['color_error_cross']:.4g}" in printed and "line F1" in printed
    assert (output / "report.html").stat().st_size > 1000


def test_evaluation_of_no_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluation.main([f"--checkpoint={tmp_path}", f"--output={tmp_path / 'new'}"]) == 2
    assert capsys.readouterr().err.startswith("error: got ")
