"""Shards of encodings: which pictures each holds, and how one is written whole or not at all.

ROOT/manifest.json               what was encoded, by what, and how
ROOT/SPLIT-00003-of-00120.array_record   records, see `arrays`
ROOT/SPLIT-00003-of-00120.json           their pictures' numbers, where in the file they lie (for
                                         reading from buckets), and which were left out

A shard's file is there when all of it is: it is written under another name and then renamed.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from array_record.python.array_record_module import ArrayRecordWriter

from data.encoded.ranges import find_records
from data.errors import DataError
from data.sources.files import is_remote, read_range

FORMAT = "colorize-jax encodings 1"
MANIFEST = "manifest.json"
TRAIN, HELD_OUT = "train", "heldout"
_SUFFIX = ".array_record"
_READING_THREADS, _MOST_TEXT = 16, 2**30
_WRITER = "group_size:1,uncompressed"  # one record a read; floats hardly compress


class Shard(NamedTuple):
    """A part of the work.

    Attributes:
        name: of its files, without a suffix.
        variant: which of the crops a picture.
        bucket: (height, width) of its pictures, px; None: they all have the config's own.
        indices: of the pictures in the source, in the order of the records.
    """

    name: str
    variant: int
    bucket: tuple[int, int] | None
    indices: np.ndarray


def plan(
    split: str,
    members: Mapping[tuple[int, int] | None, np.ndarray],
    num_variants: int,
    shard_size: int,
) -> list[Shard]:
    """Divide pictures into shards.

    Args:
        split: which of the set's parts.
        members: bucket -> numbers of its pictures.
        num_variants: how often each picture is encoded.
        shard_size: most pictures in one.
    """
    parts = [
        (variant, bucket, np.sort(indices)[start : start + shard_size])
        for variant in range(num_variants)
        for bucket, indices in members.items()
        for start in range(0, len(indices), shard_size)
    ]
    return [
        Shard(f"{split}-{number:05}-of-{len(parts):05}", *part) for number, part in enumerate(parts)
    ]


def is_written(root: Path, shard: Shard) -> bool:
    """Whether a shard is there, whole."""
    return (root / (shard.name + _SUFFIX)).is_file()


@contextlib.contextmanager
def writing(root: Path) -> Iterator[None]:
    """Raise DataError for what cannot be written; ArrayRecord's writer raises RuntimeError."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise DataError(
            f"got output {root} that cannot be written ({reason}), expected a writable place with "
            "room; the same command goes on where it was"
        ) from error


class ShardWriter:
    """Writes one shard; it is there once `close` has returned, and not before.

    Args:
        root: folder of the set.
        shard: which.
    """

    def __init__(self, root: Path, shard: Shard) -> None:
        self._shard, self._root = shard, root
        self._temporary = root / f".{shard.name}.tmp"
        with writing(root):
            self._writer = ArrayRecordWriter(str(self._temporary), _WRITER)
        self._indices: list[int] = []
        self._names: list[str] = []
        self._skipped: dict[str, str] = {}

    def write(self, index: int, name: str, content: bytes) -> None:
        """Add the record of picture `index`."""
        with writing(self._root):
            self._writer.write(content)
        self._indices.append(index)
        self._names.append(name)

    def skip(self, name: str, reason: str) -> None:
        """Note a picture that cannot be used."""
        self._skipped[name] = reason

    def close(self) -> None:
        """Finish the shard.

        Raises:
            DataError: it cannot be written, as from all other methods.
        """
        known = {
            "variant": self._shard.variant,
            "bucket": self._shard.bucket,
            "indices": self._indices,
            "names": self._names,
            "skipped": self._skipped,
        }
        with writing(self._root):
            self._writer.close()
            _sync(self._temporary)
            known["places"] = find_records(self._temporary, len(self._indices))
            write_json(self._root / f"{self._shard.name}.json", known)
            self._temporary.replace(self._root / (self._shard.name + _SUFFIX))
            _sync(self._root)


def write_json(path: Path, content: Any) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content))
    _sync(temporary)
    temporary.replace(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _text(path: Path) -> str:
    return read_range(str(path), 0, _MOST_TEXT).decode()


def local_folder(root: str | os.PathLike) -> Path:
    """The folder that a set is written to.

    Raises:
        DataError: it lies in a bucket.
    """
    if is_remote(root):
        raise DataError(
            f"got output {root}, expected a folder on a disk, which is all that the writer of "
            "ArrayRecord files knows; copy the set there when it is done: runs read it from there"
        )
    return Path(root).absolute()


def read_manifest(root: Path) -> dict[str, Any]:
    """What a set of encodings says of itself.

    Raises:
        DataError: there is none.
    """
    try:
        content = json.loads(_text(root / MANIFEST))
    except FileNotFoundError:
        content = {}
    except (OSError, ValueError) as error:
        raise DataError(
            f"got {root / MANIFEST}, which cannot be read ({error}), expected the manifest of "
            "encodings; run `python -m colorize_jax encode` again"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(
            f"got {root} without a {MANIFEST} of {FORMAT!r}, expected a folder that "
            "`python -m colorize_jax encode` wrote; check data.path"
        )
    return content


@dataclass
class Written:
    """The shards of a split.

    Attributes:
        paths: of their files.
        counts: records in each.
        variants, buckets: of each.
        indices: of all records' pictures, shard after shard.
        names: of the same pictures.
        places: (N, 2) start and length of the same records in their files; (0, 2) where the set
            does not say it.
        num_skipped: how many pictures were left out.
    """

    paths: list[Path] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    variants: list[int] = field(default_factory=list)
    buckets: list[tuple[int, int]] = field(default_factory=list)
    indices: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    names: pa.ChunkedArray | None = None
    places: np.ndarray = field(default_factory=lambda: np.empty((0, 2), np.int64))
    num_skipped: int = 0


def read_shards(root: Path, split: str, num_shards: int, own: tuple[int, int]) -> Written:
    """Find the shards of a split.

    Args:
        root: folder of the set.
        split: which part.
        num_shards: how many there have to be.
        own: height and width of pictures that have no bucket.

    Raises:
        DataError: some are missing.
    """
    paths = sorted(root.glob(f"{split}-*-of-{num_shards:05}{_SUFFIX}"))
    if len(paths) != num_shards or not num_shards:
        raise DataError(
            f"got {root} with {len(paths)} of {num_shards} shards of {split}, expected all of "
            "them; let `python -m colorize_jax encode` with the same options finish"
        )
    with ThreadPoolExecutor(_READING_THREADS) as pool:  # from a bucket they take a while each
        texts = list(pool.map(_text, [path.with_suffix(".json") for path in paths]))
    found, indices, names, places = Written(paths=paths), [], [], []
    for known in map(json.loads, texts):
        found.counts.append(len(known["indices"]))
        found.variants.append(known["variant"])
        found.buckets.append(tuple(known["bucket"] or own))
        found.num_skipped += len(known["skipped"]) if known["variant"] == 0 else 0
        indices.append(np.array(known["indices"], np.int64))
        names.append(pa.array(known["names"], pa.large_string()))
        places.append(np.array(known.get("places", ()), np.int64).reshape(-1, 2))
    found.indices, found.names = np.concatenate(indices), pa.chunked_array(names)
    found.places = np.concatenate(places)
    return found
