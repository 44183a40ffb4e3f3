"""The real train.py on a folder as people have it: odd, partly damaged, stopped and resumed."""

import json
import re
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from test_train import run, stop_at

from colorize_jax.io.runs.run_weights import RunWeights
from colorize_jax.training.monitoring.run_writer import read_metrics
from data.illustrations import render

COUNT, BATCH_SIZE = 40, 4
OPTIONS = (
    "--config.total_steps=12",
    "--config.gram.maximum=0",
    "--config.logging.samples_every=0",
    "--config.logging.validation_every=6",
    "--config.logging.validation_batches=1",
    "--config.data.heldout_share=0.1",
    "--config.data.source=folder",
    "--config.data.reference_size=32",
    "--config.data.num_examples=100000",
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty drawings, two of them damaged in ways that headers do not show, and other oddities."""
    root = tmp_path_factory.mktemp("pictures")
    for kind in ("color", "sketch"):
        (root / kind).mkdir()
    for i in range(COUNT):
        drawn = render(i, i, *((48, 40), (40, 64))[i % 2])
        exif = Image.Exif()
        exif[0x0112] = 3
        image = Image.fromarray(drawn.image)
        if i == 4:
            image.transpose(Image.Transpose.ROTATE_180).save(root / "color/4.jpg", exif=exif)
        else:
            image.save(root / f"color/{i}.{('png', 'jpg', 'webp', 'gif')[i % 4]}")
        Image.fromarray(drawn.sketch[..., 0]).save(root / f"sketch/{i}.png")
    for damaged in (root / "color" / "5.jpg", root / "sketch" / "8.png"):
        content = damaged.read_bytes()
        damaged.write_bytes(content[: len(content) // 2])
    (root / "color" / "notes.txt").write_text("")
    Image.new("RGB", (40, 48)).save(root / "color" / "lonely.png")
    return root


def options(pictures: Path, *more: str) -> tuple[str, ...]:
    return (*OPTIONS, f"--config.data.path={pictures}", *more)


def assert_same_runs(one: Path, other: Path) -> None:
    ours, theirs = (RunWeights(d, raw=True).read_all() for d in (one, other))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    losses = [[line["loss"] for line in read_metrics(d)] for d in (one, other)]
    assert losses[0] == losses[1] and len(losses[0]) == 12


def skipped(workdir: Path) -> dict[str, str]:
    lines = (workdir / "skipped.jsonl").read_text().splitlines()
    return {line["picture"]: line["reason"] for line in map(json.loads, lines)}


@pytest.fixture(scope="module")
def finished(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a run that nobody stopped."""
    workdir = tmp_path_factory.mktemp("finished")
    assert run(workdir, *options(pictures)) == 0
    return workdir


def test_it_trains_to_the_end_and_says_what_it_goes_without(finished: Path) -> None:
    told = (finished / "data.txt").read_text()
    held_out = int(re.search(r"(\d+) held out for validation", told)[1])
    assert told.startswith(f"{COUNT - held_out} pictures in ") and "masks estimated" in told
    assert "1 passed over: has no sketch (lonely.png)" in told
    assert "1 passed over: is no picture (suffix .txt) (color/notes.txt)" in told
    found = skipped(finished)
    assert found.keys() == {"color/5.jpg", "color/8.png"}
    assert "5.jpg, which is damaged" in found["color/5.jpg"]
    assert "sketch/8.png, which is damaged" in found["color/8.png"]
    metrics = read_metrics(finished)
    assert metrics[-1]["data_skipped"] >= 2
    measured = [line for line in metrics if "validation_loss" in line]
    assert [line["step"] for line in measured] == [6, 12]
    quarters = [measured[0][f"validation_loss_{i}"] for i in (1, 2, 3, 4)]
    assert np.mean(quarters) == pytest.approx(measured[0]["validation_loss"])
    assert measured[1]["validation_loss"] < measured[0]["validation_loss"]


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_it_goes_on_with_the_same_bits(
    finished: Path, pictures: Path, tmp_path: Path, num_workers: int
) -> None:
    flags = options(pictures, f"--config.data.num_workers={num_workers}")
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 5, signal.SIGINT)
        assert run(tmp_path, *flags) == 128 + signal.SIGINT
    # What was made by other workers goes on here.
    assert run(tmp_path, *options(pictures)) == 0
    assert_same_runs(tmp_path, finished)
    assert skipped(tmp_path) == skipped(finished)


def test_too_much_damage_stops_the_run(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = options(pictures, "--config.data.max_skipped_share=0.01")
    assert run(tmp_path, *flags) == 2
    error = capsys.readouterr().err
    assert "and 1 that cannot be" in error and "expected at most 1% of them" in error


def test_masks_that_are_off_are_not_asked_for(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, *options(pictures, "--config.data.masks=off")) == 2
    assert "got data.masks = 'off' with diffusion.inpaint_rate" in capsys.readouterr().err
