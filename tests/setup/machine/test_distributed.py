"""Several processes: who asks for them, what if they do not meet, and that they agree."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from colorize_jax.errors import UserError
from colorize_jax.io.runs.run_weights import RunWeights
from colorize_jax.setup.machine.distributed import Start, find_start
from colorize_jax.training.monitoring.run_writer import read_metrics

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / "tests" / "configs" / "smallest.py"
DEVICES = 4
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_NTASKS": "2",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_PROCID": "1",
}


@pytest.mark.parametrize(
    ("environment", "start"),
    [
        ({}, None),
        (SLURM, Start("SLURM")),
        (
            SLURM | {"SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_GPUS_ON_NODE": "2"},
            Start("SLURM", local_devices=(0, 1)),
        ),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}, None),  # a shell inside an allocation
        (SLURM | {"SLURM_NTASKS": "1"}, None),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, Start("Open MPI")),
        ({"TPU_ML_PLATFORM": "JAX", "TPU_WORKER_HOSTNAMES": "a,b"}, Start("the TPU slice")),
        ({"TPU_ML_PLATFORM": "JAX", "JAX_PLATFORMS": "cpu"}, None),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),  # no TPU here
        (
            {
                "JAX_COORDINATOR_ADDRESS": "a:1",
                "JAX_NUM_PROCESSES": "2",
                "JOB_COMPLETION_INDEX": "1",
            },
            Start("JAX_COORDINATOR_ADDRESS", "a:1", 2, 1),
        ),
    ],
)
def test_who_asks(environment, start):
    assert find_start(environment) == start


def test_flags_come_before_the_environment():
    assert find_start(SLURM, "a:1", 3, 2) == Start("the command line", "a:1", 3, 2)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("a:1", 2, None), "got the command line without --process_id"),
        (("a:1", 2, 2), "got process 2 of 2, expected 0..1"),
        (("a", 2, 0), "expected HOST:PORT"),
    ],
)
def test_bad_flags(flags, message):
    with pytest.raises(UserError, match=message):
        find_start({}, *flags)


def environment(num_devices):
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(num_devices),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def test_a_start_that_fails_is_one_line():
    program = "\n".join(
        [
            "from colorize_jax import errors\nfrom colorize_jax.setup.machine import distributed",
            "import sys",
            "try:",
            f"    distributed.initialize('127.0.0.1:{free_port()}', 2, 0, timeout=1)",
            "except errors.UserError as error:",
            "    sys.exit(f'error: {error}')",
        ]
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(1),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.count("error:") == 1
    assert "expected 2 processes to meet at 127.0.0.1:" in result.stderr


def free_port():
    with socket.socket() as connection:
        connection.bind(("127.0.0.1", 0))
        return connection.getsockname()[1]


def train(workdir, num_processes):
    """Run train.py to its end on `DEVICES` devices, of one or of several processes."""
    command = [
        sys.executable,
        str(ROOT / "train.py"),
        f"--config={CONFIG}",
        f"--workdir={workdir}",
        "--config.mesh.data=2",
        "--config.mesh.fsdp=-1",
        "--config.checkpoint.keep_last=3",
        # Adam's first steps are as large for gradients next to zero as for any: not with this.
        "--config.optimizer.eps=1e-3",
    ]
    address = f"127.0.0.1:{free_port()}"
    variables = environment(DEVICES // num_processes)
    processes = []
    for i in range(num_processes):
        several = [f"--coordinator={address}", f"--num_processes={num_processes}"]
        flags = [*several, f"--process_id={i}"] if num_processes > 1 else []
        processes.append(
            subprocess.Popen(
                command + flags,
                env=variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * num_processes, outputs
    return outputs


def back_to_step(workdir, step, copy):
    """A copy of a run that has only come to `step`."""
    shutil.copytree(workdir, copy)
    for path in (copy / "checkpoints").iterdir():
        if int(path.name) > step:
            shutil.rmtree(path)
    return copy


def assert_same_run(workdir, expected):
    own, theirs = read_metrics(workdir), read_metrics(expected)
    assert [m["step"] for m in own] == [m["step"] for m in theirs] == [1, 2, 3, 4]
    for a, b in zip(own, theirs, strict=True):
        for name in ("loss", "gram_loss", "gradient_norm", "parameter_norm"):
            # The Gram loss is a small difference of large sums.
            atol = 1e-8 if name == "gram_loss" else 0
            np.testing.assert_allclose(a[name], b[name], rtol=1e-5, atol=atol, err_msg=name)
    left, right = (RunWeights(path, raw=True).read("unet") for path in (workdir, expected))
    leaves = map(jax.tree_util.tree_leaves_with_path, (left, right))
    for (path, a), (_, b) in zip(*leaves, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-5, err_msg=jax.tree_util.keystr(path))


@pytest.mark.slow
def test_two_processes_are_one(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "xla"))
    train(tmp_path / "one", 1)
    first, second = train(tmp_path / "two", 2)
    assert "process 0 of 2" in first and "2 of 4 devices" in first
    assert "process 1" not in second  # one process writes
    assert_same_run(tmp_path / "two", tmp_path / "one")

    resumed = back_to_step(tmp_path / "two", 2, tmp_path / "two then one")
    assert "resumed from step 2" in train(resumed, 1)[0]
    assert_same_run(resumed, tmp_path / "one")

    resumed = back_to_step(tmp_path / "one", 2, tmp_path / "one then two")
    assert "resumed from step 2" in train(resumed, 2)[0]
    assert_same_run(resumed, tmp_path / "one")
    assert json.loads((resumed / "config.json").read_text())["config"]["mesh"]["data"] == 2
