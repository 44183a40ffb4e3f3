"""`ablate`: the real train.py and eval.py over a small grid, and what its page says."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from colorize_jax.commands import ablate
from colorize_jax.commands.cli import main
from colorize_jax.config.load import load_config, read_grid
from colorize_jax.evaluation.protocols import ablation

ROOT = Path(__file__).parents[2]
GRID = """
def get_config():
    return {
        "config": "tests/configs/smallest.py",
        "common": {"total_steps": 2, "logging.samples_every": 0},
        "base": "one branch",
        "seeds": (0,),
        "sizes": {"32 px": {}},
        "num_pairs": 2,
        "arms": {
            "further": {"start": "one branch", "gram.maximum": 2.0, "total_steps": 1},
            "one branch": {"gram.maximum": 0.0},
            "refused": {"optimizer.learning_rate": -1.0},
        },
    }
"""


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(ROOT)
    path = tmp_path / "grid.py"
    path.write_text(GRID)
    return path


def call(grid: Path, output: Path, *flags: str) -> int:
    return main(["ablate", f"--config={grid}", f"--output={output}", *flags])


def test_every_cell_of_the_committed_grid_is_a_run() -> None:
    grid = read_grid(ROOT / "configs" / "ablation.py")
    cells = ablation.cells(grid, Path("out"))
    count = len(grid["arms"]) * len(grid["sizes"]) * len(grid["seeds"])
    assert len(cells) == len({cell.folder for cell in cells}) == count
    folders = [cell.folder for cell in cells]
    for cell in cells:
        config = load_config(ROOT / grid["config"], cell.overrides)
        assert config.seed == cell.seed
        assert cell.start is None or folders.index(cell.start) < folders.index(cell.folder)


@pytest.mark.slow
def test_a_grid_is_run_once_and_compared(
    grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "ablation"
    assert call(grid, output) == 1
    error = capsys.readouterr().err
    assert "failed: refused, 32 px, seed 0: status 2: error: got optimizer.learning_rate" in error
    report = json.loads((output / "report.json").read_text())
    assert [row["arm"] for row in report["rows"]] == ["one branch", "further"]
    figure = report["rows"][1]["figures"]["entanglement"]
    base = report["rows"][0]["figures"]["entanglement"]
    assert figure["change"] == pytest.approx(figure["value"] - base["value"])
    page = (output / "report.html").read_text()
    assert "further" in page and "<polyline" in page and "data:image/png" in page

    # What is there is not run again.
    monkeypatch.setattr(ablate.subprocess, "run", lambda *_, **__: pytest.fail("run again"))
    assert call(grid, output, "--arms=further") == 0


def test_a_run_that_fails_is_named(
    grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(command: list[str], stdout, stderr) -> subprocess.CompletedProcess:
        stdout.write(b"error: got nothing\n")
        return subprocess.CompletedProcess(command, 2)

    monkeypatch.setattr(ablate.subprocess, "run", fail)
    assert call(grid, tmp_path / "ablation", "--arms=one branch", "--jobs=2") == 1
    assert "seed 0: status 2: error: got nothing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--arms=none", "got arm 'none', expected some of further, one branch, refused"),
        ("--sizes=1", "got size '1', expected some of 32 px"),
        ("--seeds=x", "got seed 'x', expected a whole number"),
        ("--jobs=0", "got --jobs 0, expected at least 1"),
    ],
)
def test_bad_input_is_one_line(
    grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, said: str
) -> None:
    assert call(grid, tmp_path / "ablation", flag) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("arms", [1], "whose arms is [1], expected names"),
        ("arms", {}, "whose arms is {}, expected names"),
        ("base", "zz", "whose base is 'zz', expected an arm"),
        ("seeds", 5, "whose seeds is 5, expected some whole numbers"),
        ("num_pairs", "many", "whose num_pairs is 'many', expected a number from 1 up"),
        ("config", "nowhere.py", "whose config is 'nowhere.py', expected a file"),
        ("extra", 1, "got a grid of config, common"),
    ],
)
def test_a_bad_grid_is_one_line_before_anything_runs(
    grid: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: object,
    said: str,
) -> None:
    grid.write_text(GRID.rstrip() + f" | {{{name!r}: {value!r}}}\n")
    assert call(grid, tmp_path / "ablation") == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "ablation").exists()


def write(
    cell: ablation.Cell, rng: np.random.Generator, entanglement: float, line_f1: float = 1.0
) -> None:
    """Scores of ten pairs, as an evaluation leaves them."""
    folder = cell.folder / ablation.EVALUATION
    folder.mkdir(parents=True)
    (cell.folder / ablation.RUN).mkdir()
    lines = [{"step": step, "diffusion_loss": 1 / step} for step in (1, 2, 3)]
    metrics = "".join(json.dumps(line) + "\n" for line in lines)
    (cell.folder / ablation.RUN / "metrics.jsonl").write_text(metrics)
    rows = []
    for index in range(10):
        scores = {name: 1.0 + index for name in ablation.SHOWN}
        scores["entanglement"] = entanglement + index + 0.01 * rng.standard_normal()
        scores["line_f1_cross"] = line_f1
        rows.append(json.dumps({"index": index, "scores": scores}) + "\n")
    (folder / "metrics.jsonl").write_text("".join(rows))


def test_changes_are_of_the_same_pairs_and_seeds(tmp_path: Path) -> None:
    grid = {
        **{"config": __file__, "common": {}, "base": "base", "num_pairs": 10},
        **{"seeds": (0, 1), "sizes": {"s": {}}, "arms": {"base": {}, "arm": {}}},
    }
    cells = ablation.cells(grid, tmp_path)
    rng = np.random.default_rng(0)
    for cell in cells:
        write(cell, rng, {"base": 10.0, "arm": 7.0}[cell.arm] + cell.seed)
    base, arm = ablation.summarize(cells, "base", 10)
    assert base["seeds"] == arm["seeds"] == [0, 1]
    figure = arm["figures"]["entanglement"]
    assert figure["value"] == pytest.approx(7.0 + 0.5 + 4.5, abs=0.02)
    assert figure["by_seed"] == pytest.approx([11.5, 12.5], abs=0.02)
    assert figure["change"] == pytest.approx(-3, abs=0.02)
    # Pairs differ by 9 among each other, their changes hardly at all.
    assert figure["high"] - figure["low"] > 2 > 0.1 > figure["change_high"] - figure["change_low"]
    assert figure["share"] == pytest.approx(-3 / 15, abs=0.01)
    page = ablation.write_page(cells, [base, arm], "base")
    assert "-20.0 %" in page and page.count("<polyline") == 2


def test_a_change_against_nothing_is_no_share(tmp_path: Path) -> None:
    """Networks that have hardly been trained draw no line at all."""
    grid = {
        **{"config": __file__, "common": {}, "base": "base", "num_pairs": 10},
        **{"seeds": (0,), "sizes": {"s": {}}, "arms": {"base": {}, "arm": {}}},
    }
    cells = ablation.cells(grid, tmp_path)
    for cell in cells:
        write(cell, np.random.default_rng(0), 1.0, {"base": 0.0, "arm": 0.5}[cell.arm])
    rows = ablation.summarize(cells, "base", 10)
    figure = rows[1]["figures"]["line_f1_cross"]
    assert figure["change"] == 0.5 and figure["share"] is None
    assert "[+0.5]" in ablation.write_page(cells, rows, "base")
