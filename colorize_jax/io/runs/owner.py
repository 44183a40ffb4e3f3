"""Who may write to a workdir: one run at a time, wherever the workdir lies.

    DIR/owner.json      host, process, and a number that rises as long as the process lives

Whether a process of the same machine lives, the system tells; one of another machine is alive as
long as its number rises. The workdir of a dead owner can be taken over.
"""

import fcntl
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from colorize_jax.errors import UserError
from colorize_jax.io.runs.workdir import PathLike, absolute, reaching

OWNER_FILE = "owner.json"
LOCK_FILE = ".owner.lock"  # held for the moment of a take-over, where the file system has locks
BEAT_SECONDS = 10.0
PATIENCE_SECONDS = 35.0  # without a beat for so long, another machine's owner is dead
STORES = ("gs://",)  # where Orbax can write
SETTLE_SECONDS = 2.0  # object stores have no locks: who is still there afterwards has won
# What file systems and object stores' clients raise.
STORE_ERRORS = (OSError, ValueError, RuntimeError)

logger = logging.getLogger(__name__)


class Owner:
    """Holds a workdir from `take` to the end of its context; the first process does, for all.

    with Owner(workdir) as owner:
        owner.take()
    """

    def __init__(self, workdir: PathLike):
        """Hold nothing yet."""
        self._workdir = absolute(workdir)
        self._path = self._workdir / OWNER_FILE
        self._token = uuid.uuid4().hex
        self._beat = 0
        self._started = datetime.now(UTC).isoformat(timespec="seconds")
        self._other: Mapping[str, Any] | None = None
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Owner":
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._thread is None:
            return
        self._end.set()
        self._thread.join()
        with suppress(*STORE_ERRORS):
            if (self._read() or {}).get("token") == self._token:
                self._path.unlink()

    def take(self) -> None:
        """Take the workdir.

        Raises:
            UserError: another process that lives holds it, or it cannot be written.
        """
        text = str(self._workdir)
        if "://" in text and not text.startswith(STORES):
            raise UserError(
                f"got workdir {text}, expected a folder or gs://: Orbax writes no checkpoints to "
                "other stores; mount the bucket as a file system that can rename, or choose another"
            )
        error = None
        if jax.process_index() == 0:
            try:
                with reaching(self._workdir):
                    self._take()
            except UserError as caught:
                error = caught
        if jax.process_count() > 1:
            failed = multihost_utils.broadcast_one_to_all(np.int32(error is not None))
            if failed and error is None:
                error = UserError(
                    f"got workdir {self._workdir} that the first process of this run could not "
                    "take, expected it to; see what that process says"
                )
        if error is not None:
            raise error
        if jax.process_index() == 0:
            self._thread = threading.Thread(target=self._keep, name="owner", daemon=True)
            self._thread.start()

    def check(self) -> None:
        """Raise UserError where another process has taken the workdir in the meantime."""
        if self._other is not None:
            raise UserError(
                f"got workdir {self._workdir} that {_name(self._other)} took over while this run "
                f"gave no sign of life for {PATIENCE_SECONDS:.0f} s, expected to hold it; let that "
                "one go on: this one writes nothing more"
            )

    def _take(self) -> None:
        found = self._read()
        self._workdir.mkdir(parents=True, exist_ok=True)
        if found is not None and not self._is_dead(found):
            raise self._held(found)
        with _locked(self._workdir / LOCK_FILE):
            # Somebody else may have been faster.
            again = self._read()
            if again is not None and again != found:
                raise self._held(again)
            self._write()
        if "://" in str(self._workdir):
            time.sleep(SETTLE_SECONDS)
            now = self._read()
            if now is not None and now["token"] != self._token:
                raise self._held(now)
        if found is not None:
            logger.info("%s, which held the workdir, is gone: taking over", _name(found))

    def _held(self, found: Mapping[str, Any]) -> UserError:
        return UserError(
            f"got workdir {self._workdir} that {_name(found)} holds since {found['started']}, "
            "expected one that nobody writes to; stop that run, or choose another workdir"
        )

    def _is_dead(self, found: Mapping[str, Any]) -> bool:
        if found["machine"] == _machine():
            return _process_start(found["pid"]) != found["process_start"]
        logger.info("waiting for a sign of life of %s, which held the workdir", _name(found))
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            time.sleep(min(1.0, PATIENCE_SECONDS / 10))
            now = self._read()
            if now is None:
                return True
            if now != found:
                return False
        return True

    def _keep(self) -> None:
        while not self._end.wait(BEAT_SECONDS):
            try:
                found = self._read()
                if found is not None and found["token"] != self._token:
                    self._other = found
                    return
                self._beat += 1
                self._write()
            except STORE_ERRORS as error:
                logger.warning("WARNING: the sign of life in %s failed (%s)", self._path, error)

    def _write(self) -> None:
        content = {
            "host": socket.gethostname(),
            "machine": _machine(),
            "pid": os.getpid(),
            "process_start": _process_start(os.getpid()),
            "started": self._started,
            "token": self._token,
            "beat": self._beat,
        }
        text = json.dumps(content, indent=2) + "\n"
        if "://" in str(self._path):
            self._path.write_text(text)  # objects appear whole
            return
        temporary = self._path.with_name(f".{OWNER_FILE}.{self._token}")
        try:
            temporary.write_text(text)
            temporary.replace(self._path)
        finally:
            temporary.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any] | None:
        """The owner that is noted; None where there is none, or none that can be read."""
        try:
            content = json.loads(self._path.read_text())
            names = ("host", "machine", "pid", "process_start", "started", "token", "beat")
            return {name: content[name] for name in names}
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            return None


def _name(owner: Mapping[str, Any]) -> str:
    return f"process {owner['pid']} of {owner['host']}"


def _machine() -> str:
    """Identifies processes that can see each other: host, its boot and its process namespace."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _process_start(pid: int) -> str | None:
    """When a process of this machine started, in a form that only compares; None for no process."""
    try:
        # Behind the name, which may hold anything: state is field 3, the start field 22.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except OSError:
        pass
    if Path("/proc/self/stat").exists():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return "alive"


@contextmanager
def _locked(path: Any) -> Iterator[None]:
    """Hold a file's lock, where its file system has locks."""
    if "://" in str(path):
        yield
        return
    with open(path, "a") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
