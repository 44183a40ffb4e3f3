"""The real train.py on a folder as people have it: odd, partly damaged, stopped and resumed."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from test_train import CONFIG, ROOT, run, stop_at

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
    """Forty drawings as people have them, and two that are damaged behind their headers."""
    root = tmp_path_factory.mktemp("pictures")
    for kind in ("color", "sketch", "elsewhere"):
        (root / kind).mkdir()
    turned = Image.Exif()
    turned[0x0112] = 3
    for i in range(COUNT):
        drawn = render(i, i, *((48, 40), (40, 64))[i % 2])
        image, extra = Image.fromarray(drawn.image), {}
        if i in ODD:
            image, extra = ODD[i](image), {"exif": turned} if i == 4 else {}
        suffix = "jpg" if i == 4 else ("png", "jpg", "webp", "gif")[i % 4]
        place = root / ("elsewhere" if i == 16 else "color") / f"{i}.{suffix}"
        image.save(place, **extra)
        Image.fromarray(drawn.sketch[..., 0]).save(root / f"sketch/{i}.png")
    (root / "color" / "linked").symlink_to(root / "elsewhere")
    (root / "sketch" / "linked").mkdir()
    shutil.move(root / "sketch" / "16.png", root / "sketch" / "linked" / "16.png")
    for kind, name in (("color", "20.png"), ("sketch", "20.png")):
        with zipfile.ZipFile(root / kind / "A.ZIP", "w") as archive:
            archive.write(root / kind / name, name)
        (root / kind / name).unlink()
    for damaged in (root / "color" / "5.jpg", root / "sketch" / "8.png"):
        content = damaged.read_bytes()
        damaged.write_bytes(content[: len(content) // 2])
    (root / "color" / "notes.txt").write_text("")
    (root / "color" / ".hidden").mkdir()
    Image.new("RGB", (40, 48)).save(root / "color" / "lonely.png")
    return root


# Modes and turns of files; what they show is the same.
ODD = {
    0: lambda image: image.convert("P"),
    4: lambda image: image.transpose(Image.Transpose.ROTATE_180),
    6: lambda image: image.convert("RGBA"),
    9: lambda image: image.convert("CMYK"),
    12: lambda image: Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257),
}


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


def launch(workdir: Path, flags: tuple[str, ...], count: int) -> list[subprocess.Popen]:
    """Start train.py as one or several processes, of a device each."""
    with socket.socket() as connection:
        connection.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{connection.getsockname()[1]}"
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"}
    variables["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"
    # XLA's threads on CPUs may add in another order in every run, the more so on a busy machine.
    variables["XLA_FLAGS"] = f"{os.environ['XLA_FLAGS']} --xla_cpu_multi_thread_eigen=false"
    processes = []
    for i in range(count):
        several = (f"--coordinator={address}", f"--num_processes={count}", f"--process_id={i}")
        flags_of_it = (f"--config.mesh.data={count}", *(several if count > 1 else ()))
        command = [sys.executable, "train.py", f"--config={CONFIG}", f"--workdir={workdir}"]
        processes.append(
            subprocess.Popen([*command, *flags, *flags_of_it], cwd=ROOT, env=variables)
        )
    return processes


def children(pid: int) -> list[int]:
    """Processes that another one has started."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(("count", "num_workers"), [(1, 0), (1, 2), (2, 0)])
def test_killed_processes_go_on_with_the_same_bits(
    pictures: Path, tmp_path: Path, count: int, num_workers: int
) -> None:
    flags = options(pictures, f"--config.data.num_workers={num_workers}")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert [process.wait() for process in launch(whole, flags, count)] == [0] * count
    processes = launch(killed, flags, count)
    while not (killed / "checkpoints" / "4").exists():
        assert all(process.poll() is None for process in processes)
        time.sleep(0.02)
    started = [child for process in processes for child in children(process.pid)]
    for process in processes:
        process.kill()
    assert [process.wait() for process in processes] == [-signal.SIGKILL] * count
    assert len(started) >= num_workers
    assert [process.wait() for process in launch(killed, flags, count)] == [0] * count
    assert_same_runs(killed, whole)
    names = [f"skipped{end}.jsonl" for end in ("", ".1")[:count]]
    for workdir in (whole, killed):
        found = set()
        for name in names:
            if (workdir / name).exists():
                lines = (workdir / name).read_text().splitlines()
                found |= {json.loads(line)["picture"] for line in lines}
        assert found == {"color/5.jpg", "color/8.png"}
    deadline = time.monotonic() + 60
    while any(map(is_alive, started)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(is_alive, started))  # workers end with the run that was killed


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
