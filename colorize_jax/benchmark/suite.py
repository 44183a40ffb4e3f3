"""Everything worth measuring of an accelerator, in order of value and within a budget of time.

    python -m colorize_jax benchmark suite --budget 480 --output DIR

Parts run one after another in processes of their own, so that one that fails, does not fit or takes
too long is a row that says so. Rows are in `DIR/rows.jsonl` as soon as they are known.
"""

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from colorize_jax.errors import UserError
from colorize_jax.io.formats.atomic import check_output

ROWS, TABLE = "rows.jsonl", "table.md"
MODULE = "colorize_jax.benchmark.parts"
BUDGET = "{}: the budget is spent"
CONFIGS = Path(__file__).parents[2] / "configs"

Row = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """What one process measures.

    Attributes:
        name: of `parts.PARTS`.
        items: of it, in order.
        config: a file of configs/.
    """

    name: str
    items: tuple[str, ...] = ("",)
    config: str = ""


def plan(platform: str, config: str = "") -> tuple[Part, ...]:
    """The parts for a platform, those of most value first.

    Args:
        platform: "cpu", "gpu" or "tpu".
        config: a file of configs/; by default the published system, on CPUs the miniature.
    """
    if platform == "cpu":
        own = config or str(CONFIGS / "tiny.py")
        steps = ("dual 8", "single 8")
        sizes = ("1", "4")
        return (
            Part("ceilings"),
            Part("attention"),
            Part("step", steps, own),
            Part("sample", sizes, own),
        )
    own, tiny = config or str(CONFIGS / "base.py"), str(CONFIGS / "tiny.py")
    return (
        Part("ceilings"),
        Part("step", ("dual 8 elementwise",), own),
        Part("sample", ("4", f"4 {'int8' if platform == 'tpu' else 'float8'}"), own),
        Part("attention"),
        Part("step", ("dual 4 elementwise", "single 4", "dual 4 block"), own),
        Part("sample", ("1",), own),
        Part("step", ("dual 8", "single 8"), tiny),
        Part("step", ("dual 8", "dual 2", "single 8", "dual 1", "single 2", "single 1"), own),
    )


def run_suite(
    budget: float, folder: str | Path, config: str = "", *, overwrite: bool = False
) -> int:
    """Measure, write rows as they come, and a table at the end.

    Args:
        budget: seconds for everything.
        folder: where rows, table and compiled programs go.
        config: see `plan`.
        overwrite: replace the rows of another suite.

    Returns:
        The exit status: 0 where something was measured.

    Raises:
        UserError: the folder holds the rows of another suite, or no device answers.
    """
    end, folder = time.monotonic() + budget, Path(folder)
    rows_file = folder / ROWS
    check_output(rows_file, overwrite=overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    rows_file.unlink(missing_ok=True)
    _run(Part("device"), folder, end)
    found = read_rows(rows_file)
    if not found or "platform" not in found[0]:
        raise UserError(
            f"got no device ({found[0]['note'] if found else 'nothing answered'}), expected one "
            "that JAX can use; correct the installation"
        )
    for part in plan(found[0]["platform"], config):
        _run(part, folder, end)
    rows = read_rows(rows_file)
    text = table(rows)
    (folder / TABLE).write_text(text + "\n")
    print(f"\n{text}\n\nrows are in {rows_file}, the table in {folder / TABLE}")
    return 0 if any(row.get("seconds") for row in rows) else 1


def read_rows(path: Path) -> list[Row]:
    """The rows that are written so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def write_row(path: Path, row: Mapping[str, Any]) -> None:
    """Add a row, and print it."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(" | ".join(cells(row)), flush=True)


def _run(part: Part, folder: Path, end: float) -> None:
    """Run a part; what it does not say itself becomes a row here."""
    left, path = end - time.monotonic(), folder / ROWS
    known = len(read_rows(path))
    note = BUDGET.format("not begun")
    if left > 0:
        command = [sys.executable, "-m", MODULE, part.name, str(folder), part.config, *part.items]
        log = folder / "log.txt"
        with log.open("a") as output:
            try:
                done = subprocess.run(command, stderr=output, timeout=left, check=False)
                note = f"failed with status {done.returncode}, see {log.name}"
                if done.returncode == 0:
                    return
            except subprocess.TimeoutExpired:
                note = BUDGET.format("stopped")
    said = {row.get("item") for row in read_rows(path)[known:]}
    for item in [item for item in part.items if item not in said] or ["the rest"]:
        what = " ".join(filter(None, (Path(part.config).stem, item)))
        write_row(path, {"part": part.name, "what": what, "item": item, "note": note})


# ------------------------------------------------------------------------------------------- table

COLUMNS = ("part", "what", "time", "rate", "of the peak", "memory", "note")


def table(rows: Sequence[Row]) -> str:
    """All rows as Markdown; every figure was measured."""
    lines = ["Measured; none is a roofline.", "", "| " + " | ".join(COLUMNS) + " |"]
    lines.append("|" + " --- |" * len(COLUMNS))
    return "\n".join([*lines, *("| " + " | ".join(cells(row)) + " |" for row in rows)])


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row's columns as texts."""
    seconds, peak, memory = (row.get(name) for name in ("seconds", "utilization", "memory"))
    return [
        row["part"],
        row["what"],
        "" if seconds is None else f"{1e3 * seconds:.4g} ms",
        row.get("rate", ""),
        "" if peak is None else f"{100 * peak:.1f} %",
        "" if not memory else f"{memory / 2**30:.2f} GiB",
        row.get("note", ""),
    ]
