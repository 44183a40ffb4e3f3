"""Outputs that appear whole or not at all, and never on top of what is read.

Everything that a command writes for its user goes through `atomic_output`. What it reads it names
as `Reads`, so that no output is one of its inputs or holds one, however either path is spelt.
A folder that `atomic_output` made carries a list of its files, by which it is known again: only
such a folder is ever replaced.
"""

import ctypes
import errno
import json
import os
import shutil
import socket
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from colorize_jax.errors import UserError

# In every folder that we make: what kind it is, and the files in it.
LISTING = ".colorize-jax.json"
FORMAT = "colorize-jax folder 1"
TEMPORARY = ".colorize-jax-tmp"
RENAME_EXCHANGE = 2  # of Linux's renameat2
AT_FDCWD = -100
MAX_LISTED = 3
SETTLE_SECONDS, SETTLE_LOOKS = 0.1, 50


class Reads:
    """What a command reads."""

    def __init__(self, paths: Mapping[str, Iterable[str | Path | None]] | None = None):
        """Collect paths.

        Args:
            paths: role ("sketch", "checkpoint", ...) -> files and folders; None and URLs of object
                stores, which no output can meet, are passed over.
        """
        self._roles: dict[str, str] = {}
        self._inodes: dict[tuple[int, int], str] = {}
        for role, group in (paths or {}).items():
            for path in group:
                if path is not None and "://" not in str(path):
                    self._note(role, Path(path))

    def _note(self, role: str, path: Path) -> None:
        named = f"the {role} {path}"
        for spelling in _spellings(path):
            self._roles.setdefault(spelling, named)
        with suppress(OSError, ValueError):
            status = os.stat(path)
            self._inodes.setdefault((status.st_dev, status.st_ino), named)

    def check(self, output: Path) -> None:
        """Make sure that an output is none of these paths, holds none and replaces no part of one.

        Raises:
            UserError: it is, does, or would; the path that is read is named.
        """
        own = _spellings(output)
        found = next((self._roles[spelling] for spelling in own if spelling in self._roles), None)
        with suppress(OSError, ValueError):
            status = os.stat(output)
            found = found or self._inodes.get((status.st_dev, status.st_ino))
        if found:
            raise _onto(output, "is", found)
        if os.path.isdir(output):
            above = tuple(spelling.rstrip(os.sep) + os.sep for spelling in own)
            for spelling, named in self._roles.items():
                if spelling.startswith(above):
                    raise _onto(output, "holds", named)
        if os.path.lexists(output):
            for spelling in own:
                for parent in map(str, Path(spelling).parents):
                    if parent in self._roles:
                        raise _onto(output, "is a part of", self._roles[parent])


NOTHING = Reads()


def check_output(
    path: str | Path,
    *,
    kind: str | None = None,
    overwrite: bool = False,
    reads: Reads = NOTHING,
) -> None:
    """Refuse an output that `atomic_output` would refuse, before any work is done for it.

    Args:
        path: file or folder to make.
        kind: of the folder; None: a file.
        overwrite: replace what is at `path`: a file, or a folder of this kind that we made.
        reads: what the command reads.

    Raises:
        UserError: see `Reads.check`; `path` exists without `overwrite`, is something else than what
            it shall become, or cannot be reached.
    """
    path = Path(path)
    reads.check(path)
    try:
        os.lstat(path)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from error
    if kind is None and path.is_dir():
        raise UserError(f"got output {path}, a folder, expected a file; name a file in it")
    if not overwrite:
        raise UserError(f"got output {path} that exists, expected a new name; or pass --overwrite")
    if kind is None:
        return
    if path.is_symlink() or not path.is_dir():
        raise UserError(f"got output {path}, no folder of its own, expected one; choose another")
    foreign = _foreign(path, kind)
    if foreign:
        raise UserError(
            f"got output {path}, a folder {foreign}, expected {kind} as this program writes it: "
            "nothing else is ever replaced; choose another name or remove it yourself"
        )


@contextmanager
def atomic_output(
    path: str | Path,
    *,
    nbytes: int,
    kind: str | None = None,
    overwrite: bool = False,
    reads: Reads = NOTHING,
) -> Iterator[Path]:
    """Yield a temporary name beside `path`; rename it to `path` when the block ends well.

    Args:
        path: file or folder to make.
        nbytes: how much will be written; checked against the free space before anything is.
        kind: what the folder to make is, e.g. "a folder of weights" (the temporary one exists when
            the block begins); None: a file.
        overwrite, reads: see `check_output`.

    Raises:
        UserError: as for `check_output`; `path` cannot be written, or the disk is or becomes full.
            Whatever the error, nothing half-written is left and what was at `path` is untouched.
    """
    path = Path(path)
    check_output(path, kind=kind, overwrite=overwrite, reads=reads)
    temporary = path.parent / _temporary_name(path.name, os.getpid())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        free = shutil.disk_usage(path.parent).free
        if nbytes > free:
            raise _full(path, f"{nbytes / 2**30:.2f} GiB needed, {free / 2**30:.2f} GiB free")
        if kind is not None:
            temporary.mkdir()
        yield temporary
        if kind is None:
            temporary.replace(path)
        else:
            _list_files(temporary, kind)
            _replace_folder(temporary, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(path, os.strerror(error.errno)) from error
        raise _unwritable(path, error) from error
    finally:
        _remove_finally(temporary)


def _spellings(path: Path) -> tuple[str, ...]:
    """The path as it is written, and where its links lead."""
    return tuple(dict.fromkeys((os.path.abspath(path), os.path.realpath(path))))


def _onto(output: Path, relation: str, named: str) -> UserError:
    return UserError(
        f"got output {output}, which {relation} {named} that this command reads, expected another "
        "place; choose another name"
    )


def _list_files(folder: Path, kind: str) -> None:
    content = {"format": FORMAT, "kind": kind, "files": sorted(_files(folder))}
    (folder / LISTING).write_text(json.dumps(content, indent=0) + "\n")


def _files(folder: Path) -> Iterator[str]:
    for parent, _, names in os.walk(folder):
        for name in names:
            relative = os.path.relpath(os.path.join(parent, name), folder)
            if relative != LISTING:
                yield relative


def _foreign(folder: Path, kind: str) -> str | None:
    """Say what in a folder is not ours, or that it is of another kind; None for our own."""
    try:
        listing = json.loads((folder / LISTING).read_text())
        ours = listing["format"] == FORMAT
        found_kind, files = listing["kind"], set(listing["files"])
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        return "that this program did not make" if any(folder.iterdir()) else None
    if found_kind != kind:
        return f"that is {found_kind}"
    others = sorted(set(_files(folder)) - files)
    if others:
        more = "" if len(others) <= MAX_LISTED else f" and {len(others) - MAX_LISTED} more"
        return f"that also holds {', '.join(others[:MAX_LISTED])}{more}"
    return None


def _replace_folder(temporary: Path, path: Path) -> None:
    """Give a folder its name; an old one under this name is gone in the same instant."""
    if not os.path.lexists(path):
        temporary.rename(path)
    elif not _exchange(temporary, path):
        # Where the system cannot exchange two names there is an instant without either.
        old = path.parent / (_temporary_name(path.name, os.getpid()) + "-old")
        path.rename(old)
        temporary.rename(path)
        _remove(old)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names atomically; False where the system or the file system cannot."""
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    paths = os.fsencode(one), os.fsencode(other)
    return function(AT_FDCWD, paths[0], AT_FDCWD, paths[1], RENAME_EXCHANGE) == 0


def _temporary_name(name: str, pid: int) -> str:
    """A name as short for every output; of this machine's process `pid`."""
    return f"{_temporary_prefix(name)}{pid}"


def _temporary_prefix(name: str) -> str:
    parts = (name.encode("utf-8", "surrogateescape"), socket.gethostname().encode())
    return "-".join((TEMPORARY, *(f"{zlib.crc32(part):08x}" for part in parts), ""))


def _remove_leftovers(path: Path) -> None:
    """Remove what processes of this machine that were killed have left of the same output."""
    for leftover in path.parent.glob(_temporary_prefix(path.name) + "*"):
        pid = leftover.name.rsplit("-", 1)[-1]
        if pid.isdigit() and int(pid) != os.getpid() and not is_alive(int(pid)):
            _remove(leftover)


def is_alive(pid: int) -> bool:
    """Whether this machine runs a process of this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # a process of another user
        return True
    return True


def _remove_finally(path: Path) -> None:
    """Remove a path and what threads that a failure has not reached yet still write into it."""
    for _ in range(SETTLE_LOOKS):
        if not os.path.lexists(path):
            return
        _remove(path)
        time.sleep(SETTLE_SECONDS)


def _remove(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif os.path.lexists(path):
            path.unlink()


def _unwritable(path: Path, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    return UserError(
        f"got output {path} that cannot be written ({reason}), expected a writable place; choose "
        "another"
    )


def _full(path: Path, detail: str) -> UserError:
    return UserError(
        f"got a full disk while writing {path} ({detail}), expected room for it; free some or "
        "choose another disk (nothing half-written was left)"
    )
