"""Outputs that appear whole or not at all."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from colorize_jax.errors import UserError


@contextmanager
def atomic_output(
    path: str | Path, *, nbytes: int, directory: bool = False, overwrite: bool = False
) -> Iterator[Path]:
    """Yield a temporary name beside `path`; rename it to `path` when the block ends well.

    Args:
        path: file or folder to make.
        nbytes: how much will be written; checked against the free space before anything is.
        directory: make a folder (the temporary one exists when the block begins) and not a file.
        overwrite: replace what is at `path`.

    Raises:
        UserError: `path` exists, cannot be written, or the disk is or becomes full. Whatever the
            error, nothing half-written is left and what was at `path` is untouched.
    """
    path = Path(path)
    if os.path.lexists(path) and not overwrite:
        raise UserError(f"got output {path} that exists, expected a new name; or pass --overwrite")
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
        if nbytes > free:
            raise _full(path, f"{nbytes / 2**30:.2f} GiB needed, {free / 2**30:.2f} GiB free")
        if directory:
            temporary.mkdir()
        yield temporary
        _replace(temporary, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(path, os.strerror(error.errno)) from error
        raise UserError(
            f"got output {path} that cannot be written ({error.strerror or error}), expected a "
            "writable place; choose another"
        ) from error
    finally:
        _remove(temporary)


def _replace(temporary: Path, path: Path) -> None:
    """Rename, after moving an old folder out of the way (rename replaces only empty ones)."""
    if path.is_dir() and not path.is_symlink():
        old = path.with_name(f".{path.name}.old-{os.getpid()}")
        path.rename(old)
        temporary.rename(path)
        shutil.rmtree(old)
    else:
        temporary.replace(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    elif os.path.lexists(path):
        path.unlink()


def _full(path: Path, detail: str) -> UserError:
    return UserError(
        f"got a full disk while writing {path} ({detail}), expected room for it; free some or "
        "choose another disk (nothing half-written was left)"
    )
