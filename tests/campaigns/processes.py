"""Processes that a campaign starts and kills: forked from one that has imported everything.

A forked process costs no imports; its parent must not touch JAX's devices, whose threads a child
would not have. A child notes what it does, line by line, in a file that its parent reads.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.campaigns.stored_programs import FOLDER

Note = Callable[[str], None]


def prepare(folder: Path) -> None:
    """Import everything that can be imported before a process is split; no device is touched.

    Args:
        folder: where programs that one child compiles are kept for the next.
    """
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "xla"))
    os.environ[FOLDER] = str(folder / "steps")
    Path(os.environ[FOLDER]).mkdir(exist_ok=True)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import eval as _evaluation  # noqa: F401
    import train  # noqa: F401
    from colorize_jax.commands import cli  # noqa: F401
    from colorize_jax.inference import jobs  # noqa: F401
    from colorize_jax.setup import checkpoints  # noqa: F401


def start(function: Callable[[Note], None], report: Path) -> int:
    """Run a function in a child of this process; returns the child's number.

    Args:
        function: gets `note`, which writes one line; an exception becomes a line "failed ...".
        report: file of these lines, made anew.
    """
    report.unlink(missing_ok=True)
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        silence = os.open(report.with_suffix(".out"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        with report.open("a", buffering=1) as file:
            try:
                function(lambda text: print(text, file=file))
                status = 0
            except BaseException as error:
                text = " ".join(str(error).split())[:300]
                print(f"failed {type(error).__name__}: {text}", file=file)
    finally:
        os._exit(status)


def run(function: Callable[[Note], None], report: Path) -> list[str]:
    """Run a function in a child to its end; returns its lines.

    Raises:
        RuntimeError: it failed.
    """
    os.waitpid(start(function, report), 0)
    lines = lines_of(report)
    failed = [line for line in lines if line.startswith("failed")]
    if failed or not lines:
        said = report.with_suffix(".out").read_text()[-500:]
        raise RuntimeError(f"{failed or 'no lines'}: {said}")
    return lines


def kill(pid: int) -> bool:
    """Kill a child with SIGKILL and wait for its end; whether it still lived."""
    done, _ = os.waitpid(pid, os.WNOHANG)
    if done:
        return False
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


def lines_of(report: Path) -> list[str]:
    """What a child has noted until now."""
    return report.read_text().splitlines() if report.exists() else []


def wait_for(report: Path, word: str, count: int = 1, seconds: float = 1200.0) -> None:
    """Wait until a child has noted so many lines that begin with a word, has failed or ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        lines = lines_of(report)
        if sum(line.startswith(word) for line in lines) >= count:
            return
        if any(line.startswith(("failed", "ended")) for line in lines):
            return
        time.sleep(0.002)


def resident_bytes(pid: int, *, most: bool = False) -> int:
    """A process's resident memory, now or the most it has had; 0 where it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return 0
    name = "VmHWM:" if most else "VmRSS:"
    # One that has ended, but was not waited for, has no such line.
    found = [line.split()[1] for line in status.splitlines() if line.startswith(name)]
    return 1024 * int(found[0]) if found else 0


def read(results: Path) -> list[dict[str, Any]]:
    """The reports of a campaign's pieces, a line each, that are there already."""
    lines = results.read_text().splitlines() if results.exists() else []
    return [json.loads(line) for line in lines]
