"""`ablate`: a grid of training runs, each evaluated, and one page of what they say."""

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HELP = "train and evaluate every arm of a grid, and compare them on one page"
DONE = "done.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--config", required=True, metavar="FILE", help="e.g. configs/ablation.py")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of runs and report")
    parser.add_argument("--arms", metavar="NAME,...", help="some of them (all)")
    parser.add_argument("--sizes", metavar="NAME,...", help="some of them (all)")
    parser.add_argument("--seeds", metavar="N,...", help="some of them (all)")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="runs at a time (default: 1)"
    )
    parser.add_argument(
        "--report", action="store_true", help="run nothing, only write what is there on the page"
    )


def run(args: argparse.Namespace) -> int:
    """Run what is not done yet, then write the page; 1 where a run failed."""
    from tqdm import tqdm

    from colorize_jax.config.load import read_grid
    from colorize_jax.errors import UserError
    from colorize_jax.evaluation.protocols import ablation
    from colorize_jax.io.formats.atomic import Reads, atomic_output

    if args.jobs < 1:
        raise UserError(f"got --jobs {args.jobs}, expected at least 1; change it")
    grid, output = read_grid(args.config), Path(args.output)
    ablation.check_grid(grid)
    Reads({"config": [args.config, grid["config"]]}).check(output)
    scripts = {name: Path(name) for name in ("train.py", "eval.py")}
    for path in scripts.values():
        if not path.is_file() and not args.report:
            raise UserError(f"got no {path} here, expected a clone's folder; run it in one")
    cells = ablation.cells(
        grid, output, _words(args.arms), _words(args.sizes), [*map(_number, _words(args.seeds))]
    )
    failed = [] if args.report else _run_all(cells, grid, args.jobs, tqdm)
    rows = ablation.summarize(cells, grid["base"], grid["num_pairs"])
    if not rows:
        print("nothing is evaluated yet: there is no page")
    else:
        report = json.dumps({"base": grid["base"], "rows": rows}, indent=2) + "\n"
        text = ablation.write_page(cells, rows, grid["base"])
        for name, content in (("report.json", report), ("report.html", text)):
            size = len(content.encode())
            with atomic_output(output / name, nbytes=size, overwrite=True) as place:
                place.write_text(content)
        print(f"written: {output / 'report.html'}")
    for cell, reason in failed:
        print(f"failed: {cell.arm}, {cell.size}, seed {cell.seed}: {reason}", file=sys.stderr)
    return 1 if failed else 0


def _run_all(cells: list[Any], grid: dict[str, Any], jobs: int, tqdm: Any) -> list[Any]:
    """Run cells that are not done, those that others start from first; returns what failed."""
    waves, left = [[cell for cell in cells if cell.start is None]], cells
    while left := [cell for cell in left if not any(cell in wave for wave in waves)]:
        there = {cell.folder for wave in waves for cell in wave}
        waves.append([cell for cell in left if cell.start in there])
    failed = []
    with tqdm(total=len(cells), unit="run") as bar, ThreadPoolExecutor(jobs) as pool:
        for wave in waves:
            for cell, reason in zip(
                wave, pool.map(lambda c: _run_cell(c, grid), wave), strict=True
            ):
                bar.update()
                if reason:
                    failed.append((cell, reason))
    return failed


def _run_cell(cell: Any, grid: dict[str, Any]) -> str | None:
    """Train and evaluate one cell; None where it went well, else the reason."""
    from colorize_jax.evaluation.protocols.ablation import EVALUATION, RUN

    start = cell.start and cell.start.name
    told = {"overrides": cell.overrides, "start": start, "num_pairs": grid["num_pairs"]}
    done = cell.folder / DONE
    if _read(done) == told:
        return None
    if cell.start is not None and _read(cell.start / DONE) is None:
        return f"{cell.start.name}, which it starts from, is not done"
    try:
        cell.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"{cell.folder} cannot be made ({error.strerror})"
    workdir = cell.folder / RUN
    train = ["train.py", f"--config={grid['config']}", f"--workdir={workdir}", *cell.overrides]
    if cell.start is not None:
        train.append(f"--fork_from={cell.start / RUN}")
    measure = ["eval.py", f"--checkpoint={workdir}", f"--output={cell.folder / EVALUATION}"]
    measure += ["--protocol=cross", f"--num={grid['num_pairs']}", "--batch-size=32"]
    for command in (train, measure):
        log = cell.folder / f"{Path(command[0]).stem}.log"
        with log.open("wb") as file:
            status = subprocess.run([sys.executable, *command], stdout=file, stderr=file).returncode
        if status:
            lines = log.read_text(errors="replace").strip().splitlines()
            return f"status {status}: {lines[-1] if lines else 'no output'} ({log})"
    done.write_text(json.dumps(told))
    return None


def _read(path: Path) -> object:
    """What a finished cell noted; None where it is not finished, or nobody can tell."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in text.split(",")] if text else []


def _number(text: str) -> int:
    from colorize_jax.errors import UserError

    if not text.isdigit():
        raise UserError(f"got seed {text!r}, expected a whole number; correct it")
    return int(text)
