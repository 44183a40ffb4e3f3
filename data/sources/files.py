"""Files on disks and in buckets: the one place that knows that some are read over a network.

A path with a scheme, such as gs://bucket/pictures, is opened by fsspec, whose drivers (gcsfs, s3fs,
…) are packages of their own. Of archives only the members' ranges are read, never the whole.
"""

import hashlib
import os
from pathlib import Path
from typing import Any, BinaryIO

from data.errors import DataError

_SCHEME = "://"
_VERSIONS = ("etag", "ETag", "md5Hash", "LastModified", "mtime", "created")  # of various drivers
_BLOCK = 2**18  # bytes read at a time where an archive's directory is looked through


def is_remote(path: str | os.PathLike) -> bool:
    """Whether a path has a scheme."""
    return _SCHEME in str(path)


def as_path(path: str | os.PathLike) -> Path:
    """A path, absolute; of a bucket one that lists and opens what lies there.

    Raises:
        DataError: a package for its scheme is missing.
    """
    if not is_remote(path):
        return Path(path).absolute()
    try:
        from upath import UPath

        found = UPath(path)
        found.fs  # noqa: B018 (finds the driver)
    except (ImportError, ValueError) as error:
        raise DataError(
            f"got {path} and no package that reads it ({error}), expected universal-pathlib and "
            "the driver of its scheme; pip install '.[remote]' and gcsfs, s3fs or another one"
        ) from error
    return found


def _driver(path: str | os.PathLike) -> tuple[Any, str]:
    """The file system of a remote path, and the path in it."""
    found = as_path(path)
    return found.fs, found.path


def stamp(path: str | os.PathLike) -> tuple[int, int]:
    """What changes with a file or folder; zeros where there is none.

    On disks (modification time in ns, bytes), of a folder without what lies below it; in buckets
    (digest, bytes) of the file, or of all that lies in the folder.
    """
    if not is_remote(path):
        try:
            status = os.stat(path)
        except OSError:
            return 0, 0
        return status.st_mtime_ns, 0 if os.path.isdir(path) else status.st_size
    fs, inner = _driver(path)
    try:
        one = fs.info(inner)
    except OSError:
        return 0, 0
    found = fs.find(inner, detail=True) if one["type"] == "directory" else {inner: one}
    digest = hashlib.sha256()
    for name, facts in sorted(found.items()):
        version = next((str(facts[key]) for key in _VERSIONS if key in facts), "")
        digest.update(f"{name}\n{facts['size']}\n{version}\n".encode())
    return int(digest.hexdigest()[:12], 16), sum(facts["size"] for facts in found.values())


def find_files(root: str) -> list[str]:
    """Locations below a remote folder of all files in it, sorted."""
    fs, inner = _driver(root)
    start = len(inner.rstrip("/")) + 1
    return sorted(path[start:] for path in fs.find(inner))


def is_file(path: str | os.PathLike) -> bool:
    """Whether there is a file, and no folder, of this path."""
    return as_path(path).is_file() if is_remote(path) else os.path.isfile(path)


def is_folder(path: str | os.PathLike) -> bool:
    """Whether there is a folder of this path."""
    return as_path(path).is_dir() if is_remote(path) else os.path.isdir(path)


def open_file(path: str | os.PathLike) -> BinaryIO:
    """Open a file to read here and there in it."""
    if not is_remote(path):
        return open(path, "rb")
    fs, inner = _driver(path)
    return fs.open(inner, "rb", block_size=_BLOCK)


def read_range(path: str, start: int, length: int) -> bytes:
    """Read at most `length` bytes of a file from `start` on, in one request.

    Raises:
        OSError: it cannot be read.
    """
    if not is_remote(path):
        with open(path, "rb") as file:
            file.seek(start)
            # Room for all of `length` would be made first, however short the file is.
            return file.read(min(length, max(0, os.fstat(file.fileno()).st_size - start)))
    fs, inner = _driver(path)
    try:
        return fs.cat_file(inner, start=start, end=start + length)
    except OSError:
        raise
    except Exception as error:  # drivers raise what their clients raise
        raise OSError(None, " ".join(str(error).split()) or type(error).__name__) from error
