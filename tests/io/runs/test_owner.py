"""One owner of a workdir for all processes of a run."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
PROGRAM = """
import sys
from colorize_jax.errors import UserError
from colorize_jax.io.runs.owner import Owner
from colorize_jax.setup.machine import distributed

workdir, address, index = sys.argv[1], sys.argv[2], int(sys.argv[3])
distributed.initialize(address, 2, index)
try:
    with Owner(workdir) as owner:
        owner.take()
        print("held", flush=True)
        sys.stdin.readline()
        owner.check()
except UserError as error:
    print(f"error: {error}", flush=True)
"""


def start_two(workdir: Path) -> list[subprocess.Popen]:
    with socket.socket() as connection:
        connection.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{connection.getsockname()[1]}"
    return [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(workdir), address, str(index)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        )
        for index in range(2)
    ]


def said(process: subprocess.Popen, count: int = 1) -> list[str]:
    """The next lines of a process, without those of its connections."""
    lines: list[str] = []
    while len(lines) < count and (line := process.stdout.readline()):
        lines += [] if line.startswith("[Gloo]") else [line]
    return lines


def test_two_processes_hold_a_workdir_as_one(tmp_path: Path) -> None:
    first, owner = start_two(tmp_path), tmp_path / "owner.json"
    others = []
    try:
        assert [said(process) for process in first] == [["held\n"]] * 2
        assert json.loads(owner.read_text())["pid"] == first[0].pid
        others = start_two(tmp_path)
        (one,), (other,) = [said(process, 2) for process in others]
        assert f"process {first[0].pid} of {os.uname().nodename} holds since" in one
        assert "that the first process of this run could not take" in other
        assert json.loads(owner.read_text())["pid"] == first[0].pid
        # When its owner is killed, the next run takes the workdir, and gives it back.
        first[0].send_signal(signal.SIGKILL)
        first[0].wait()
        others = start_two(tmp_path)
        assert [said(process) for process in others] == [["held\n"]] * 2
        assert json.loads(owner.read_text())["pid"] == others[0].pid
        for process in others:
            process.stdin.write("\n")
            process.stdin.flush()
        assert [process.wait() for process in others] == [0, 0]
        assert not owner.exists()
    finally:
        for process in (*first, *others):
            process.kill()
            process.wait()
