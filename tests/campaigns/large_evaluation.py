"""One large evaluation in several ways: constant memory, and the same report.

    python -m tests.campaigns.large_evaluation --num 5000 --folder DIR

Drawn pairs are evaluated by eval.py in batches of 8 and of 32, on eight virtual devices, by two
processes, and with a kill (SIGKILL) in the middle. Printed are, of every way, seconds, the largest
resident memory of a process, and how far its report's figures lie from those of the first; the
status is 1 where one lies further than rounding brings it, or takes more than 2 GB. What is done
already is not done again.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.campaigns.processes import resident_bytes

ROOT = Path(__file__).parents[2]
MOST_BYTES = 2e9
# Relative differences of figures. Groups of palettes begin at pixels that a last digit exchanges.
CLOSE, OF_PALETTES = 1e-5, 1e-2
FIRST, WIDE, DEVICES, PROCESSES, KILLED = WAYS = (
    "batches of 8",
    "batches of 32",
    "eight devices",
    "two processes",
    "killed",
)


def environment(way: str) -> dict[str, str]:
    """Variables of a way's processes."""
    count = 8 if way == DEVICES else 1
    flags = f"--xla_force_host_platform_device_count={count}"
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}


def evaluate(way: str, command: list[str], folder: Path, num: int) -> dict[str, Any]:
    """Run one way to its end; returns seconds and bytes, of the process that took most."""
    ranks = [[]]
    if way == PROCESSES:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            place = ["--coordinator", f"127.0.0.1:{free.getsockname()[1]}", "--num_processes", "2"]
        ranks = [[*place, "--process_id", str(rank)] for rank in range(2)]
    output, log = output_of(way, folder), folder / "log.txt"
    words = [*command, "--batch-size", "32" if way == WIDE else "8", "--output", str(output)]

    def start() -> list[subprocess.Popen[bytes]]:
        with log.open("ab") as file:
            streams = {"stdout": file, "stderr": file}
            return [
                subprocess.Popen(words + rank, env=environment(way), cwd=ROOT, **streams)
                for rank in ranks
            ]

    began, most, kills = time.monotonic(), 0, 1 if way == KILLED else 0
    processes = start()
    while any(process.poll() is None for process in processes):
        most = max(most, *(resident_bytes(one.pid, most=True) for one in processes))
        time.sleep(0.5)
        if kills and done(output) > num / 2:
            kills -= 1
            processes[0].send_signal(signal.SIGKILL)
            processes[0].wait()
            processes = start()
    if any(process.returncode for process in processes):
        raise RuntimeError(f"{way}: {log.read_text()[-2000:]}")
    if kills:
        raise RuntimeError(f"{way}: it ended before it was killed; ask for more pairs")
    return {"seconds": round(time.monotonic() - began), "bytes": most}


def output_of(way: str, folder: Path) -> Path:
    """Where a way's evaluation lies."""
    return folder / way.replace(" ", "_")


def done(output: Path) -> int:
    """Pairs of an evaluation in work that are kept already."""
    return sum(path.read_bytes().count(b"\n") for path in output.glob("**/*.jsonl"))


def differences(report: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """Relative differences of two reports' figures: the largest of palettes, and of all others."""
    most = {"figures": 0.0, "palettes": 0.0}
    for group in ("ratios", "means", "distances"):
        if report[group].keys() != other[group].keys():
            raise RuntimeError(f"got {[*other[group]]}, expected {[*report[group]]}")
        for name, figure in report[group].items():
            a, b = figure["value"], other[group][name]["value"]
            if figure["count"] != other[group][name]["count"]:
                raise RuntimeError(f"{name}: got {other[group][name]}, expected {figure}")
            if a != b:
                kind = "palettes" if name.startswith("palette") else "figures"
                most[kind] = max(most[kind], abs(a - b) / max(abs(a), abs(b)))
    return most


def main() -> int:
    """Do all ways; 0 where they agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="for evaluations and results")
    parser.add_argument("--num", type=int, default=5000, help="pairs (default: 5000)")
    parser.add_argument("--checkpoint", default="demo")
    parser.add_argument("--side", type=int, default=64, help="of pictures, px (default: 64)")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    folder = args.folder.absolute()
    command = [sys.executable, str(ROOT / "eval.py"), "--checkpoint", args.checkpoint]
    # What a picture looks like does not matter here: one step each.
    size = ["--height", str(args.side), "--width", str(args.side)]
    command += ["--num", str(args.num), "--steps", "1", *size]
    kept = folder / "results.json"
    results = json.loads(kept.read_text()) if kept.exists() else {}
    for way in WAYS:
        if way not in results:
            results[way] = evaluate(way, command, folder, args.num)
            kept.write_text(json.dumps(results, indent=2))
    reports = {
        way: json.loads((output_of(way, folder) / "report.json").read_text()) for way in WAYS
    }
    good = True
    for way, report in reports.items():
        far = differences(reports[FIRST], report)
        results[way] |= {"pairs": report["num_pairs"], "furthest": far}
        good &= far["figures"] <= CLOSE and far["palettes"] <= OF_PALETTES
        good &= results[way]["bytes"] < MOST_BYTES and report["num_pairs"] == args.num
    print(json.dumps(results, indent=2))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
