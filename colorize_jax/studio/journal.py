"""Jobs on disk: what became of each, also after the process was killed."""

import dataclasses
import fcntl
import json
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from colorize_jax.errors import UserError
from colorize_jax.inference.metadata import PictureMetadata, save_png
from colorize_jax.io.formats.atomic import atomic_output

QUEUED, RUNNING, DONE, FAILED = "queued", "running", "done", "failed"
CANCELLED, LOST = "cancelled", "lost"
UNFINISHED = (QUEUED, RUNNING)
STATUSES = (*UNFINISHED, DONE, FAILED, CANCELLED, LOST)

# Why a job failed: the client's fault, too large for the device, or ours.
INPUT, MEMORY, INTERNAL = "input", "memory", "internal"

ID = re.compile(r"[0-9a-f]{32}")
RECORD, PICTURE, LOCK = "job.json", "picture.png", ".lock"
LOST_REASON = "the server ended before the picture was made; send it again"


@dataclass(frozen=True)
class JobRecord:
    """All that is told about a job.

    Attributes:
        id: 32 hexadecimal digits, which nobody can guess.
        owner: name of the key that it was sent with; empty where there are no keys.
        options: all of them, with the seed.
        status: one of STATUSES.
        created, started, finished: seconds since 1970; None: not yet.
        steps_done: evaluations of the UNet.
        steps: how many it needs; None where the sampler decides itself.
        error: why it failed or was lost, in one sentence.
        error_kind: INPUT, MEMORY or INTERNAL.
        warning: what is doubtful about the sketch, in one sentence.
    """

    id: str
    owner: str
    options: dict[str, Any]
    status: str = QUEUED
    created: float = 0.0
    started: float | None = None
    finished: float | None = None
    steps_done: int = 0
    steps: int | None = None
    error: str | None = None
    error_kind: str | None = None
    warning: str | None = None

    @classmethod
    def new(cls, owner: str, options: dict[str, Any], warning: str | None = None) -> "JobRecord":
        """Start a record under a new number."""
        return cls(secrets.token_hex(16), owner, options, created=time.time(), warning=warning)

    def change(self, **changes: Any) -> "JobRecord":
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)


class Journal:
    """A folder with one folder for each job: its record and, once it is done, its picture."""

    def __init__(self, folder: str | Path, keep: int = 10_000):
        """Take a folder for this process alone, and say of unfinished jobs that they are lost.

        Args:
            folder: made if it is missing.
            keep: so many jobs are kept; the oldest are removed.

        Raises:
            UserError: the folder cannot be written, or another server uses it.
        """
        self.folder, self._keep = Path(folder).resolve(), keep
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.folder / LOCK, "w")  # noqa: SIM115, held as long as the process
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"got outputs {folder} that another server writes, expected a folder of its own; "
                "choose another with --outputs"
            ) from error
        except OSError as error:
            raise UserError(
                f"got outputs {folder} that cannot be written ({error.strerror}), expected a "
                "writable place; choose another with --outputs"
            ) from error
        records = sorted(self._records(), key=lambda record: record.created)
        self._ids = [record.id for record in records]
        for record in records:
            if record.status in UNFINISHED:
                self.write(record.change(status=LOST, finished=time.time(), error=LOST_REASON))

    def close(self) -> None:
        """Let another process have the folder."""
        self._lock.close()

    def write(self, record: JobRecord) -> None:
        """Store a record in the place of its earlier one."""
        path = self.folder / record.id / RECORD
        text = json.dumps(dataclasses.asdict(record))
        with atomic_output(path, nbytes=len(text), overwrite=True) as place:
            place.write_text(text)

    def add(self, record: JobRecord) -> None:
        """Store a new record; the oldest finished one makes room for it."""
        self.write(record)
        self._ids.append(record.id)
        while len(self._ids) > self._keep:
            self._forget(self._ids.pop(0))

    def read(self, job_id: str) -> JobRecord | None:
        """Return a job's record; None: there is no such job."""
        if not ID.fullmatch(job_id):
            return None
        try:
            content = json.loads((self.folder / job_id / RECORD).read_text())
            return JobRecord(**content)
        except (OSError, ValueError, TypeError):
            return None

    def latest(self, count: int) -> list[JobRecord]:
        """The latest jobs, newest first."""
        found = (self.read(job_id) for job_id in reversed(self._ids[-count:]))
        return [record for record in found if record is not None]

    def save(self, record: JobRecord, image: Image.Image, made_with: PictureMetadata) -> None:
        """Store a job's picture.

        Raises:
            UserError: it cannot be written.
        """
        save_png(image, self.picture(record.id), made_with, overwrite=True)

    def picture(self, job_id: str) -> Path:
        """Where the picture of a job that `read` knows is, or will be."""
        return self.folder / job_id / PICTURE

    def _records(self) -> Iterator[JobRecord]:
        for path in self.folder.iterdir():
            record = self.read(path.name)
            if record is not None:
                yield record

    def _forget(self, job_id: str) -> None:
        for name in (RECORD, PICTURE):
            (self.folder / job_id / name).unlink(missing_ok=True)
        (self.folder / job_id).rmdir()
