"""Five hundred pictures: prepared through ten kills, and trained on, by the commands themselves."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from drawn_folder import make

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
COUNT, SIDE, KILLS = 500, 192, 10


def command(pictures: Path, output: Path) -> list[str]:
    words = [str(pictures), "--output", str(output), "--archive-size", "50", "--processes", "2"]
    return [sys.executable, "-m", "data.prepare", *words, "--characters", "folder"]


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(p.relative_to(root)): p.read_bytes() for p in files if ".catalog" not in p.parts}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("input") / "pictures"
    make(root, COUNT, SIDE)
    return root


@pytest.fixture(scope="module")
def prepared(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """The set of a start that nobody killed, and how long it took, s."""
    output = tmp_path_factory.mktemp("whole") / "set"
    started = time.monotonic()
    subprocess.run(command(pictures, output), cwd=ROOT, check=True, capture_output=True)
    return output, time.monotonic() - started


def test_prepare_and_train_are_two_commands(prepared: tuple[Path, float], tmp_path: Path) -> None:
    output, _ = prepared
    report = json.loads((output / "report.json").read_text())
    # 15 are no use: five copies, five saved again, five damaged; and one is a text.
    assert report["taken"] == COUNT - 5 and len(report["left_out"]) == 16
    assert report["with_references"] > COUNT / 2
    words = ["--config=tests/configs/smallest.py", f"--workdir={tmp_path}/run"]
    words += ["--config.data.source=folder", f"--config.data.path={output}"]
    words += ["--config.data.same_identity_rate=0.5"]
    done = subprocess.run(
        [sys.executable, "train.py", *words, "--config.data.num_examples=100000"],
        cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    told = (tmp_path / "run" / "data.txt").read_text()
    assert f"{COUNT - 5} pictures in " in told and "passed over" not in told


def test_ten_kills_change_nothing(
    pictures: Path, prepared: tuple[Path, float], tmp_path: Path
) -> None:
    whole, seconds = prepared
    expected, output, rng = contents(whole), tmp_path / "set", random.Random(0)
    kills = 0
    while kills < KILLS:
        child = subprocess.Popen(
            command(pictures, output), cwd=ROOT, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            child.wait(timeout=2 + rng.random() * seconds / 3)
        except subprocess.TimeoutExpired:
            child.kill()
            kills += 1
        child.wait()
        for name, content in contents(output).items() if output.exists() else ():
            assert name.endswith(".tmp") or expected[name] == content, name
        if child.returncode == 0:
            assert contents(output) == expected
            for path in sorted((output / ".prepare" / "made").iterdir())[kills % 3 :: 3]:
                path.unlink()  # there is something left to kill
    subprocess.run(command(pictures, output), cwd=ROOT, check=True, capture_output=True)
    assert contents(output) == expected
