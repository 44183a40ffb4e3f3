"""Tar shards of pictures, as WebDataset has them: equal keys are one example.

NAME-000000.tar
  KEY.jpg            the colour picture, of any format
  KEY.sketch.png     its line art; KEY.sketch_thick.png, … are further styles
  KEY.mask.png       its foreground
  KEY.json           what an index says of it;  KEY.txt  its caption
"""

import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa

from data.errors import DataError
from data.sources import index_tables
from data.sources.files import open_file, stamp
from data.sources.names import is_hidden, is_picture, suffix
from data.sources.store import MAX_FILE, Listing, Place

_MAX_TEXT = 2**20  # bytes of one example's metadata
_KINDS = ("sketch", "mask")


def find_shards(root: Path) -> list[Path]:
    """The shards of a folder that is no folder of pictures."""
    if not root.is_dir() or (root / "color").is_dir():
        return []
    return sorted(path for path in root.iterdir() if path.suffix.lower() == ".tar")


def split_name(name: str) -> tuple[str, str]:
    """A member's name -> its key, and what follows: "a/b.sketch.png" -> ("a/b", "sketch.png")."""
    folder, slash, file = name.rpartition("/")
    key, _, rest = file.partition(".")
    return f"{folder}{slash}{key}", rest


def list_shards(root: Path) -> tuple[dict[str, Listing], pa.Table | None]:
    """What lies in the shards of a folder: kind of picture -> listing; and the examples' metadata.

    Raises:
        DataError: metadata is mistyped.
    """
    listings: dict[str, Listing] = {"color": Listing(names=[])}
    rows: list[tuple[str, dict[str, Any]]] = []
    for path in find_shards(root):
        listings["color"].stamps[str(path)] = stamp(path)
        try:
            with open_file(path) as file, tarfile.open(fileobj=file, mode="r:") as shard:
                for member in shard:
                    if member.isfile():
                        _add(path.name, shard, member, listings, rows)
        except (OSError, tarfile.TarError) as error:
            reason = f"is not a whole tar archive ({' '.join(str(error).split())})"
            listings["color"].problems.append((path.name, reason))
    merged: dict[str, dict[str, Any]] = {}
    for name, row in rows:
        merged[name] = merged.get(name, {}) | row
    table = index_tables.from_rows(root, merged.items(), published=False) if merged else None
    return listings, table


def _add(
    shard_name: str,
    shard: tarfile.TarFile,
    member: tarfile.TarInfo,
    listings: dict[str, Listing],
    rows: list[tuple[str, dict[str, Any]]],
) -> None:
    location = f"{shard_name}/{member.name}"
    key, rest = split_name(member.name)
    name = f"{shard_name}/{key}"
    problems = listings["color"].problems
    if any(is_hidden(part) for part in member.name.split("/")):
        problems.append((location, "is hidden"))
    elif rest.lower() in ("json", "txt"):
        content = shard.extractfile(member).read(_MAX_TEXT)
        rows.append((name, _metadata(location, rest.lower(), content)))
    elif not is_picture(member.name):
        problems.append((location, f"is no picture (suffix {suffix(member.name) or 'none'})"))
    elif member.size > MAX_FILE:
        problems.append((location, f"takes {member.size / 2**30:.1f} GiB"))
    else:
        kind = rest.split(".")[0] if rest.count(".") and rest.startswith(_KINDS) else "color"
        listing = listings.setdefault(kind, Listing(names=[]))
        listing.add(Place(location, member.offset_data, member.size))
        listing.names.append(name)


def _metadata(location: str, kind: str, content: bytes) -> dict[str, Any]:
    try:
        text = content.decode("utf-8")
        row = {"caption": text.strip()} if kind == "txt" else json.loads(text)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(
            f"got {location}, which is not {kind} ({error}), expected what an index says of its "
            "picture; mend it"
        ) from error
    if not isinstance(row, dict):
        raise DataError(f"got {location} holding {row!r}, expected an object; mend it")
    return {name: value for name, value in row.items() if name != "image_path"}
