"""The output of one job: whose it is, what is done of it, and how files are put into it.

All that is not the set itself lies in OUTPUT/.prepare/. Whatever is written comes whole or not at
all, and the same each time, so that a job that was killed goes on with the same command.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import DataError
from data.prepare.jobs.options import Options
from data.sources.store import Listing, list_folder

VERSION = 1
FOLDER = ".prepare"
_HALF = ".tmp"  # how names of files end that are being written
SURVEY_SIZE = 1000  # pictures that are looked at between two marks


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Write a file that is there whole or not at all, whoever else writes the same one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{_HALF}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)  # it may be what fills the disk
        raise


def write_table(path: Path, table: pa.Table, group: int | None = None) -> None:
    """Write Parquet that is the same for the same table, so many rows to a group."""
    with replacing(path) as file:
        pq.write_table(table, file, compression="zstd", row_group_size=group)


def write_json(path: Path, content: Any) -> None:
    """Write JSON."""
    with replacing(path) as file:
        file.write((json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def list_pictures(options: Options) -> Listing:
    """What there is in the input.

    Raises:
        DataError: it is no folder, holds no picture, or lies around or in the output.
    """
    listing = list_folder(options.pictures)
    if not listing.locations:
        why = f" ({len(listing.problems)} files are none)" if listing.problems else ""
        raise DataError(
            f"got no pictures in {options.pictures}{why}, expected some, as files, in folders or "
            "in zip and tar archives; check the path"
        )
    root, output = (Path(path).resolve() for path in (options.pictures, options.output))
    if root == output or root in output.parents or output in root.parents:
        raise DataError(
            f"got output {options.output} and pictures {options.pictures}, one of which lies in "
            "the other, expected separate folders: the input is never written to; choose another"
        )
    return listing


@contextlib.contextmanager
def claimed(options: Options, listing: Listing) -> Iterator[Path]:
    """Take the output for this job, alone.

    Yields:
        Its folder for notes.

    Raises:
        DataError: it belongs to another input or was begun with other options, holds other things,
            or another process is at work in it.
    """
    output = Path(options.output)
    notes = output / FOLDER
    if output.is_dir() and not notes.is_dir() and any(output.iterdir()):
        raise DataError(
            f"got output {output} that holds other things, expected a new folder, or one of this "
            "command; choose another name"
        )
    notes.mkdir(parents=True, exist_ok=True)
    with (notes / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(
                f"got output {output}, in which another process is at work, expected none; wait "
                "for it"
            ) from None
        _check_owner(notes / "job.json", options, listing)
        _clear(output)
        yield notes
        _clear(output)


def _clear(output: Path) -> None:
    """Remove what killed writers have left."""
    for path in output.rglob(f".*{_HALF}"):
        path.unlink(missing_ok=True)


def _check_owner(path: Path, options: Options, listing: Listing) -> None:
    names = hashlib.sha256("\n".join(listing.locations).encode(errors="replace")).hexdigest()
    job = {
        "version": VERSION,
        "input": str(Path(options.pictures).resolve()),
        "pictures": len(listing.locations),
        "names": names[:16],
        "settings": options.settings(),
    }
    if not path.exists():
        write_json(path, job)
        return
    begun = json.loads(path.read_text(encoding="utf-8"))
    if begun.get("version") != VERSION:
        got, expected = f"begun by version {begun.get('version')}", f"version {VERSION}"
    elif begun["names"] != job["names"]:
        got = f"that belongs to {begun['pictures']} pictures of {begun['input']}"
        expected = f"the {job['pictures']} of {job['input']}"
    else:
        names = sorted(begun["settings"].keys() | job["settings"].keys())
        other = [n for n in names if begun["settings"].get(n) != job["settings"].get(n)]
        if not other:
            return
        got = "begun with " + ", ".join(f"{n} {begun['settings'].get(n)}" for n in other)
        expected = ", ".join(f"{n} {job['settings'].get(n)}" for n in other)
    raise DataError(
        f"got output {options.output} {got}, expected {expected}; choose another output, or remove "
        "it"
    )


def check_room(output: Path, needed: float) -> None:
    """Raise DataError where a disk has less room than so many bytes."""
    free = shutil.disk_usage(output).free
    if needed > free:
        raise DataError(
            f"got {free / 1e9:.2f} GB free for {output}, expected about {needed / 1e9:.2f} GB that "
            "the set will still take; make room, choose another disk, or leave out styles of lines"
        )
