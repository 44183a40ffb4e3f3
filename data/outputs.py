"""Files that commands of this package write for their user: whole or not at all."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from data.errors import DataError


def check_output(
    path: str | Path, *, overwrite: bool = False, reads: Iterable[str | Path] = ()
) -> None:
    """Refuse an output before any work is done for it.

    Args:
        path: file to make.
        overwrite: replace it where it exists.
        reads: files and folders that the command reads: neither they nor what exists in them is
            ever replaced.

    Raises:
        DataError: it exists, is a folder, or belongs to what is read.
    """
    if not os.path.lexists(path):
        return
    if os.path.isdir(path):
        raise DataError(f"got output {path}, a folder, expected a file; name a file in it")
    own = {os.path.abspath(path), os.path.realpath(path)}
    for read in reads:
        folders = {os.path.abspath(read), os.path.realpath(read)}
        if any(
            one == folder or one.startswith(folder + os.sep) for one in own for folder in folders
        ):
            raise DataError(
                f"got output {path}, which belongs to {read} that this command reads, expected "
                "another place; choose another name"
            )
    if not overwrite:
        raise DataError(f"got output {path} that exists, expected a new name; or pass --overwrite")


@contextlib.contextmanager
def whole_file(
    path: str | Path, *, overwrite: bool = False, reads: Iterable[str | Path] = ()
) -> Iterator[Path]:
    """Yield a temporary name beside `path`; rename it to `path` when the block ends well.

    Args:
        path, overwrite, reads: see `check_output`.

    Raises:
        DataError: as for `check_output`, or it cannot be written. Nothing half-written is left.
    """
    check_output(path, overwrite=overwrite, reads=reads)
    path = Path(path)
    temporary = path.with_name(f".tmp-{os.getpid()}-{hash(path.name) & 0xFFFFFFFF:08x}")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise DataError(
            f"got output {path} that cannot be written ({error.strerror or error}), expected a "
            "writable place; choose another"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
