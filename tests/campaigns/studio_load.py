"""Load on a real server: `python -m tests.campaigns.studio_load --folder DIR`.

Clients send requests of different seeds, one after another each; every answer must be the picture
of its request. Printed are losses, latency, throughput and the server's memory.
"""

import argparse
import io
import itertools
import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from colorize_jax.client import Client
from colorize_jax.inference.metadata import read_metadata
from data.illustrations import CrossPairSource
from tests.campaigns.processes import resident_bytes

OPTIONS = {"sampler": "Euler", "steps": 2}
SIDE = 128  # px, of the pictures that are sent
WARM_UP = 100  # requests after which memory should be flat


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="for outputs")
    parser.add_argument("--checkpoint", default="demo", help="which is served (default: demo)")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=4)
    return parser.parse_args()


def main() -> int:
    """Serve, and ask; 0 where every answer was the right one."""
    args = parse_arguments()
    args.folder.mkdir(parents=True, exist_ok=True)
    outputs = args.folder / f"outputs-{args.batch_size}"
    command = [sys.executable, "-m", "colorize_jax", "studio", "--port", "0", "--no-page"]
    command += ["--checkpoint", args.checkpoint, "--outputs", str(outputs)]
    command += ["--batch-size", str(args.batch_size)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            line = next(line for line in server.stdout if line.startswith("serving at "))
            report = ask_all(Client(line.split()[2]), args, server.pid)
        finally:
            server.terminate()
    print(json.dumps(report, indent=2))
    return 0 if report["wrong"] == 0 else 1


def ask_all(client: Client, args: argparse.Namespace, pid: int) -> dict[str, Any]:
    """Send all requests and return the figures."""
    drawn = [CrossPairSource(0, 2, SIDE, SIDE)[i] for i in range(2)]
    sketches, references = ([png(one[kind]) for one in drawn] for kind in ("sketch", "reference"))
    pairs = list(itertools.product(sketches, references))
    for size in range(args.batch_size):  # every size of batch is compiled for
        with ThreadPoolExecutor(size + 1) as pool:
            list(pool.map(lambda _: client.colorize(*pairs[0], OPTIONS), range(4 * (size + 1))))
    alone = {
        (pair, seed): client.colorize(*pairs[pair], {**OPTIONS, "seed": seed})
        for pair in range(len(pairs))
        for seed in range(2)
    }
    seconds: list[float] = []
    wrong, memory, lock = 0, {}, threading.Lock()

    def ask(number: int) -> None:
        nonlocal wrong
        pair, seed = number % len(pairs), number // len(pairs)
        began = time.perf_counter()
        made = client.colorize(*pairs[pair], {**OPTIONS, "seed": seed})
        took = time.perf_counter() - began
        right = read_metadata(io.BytesIO(made)).options.seed == seed
        if (pair, seed) in alone:
            right = right and close(made, alone[pair, seed])
        with lock:
            seconds.append(took)
            wrong += not right
            if len(seconds) in (WARM_UP, args.requests):
                memory[len(seconds)] = resident_bytes(pid) / 2**20

    began = time.perf_counter()
    with ThreadPoolExecutor(args.clients) as pool:
        list(pool.map(ask, range(args.requests)))
    whole = time.perf_counter() - began
    seconds.sort()
    return {
        "batch_size": args.batch_size,
        "answers": len(seconds),
        "wrong": wrong,
        "pictures_per_second": round(args.requests / whole, 2),
        "seconds_median": round(seconds[len(seconds) // 2], 3),
        "seconds_p95": round(seconds[int(0.95 * len(seconds))], 3),
        "mib_by_answers": memory,
    }


def png(pixels: np.ndarray) -> bytes:
    """A picture's file."""
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, "PNG")
    return file.getvalue()


def close(one: bytes, other: bytes) -> bool:
    """Whether two pictures are equal but for rounding."""
    a, b = (np.asarray(Image.open(io.BytesIO(png)), np.int16) for png in (one, other))
    return bool(np.abs(a - b).max() <= 1)


if __name__ == "__main__":
    sys.exit(main())
