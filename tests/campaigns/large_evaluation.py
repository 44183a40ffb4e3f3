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

ROOT = Path(__file__).parents[2]
MOST_BYTES = 2e9
# Clusters of palettes begin at pixels that a last digit may exchange.
LOOSE = {"palette": 1e-2}
CLOSE = 1e-3
BATCH = "--batch-size"
WAYS: dict[str, list[str]] = {
    "batches of 8": [BATCH, "8"],
    "batches of 32": [BATCH, "32"],
    "eight devices": [BATCH, "8"],
    "two processes": [BATCH, "8"],
    "killed": [BATCH, "8"],
}


def environment(way: str) -> dict[str, str]:
    """Variables of a way's processes."""
    count = 8 if way == "eight devices" else 1
    flags = f"--xla_force_host_platform_device_count={count}"
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}


def resident(process: subprocess.Popen[bytes]) -> int:
    """The most resident bytes that a process has had; 0 where it is gone."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except FileNotFoundError:
        return 0
    peaks = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return 1024 * int(peaks[0]) if peaks else 0


def evaluate(way: str, command: list[str], folder: Path, num: int) -> dict[str, Any]:
    """Run one way to its end; returns seconds and bytes, of the process that took most."""
    ranks = [[]]
    if way == "two processes":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            place = ["--coordinator", f"127.0.0.1:{free.getsockname()[1]}", "--num_processes", "2"]
        ranks = [[*place, "--process_id", str(rank)] for rank in range(2)]
    words = [*command, *WAYS[way], "--output", str(folder / way.replace(" ", "_"))]

    def start() -> list[subprocess.Popen[bytes]]:
        log = (folder / "log.txt").open("ab")
        return [
            subprocess.Popen(words + rank, env=environment(way), stdout=log, stderr=log, cwd=ROOT)
            for rank in ranks
        ]

    began, most, kills = time.monotonic(), 0, 1 if way == "killed" else 0
    processes = start()
    while any(process.poll() is None for process in processes):
        most = max(most, *map(resident, processes), 0)
        time.sleep(0.5)
        if kills and done(folder / way.replace(" ", "_")) > num / 2:
            kills -= 1
            processes[0].send_signal(signal.SIGKILL)
            processes[0].wait()
            processes = start()
    if any(process.returncode for process in processes):
        raise RuntimeError(f"{way}: {(folder / 'log.txt').read_text()[-2000:]}")
    if kills:
        raise RuntimeError(f"{way}: it ended before it was killed; ask for more pairs")
    return {"seconds": round(time.monotonic() - began), "bytes": most}


def done(output: Path) -> int:
    """Pairs of an evaluation in work that are kept already."""
    return sum(path.read_bytes().count(b"\n") for path in output.glob("**/*.jsonl"))


def furthest(report: dict[str, Any], other: dict[str, Any]) -> tuple[float, str]:
    """The largest relative difference of two reports' figures, in units of what is allowed."""
    most = 0.0, ""
    for group in ("ratios", "means", "distances"):
        if report[group].keys() != other[group].keys():
            return float("inf"), group
        for name, figure in report[group].items():
            allowed = next((far for key, far in LOOSE.items() if name.startswith(key)), CLOSE)
            a, b = figure["value"], other[group][name]["value"]
            if figure["count"] != other[group][name]["count"]:
                return float("inf"), name
            if a != b:
                most = max(most, (abs(a - b) / max(abs(a), abs(b)) / allowed, name))
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
    reports = [
        json.loads((folder / way.replace(" ", "_") / "report.json").read_text()) for way in WAYS
    ]
    good = True
    for way, report in zip(WAYS, reports, strict=True):
        far, name = furthest(reports[0], report)
        results[way] |= {"pairs": report["num_pairs"], "furthest": far, "figure": name}
        good &= far <= 1 and results[way]["bytes"] < MOST_BYTES and report["num_pairs"] == args.num
    print(json.dumps(results, indent=2))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
