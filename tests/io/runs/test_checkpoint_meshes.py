"""A checkpoint is restored onto other meshes, other numbers of devices and of processes."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROGRAM = ROOT / "tests" / "io" / "runs" / "meshes.py"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), *map(str, arguments)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*processes):
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), outputs
    return outputs


def start_two(workdirs, action, mesh):
    with socket.socket() as connection:
        connection.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{connection.getsockname()[1]}"
    several = (f"--coordinator={address}", "--num_processes=2")
    return [
        start(workdir, action, mesh, *several, f"--process_id={i}")
        for i, workdir in enumerate(workdirs)
    ]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Saved on (2, 2, 2)."""
    workdir = tmp_path_factory.mktemp("saved")
    finish(start(workdir, "save", "2,2,2"))
    return workdir


def test_restore_onto_other_meshes_and_fewer_devices(saved):
    (output,) = finish(start(saved, "restore", "1,8,1", "8,1,1", "1,2,2", "1,1,1"))
    assert [line for line in output.splitlines() if line.startswith("restored")] == [
        "restored 1,8,1 10",
        "restored 8,1,1 0",
        "restored 1,2,2 10",
        "restored 1,1,1 0",
    ]


def test_one_replica_reads_for_all_processes(saved, tmp_path):
    # What the second process has on its disk says what there is, and not a single number.
    hollow = tmp_path / "hollow"
    shutil.copytree(saved, hollow)
    data = [path for path in hollow.rglob("d/*") if path.is_file()]
    for path in data:
        path.write_bytes(b"")
    assert data
    outputs = finish(*start_two((saved, hollow), "restore", "2,2,1"))
    assert all("restored 2,2,1 10" in output for output in outputs)


@pytest.mark.slow
def test_two_processes_save_what_one_restores(tmp_path):
    finish(*start_two((tmp_path, tmp_path), "save", "1,4,1"))
    (output,) = finish(start(tmp_path, "restore", "2,2,2"))
    assert "restored 2,2,2 10" in output
