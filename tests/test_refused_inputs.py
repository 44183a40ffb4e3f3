"""Inputs that no command may swallow, through the command lines: one line, and little memory."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import small_run
from PIL import Image

import train
from colorize_jax.commands import cli

ROOT = Path(__file__).parents[1]
MIB = 2**20


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for kind in ("color", "sketch"):
        (tmp_path / kind).mkdir()
        for i in range(4):
            picture = np.random.default_rng(i).integers(0, 256, (40, 40, 3), np.uint8)
            Image.fromarray(picture).save(tmp_path / kind / f"{i}.png")
    return tmp_path


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in error, error
    return lines[0]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_a_number_of_an_index_that_is_none_is_named_with_its_row(
    pictures: Path, capsys: pytest.CaptureFixture[str], number: str
) -> None:
    rows = ", ".join(
        f'{{"image_path": "{i}.png", "aesthetic_score": {number if i == 2 else 5}}}'
        for i in range(4)
    )
    (pictures / "index.json").write_text(f"[{rows}]")
    arguments = [
        f"--config={ROOT / 'tests/configs/smallest.py'}",
        f"--workdir={pictures / 'run'}",
        "--config.data.source=folder",
        "--config.data.num_examples=100000",
        f"--config.data.path={pictures}",
        "--config.data.index=('index.json',)",
    ]
    assert train.main(arguments) == 2
    error = one_line(capsys)
    assert "index.json" in error and "row 2" in error and "aesthetic_score" in error
    assert not (pictures / "run").exists()


@pytest.mark.parametrize(
    "name, text",
    [("options.json", '{"reference_guidance": NaN}'), ("options.yaml", "reference_guidance: .inf")],
)
def test_a_number_of_an_options_file_that_is_none_is_named(
    pictures: Path, capsys: pytest.CaptureFixture[str], name: str, text: str
) -> None:
    workdir = small_run.make(pictures / "run")
    (pictures / name).write_text(text)
    words = ["--checkpoint", workdir, "--options", pictures / name, "--output", pictures / "o.png"]
    pair = ["--sketch", pictures / "sketch/0.png", "--reference", pictures / "color/0.png"]
    assert cli.main(list(map(str, ["colorize", *words, *pair]))) == 2
    error = one_line(capsys)
    assert "reference_guidance" in error and not (pictures / "o.png").exists()


def peak_memory(*command: object) -> tuple[int, str, int]:
    """Status, what was said on standard error, and MiB, of a command in a process of its own."""
    program = (
        "import resource, subprocess, sys; status = subprocess.call(sys.argv[1:]); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(status)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, sys.executable, *map(str, command)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    kilobytes = int(result.stdout.splitlines()[-1])
    return result.returncode, result.stderr, kilobytes * 1024 // MIB


def inflating(path: Path, name: str) -> None:
    """An archive of one megabyte that would become a gigabyte."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(name, "w") as file,
    ):
        for _ in range(64):
            file.write(bytes(16 * MIB))


def test_members_of_archives_are_inflated_to_their_limits(pictures: Path) -> None:
    inflating(pictures / "color" / "more.zip", "bomb.png")
    report = pictures / "report.json"
    arguments = (pictures, "--decode", "--size=64", f"--json={report}")
    status, error, mebibytes = peak_memory("-m", "data.check", *arguments)
    assert status == 1 and "error" not in error and mebibytes < 600
    problems = dict(json.loads(report.read_text())["passed_over"])
    assert problems["color/more.zip/bomb.png"] == "takes 1.0 GiB"

    model = pictures / "model.ckpt"
    inflating(model, "a/data.pkl")
    words = ("import", "--input", model, "--output", pictures / "weights")
    status, error, mebibytes = peak_memory("-m", "colorize_jax", *words)
    assert status == 2 and error.count("\n") == 1 and error.startswith("error: got ")
    assert mebibytes < 1000 and not (pictures / "weights").exists()
