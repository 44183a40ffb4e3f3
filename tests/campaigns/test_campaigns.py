"""The campaigns in short; docs/reliability.md has their figures and how to run them whole."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def campaign(name: str, *options: object) -> dict[str, object]:
    command = [sys.executable, "-m", f"tests.campaigns.{name}", *map(str, options)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return json.loads(result.stdout)


def test_a_few_damaged_inputs(tmp_path: Path) -> None:
    report = campaign("damaged_inputs", "--count", 200, "--keep", tmp_path / "damaged")
    assert report["inputs"] == 200 and not report["failures"]
    assert report["longest_s"] < 10 and report["memory_mb"] < 1000


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["saves", "run", "two", "export", "import", "colorize"])
def test_a_few_kills(kind: str) -> None:
    report = campaign("kills", "--kind", kind, "--count", 3 if kind == "two" else 20)
    assert report["kills"] >= 3 and not report["failures"]
    assert report["identical_ends"] or kind == "two"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="makes writes fail by a library in C")
@pytest.mark.parametrize("command", ["export", "import", "colorize", "folder", "eval", "train"])
def test_a_few_failing_writes(command: str) -> None:
    report = campaign("failing_writes", "--command", command, "--most", 8)
    assert report["writes"] > 8 and not report["failures"]
