"""Kill what writes, at random moments; nothing may be lost, and the end must be the same.

    python -m tests.campaigns.kills --results kills.jsonl
    python -m tests.campaigns.kills --results kills.jsonl --total
    python -m tests.campaigns.kills --kind run --count 20 --seed 0

Everything is killed with SIGKILL. The whole campaign is a number of pieces, each of a kind and a
seed, whose reports are lines of a file: started again, it does those that the file lacks. The last
lines say how it went; the status is 1 where anything went wrong.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from tests.campaigns import kill_commands, kill_runs, kill_saves
from tests.campaigns.processes import prepare, read

KINDS = {
    "saves": kill_saves.campaign,
    "run": kill_runs.campaign,
    "two": partial(kill_runs.campaign, processes=2),
    "export": kill_commands.replaced,
    "import": partial(kill_commands.replaced, importing=True),
    "colorize": kill_commands.colorize,
}
# Of a piece; what takes the longest comes last.
COUNTS = {"saves": 40, "export": 20, "import": 20, "colorize": 20, "run": 20, "two": 8}
SEEDS = {"saves": 15, "export": 5, "import": 5, "colorize": 5, "run": 5, "two": 2}


def plan() -> list[tuple[str, int]]:
    """Kind and seed of every piece of the whole campaign, the kinds by turns, the slowest last."""
    return sorted(
        ((kind, seed) for kind, count in SEEDS.items() for seed in range(count)),
        key=lambda piece: (piece[0] == "two", piece[1]),
    )


def piece(kind: str, seed: int, count: int, seconds: float, folder: Path) -> dict[str, Any]:
    """Run a piece of the campaign; returns its report."""
    folder.mkdir()
    report = KINDS[kind](count, random.Random(f"{kind} {seed}"), seconds, folder)
    return {"kind": kind, "seed": seed, **report}


def whole(results: Path, folder: Path) -> None:
    """Run the pieces whose reports are not in a file yet; what failed is kept beside it."""
    for kind, seed in plan():
        if (kind, seed) in {(report["kind"], report["seed"]) for report in read(results)}:
            continue
        work = folder / f"{kind}-{seed}"
        report = piece(kind, seed, COUNTS[kind], 1e9, work)
        with results.open("a") as file:
            print(json.dumps(report), file=file)
        if report["failures"]:
            shutil.move(work, results.with_name(f"{results.stem}-{work.name}"))
        else:
            shutil.rmtree(work)


def total(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Sums of the reports of pieces, by kind."""
    sums: dict[str, Any] = {kind: Counter() for kind in KINDS}
    for report in reports:
        counted = {"pieces": 1, "kills": report["kills"], "ends": report["identical_ends"]}
        sums[report["kind"]].update(counted)
    failures = [f"{r['kind']} {r['seed']}: {line}" for r in reports for line in r["failures"]]
    kills = sum(counts["kills"] for counts in sums.values())
    return {"kills": kills, "of": sums, "failures": failures}


def main() -> int:
    """Run a piece of the campaign, or all; 1 where anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, metavar="FILE", help="run all, go on from there")
    parser.add_argument("--total", action="store_true", help="only sum the results up")
    parser.add_argument("--kind", choices=KINDS, default="saves", help="what is killed")
    parser.add_argument("--count", type=int, default=100, metavar="N", help="kills")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments")
    parser.add_argument("--seconds", type=float, default=1e9, metavar="S", help="stop after")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if not options.total:
            prepare(Path(name))
        if not options.results:
            folder = Path(name) / options.kind
            report = piece(options.kind, options.seed, options.count, options.seconds, folder)
        else:
            if not options.total:
                whole(options.results, Path(name))
            report = total(read(options.results))
    print(json.dumps(report, indent=1))
    return 1 if report["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
