"""Initialization of runs with several processes, on top of `jax.distributed`.

This module detects the environments that need it, and stops the run if initialization fails,
instead of letting every process train on its own.
"""

import os
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

from colorize_jax.errors import UserError
from data.errors import ERROR_STATUS

TIMEOUT = 300  # seconds until all processes have to be there
MARGIN = 60  # seconds by which JAX would wait longer


@dataclass(frozen=True)
class Start:
    """Arguments of `jax.distributed.initialize`; JAX detects those that are None.

    Attributes:
        reason: what asked for several processes.
        coordinator: HOST:PORT of the first process.
        num_processes: of the run.
        process_id: of this one, from 0.
        local_devices: GPUs that this process takes.
    """

    reason: str
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    local_devices: tuple[int, ...] | None = None


def initialize(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout: int = TIMEOUT,
) -> Start | None:
    """Join the other processes of the run, where there are others; before anything else of JAX.

    Args:
        coordinator: HOST:PORT of the first process; with the next two, what asks for the start.
        num_processes: of the run.
        process_id: of this process, from 0.
        timeout: seconds to wait for the others.

    Returns:
        What asked for several processes; None where this one runs alone.

    Raises:
        UserError: the processes do not come together.
    """
    start = find_start(os.environ, coordinator, num_processes, process_id)
    if start is None:
        return None
    watchdog = threading.Timer(timeout, _give_up, [start, timeout])
    watchdog.daemon = True
    watchdog.start()
    try:
        jax.distributed.initialize(
            coordinator_address=start.coordinator,
            num_processes=start.num_processes,
            process_id=start.process_id,
            local_device_ids=start.local_devices,
            initialization_timeout=timeout + MARGIN,
        )
    except (RuntimeError, ValueError, TypeError, OSError, KeyError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(_failure(start, reason)) from error
    finally:
        watchdog.cancel()
    return start


def _give_up(start: Start, timeout: int) -> None:
    """Exit: JAX waits in native code, and would abort the process with a stack trace."""
    print(f"error: {_failure(start, f'not all came within {timeout} s')}", file=sys.stderr)
    sys.stderr.flush()
    os._exit(ERROR_STATUS)


def _failure(start: Start, reason: str) -> str:
    where = f" at {start.coordinator}" if start.coordinator else ""
    return (
        f"got no start of several processes, which {start.reason} asks for ({reason}), expected "
        f"{start.num_processes or 'all'} processes to meet{where}; start them all, check the "
        "address and the network, or clear what asks for it"
    )


def find_start(
    environment: Mapping[str, str],
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> Start | None:
    """Say whether flags or the environment ask for several processes; None where one runs alone.

    Args:
        environment: variables, as in `os.environ`.
        coordinator, num_processes, process_id: flags, which come before the environment.

    Raises:
        UserError: they contradict each other, or something is missing.
    """
    count = _number(environment, "SLURM_NTASKS")
    if coordinator is not None or num_processes is not None or process_id is not None:
        return _explicit("the command line", coordinator, num_processes, process_id)
    if "JAX_COORDINATOR_ADDRESS" in environment:
        own = _number(environment, "JAX_PROCESS_ID")
        return _explicit(
            "JAX_COORDINATOR_ADDRESS",
            environment["JAX_COORDINATOR_ADDRESS"],
            _number(environment, "JAX_NUM_PROCESSES"),
            _number(environment, "JOB_COMPLETION_INDEX") if own is None else own,
        )
    # A shell inside an allocation has no step id: it runs as a single process.
    if count is not None and count > 1 and "SLURM_STEP_NODELIST" in environment:
        return Start("SLURM", local_devices=_slurm_devices(environment))
    if (_number(environment, "OMPI_COMM_WORLD_SIZE") or 1) > 1:
        return Start("Open MPI")
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        return Start("Kubernetes")
    hosts = environment.get("TPU_PROCESS_ADDRESSES", environment.get("TPU_WORKER_HOSTNAMES"))
    on_tpu = "TPU_ML_PLATFORM" in environment  # set by JAX where there are TPU chips
    # Without names of hosts the machine's metadata tells, unless it must not be asked.
    known = hosts or "TPU_SKIP_MDS_QUERY" not in environment
    if on_tpu and known and environment.get("JAX_PLATFORMS", "tpu").startswith("tpu"):
        return Start("the TPU slice")
    return None


def _explicit(
    reason: str, coordinator: str | None, num_processes: int | None, process_id: int | None
) -> Start | None:
    parts = {
        "--coordinator": coordinator,
        "--num_processes": num_processes,
        "--process_id": process_id,
    }
    missing = [name for name, value in parts.items() if value is None]
    if missing:
        raise UserError(
            f"got {reason} without {', '.join(missing)}, expected all of {', '.join(parts)} (or "
            "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID); give the rest"
        )
    if not 0 <= process_id < num_processes:
        raise UserError(
            f"got process {process_id} of {num_processes}, expected 0..{num_processes - 1}; "
            "number the processes from zero"
        )
    if ":" not in coordinator:
        raise UserError(f"got coordinator {coordinator!r}, expected HOST:PORT; add a free port")
    return Start(reason, coordinator, num_processes, process_id)


def _slurm_devices(environment: Mapping[str, str]) -> tuple[int, ...] | None:
    """All GPUs of a node with a single task; with several tasks JAX assigns them itself."""
    tasks = environment.get("SLURM_STEP_TASKS_PER_NODE", "")
    gpus = _number(environment, "SLURM_GPUS_ON_NODE")
    return tuple(range(gpus)) if gpus and tasks.split("(")[0] == "1" else None


def _number(environment: Mapping[str, Any], name: str) -> int | None:
    value = environment.get(name)
    if value is None:
        return None
    if not value.isdigit():
        raise UserError(f"got {name}={value}, expected a whole number; correct it")
    return int(value)
