"""Pictures in folders, zip and tar archives: which there are, and the bytes of one of them.

A picture's location is its path below the folder; the members of `a/b.zip` are `a/b.zip/member`.
Archives are listed once. Afterwards a member is read by its offset, without its archive's
directory, so that millions in thousands of archives cost neither memory nor time.
"""

import os
import struct
import tarfile
import zipfile
import zlib
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.errors import DataError, PictureError
from data.sources.files import (
    find_files,
    is_file,
    is_folder,
    is_remote,
    open_file,
    read_range,
    stamp,
)
from data.sources.names import is_archive, is_hidden, is_picture, suffix

MAX_FILE = 2**28  # bytes of one picture; more is a mistake, or an archive made to fill memory
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_SIGNATURE = b"PK\x03\x04"
_STORED, _DEFLATED = 0, 8
_ENCRYPTED = 0x1
_MEMBER_NAME = 2**9  # bytes of most members' names, read together with the members


class Place(NamedTuple):
    """Where the bytes of a picture are.

    Attributes:
        location: below the folder.
        offset: of its local header in a zip archive, of itself in a tar; -1 for a file of its own.
        size: in the archive, compressed, bytes.
        crc: CRC-32 of the content; 0 in tars, which have none.
    """

    location: str
    offset: int = -1
    size: int = 0
    crc: int = 0


@dataclass
class Listing:
    """What a folder holds.

    Attributes:
        locations: of pictures, sorted by folder.
        offsets, sizes, crcs: parts of their `Place`s.
        problems: (location, reason) of everything else.
        names: what the pictures are called by others, where that is not their location.
        stamps: path -> `files.stamp` of the folders and archives looked at.
    """

    locations: list[str] = field(default_factory=list)
    offsets: array = field(default_factory=lambda: array("q"))  # a list would take 40 bytes each
    sizes: array = field(default_factory=lambda: array("q"))
    crcs: array = field(default_factory=lambda: array("q"))
    problems: list[tuple[str, str]] = field(default_factory=list)
    names: list[str] | None = None
    stamps: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, place: Place) -> None:
        """Note a picture."""
        self.locations.append(place.location)
        self.offsets.append(place.offset)
        self.sizes.append(place.size)
        self.crcs.append(place.crc)

    def places(self) -> dict[str, np.ndarray]:
        """Name of a part -> array of it."""
        return {
            "offset": np.array(self.offsets, np.int64),
            "size": np.array(self.sizes, np.int64).astype(np.uint32),
            "crc": np.array(self.crcs, np.int64).astype(np.uint32),
        }


def list_folder(root: str | Path) -> Listing:
    """Find all pictures below a folder, in linked folders and archives too.

    Raises:
        DataError: the folder is missing.
    """
    root = str(root)
    if not is_folder(root):
        raise DataError(f"got {root}, expected a folder of pictures; create or rename it")
    listing = Listing()
    if is_remote(root):
        _list_remote(root, listing)
    else:
        _list(root, "", (os.path.realpath(root),), listing)
    return listing


def _list_remote(root: str, listing: Listing) -> None:
    """List a folder in a bucket, which has no links and no folders of its own."""
    listing.stamps[root] = stamp(root)
    hidden = set()
    for location in find_files(root):
        parts = location.split("/")
        first = next((i for i, part in enumerate(parts) if is_hidden(part)), None)
        if first is None:
            _list_file(root, location, listing)
        else:
            hidden.add("/".join(parts[: first + 1]))
    listing.problems += [(location, "is hidden") for location in sorted(hidden)]


def _list_file(root: str, location: str, listing: Listing) -> None:
    if is_archive(location):
        _list_archive(root, location, listing)
    elif is_picture(location):
        listing.add(Place(location))
    else:
        listing.problems.append((location, _no_picture(location)))


def _list(root: str, below: str, above: tuple[str, ...], listing: Listing) -> None:
    """List the folder `below` the root; `above` are the folders it lies in, links resolved."""
    folder = os.path.join(root, below)
    listing.stamps[folder] = stamp(folder)
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        listing.problems.append((below, f"cannot be opened ({error.strerror or error})"))
        return
    for entry in entries:
        location = below + entry.name
        if not _is_text(entry.name):
            shown = location.encode("utf-8", "replace").decode()
            listing.problems.append((shown, "has a name that is no text"))
        elif is_hidden(entry.name):
            listing.problems.append((location, "is hidden"))
        elif entry.is_dir():
            real = os.path.realpath(entry.path)
            if real in above:
                listing.problems.append((location, "is a link to a folder that it lies in"))
            else:
                _list(root, location + "/", (*above, real), listing)
        elif not entry.is_file():
            listing.problems.append((location, "is a link to nothing, or no file"))
        else:
            _list_file(root, location, listing)


def _is_text(name: str) -> bool:
    """Whether a file's name is in the file system's own encoding."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _list_archive(root: str, location: str, listing: Listing) -> None:
    path = os.path.join(root, location)
    if not is_remote(root):  # there its folder's stamp says it
        listing.stamps[path] = stamp(path)
    if suffix(location) == ".tar":
        _list_tar(path, location, listing)
        return
    try:
        with open_file(path) as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        reason = " ".join(str(error).split())
        listing.problems.append((location, f"is not a whole zip archive ({reason})"))
        return
    for member in members:
        if member.filename.endswith("/"):
            continue
        place = Place(
            f"{location}/{member.filename}", member.header_offset, member.compress_size, member.CRC
        )
        problem = _member_problem(member)
        if problem:
            listing.problems.append((place.location, problem))
        else:
            listing.add(place)


def _list_tar(path: str, location: str, listing: Listing) -> None:
    try:
        with open_file(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            members = [member for member in archive if member.isfile()]
    except (OSError, tarfile.TarError) as error:
        reason = " ".join(str(error).split())
        listing.problems.append((location, f"is not a whole tar archive ({reason})"))
        return
    for member in members:
        name = f"{location}/{member.name}"
        if any(is_hidden(part) for part in member.name.split("/")):
            listing.problems.append((name, "is hidden"))
        elif not is_picture(member.name):
            listing.problems.append((name, _no_picture(member.name)))
        elif member.size > MAX_FILE:
            listing.problems.append((name, f"takes {member.size / 2**30:.1f} GiB"))
        else:
            listing.add(Place(name, member.offset_data, member.size))


def _member_problem(member: zipfile.ZipInfo) -> str | None:
    name = member.filename
    if any(is_hidden(part) for part in name.split("/")):
        return "is hidden"
    if not is_picture(name):
        return _no_picture(name)
    if member.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if member.compress_type not in (_STORED, _DEFLATED):
        return f"is compressed by method {member.compress_type}, which is not read here"
    if max(member.compress_size, member.file_size) > MAX_FILE:
        return f"takes {member.file_size / 2**30:.1f} GiB"
    return None


def _no_picture(name: str) -> str:
    return f"is no picture (suffix {suffix(name)})" if suffix(name) else "is no picture (no suffix)"


def read_place(root: str | Path, place: Place, most: int = MAX_FILE) -> bytes:
    """Read a picture's file.

    Args:
        root: the folder that was listed.
        place: of the picture.
        most: bytes; of a longer file only its beginning, unchecked, unless that is `MAX_FILE`.

    Raises:
        PictureError: it is gone, has changed, or is damaged.
    """
    shown = os.path.join(str(root), place.location)
    try:
        if place.offset < 0:
            content = read_range(shown, 0, most + 1)
        else:
            content = _read_member(_archive_of(str(root), place.location), place, most)
    except (OSError, zlib.error, struct.error) as error:
        why = getattr(error, "strerror", None) or " ".join(str(error).split())
        if place.offset >= 0 and isinstance(error, FileNotFoundError):
            why = "its archive does not exist"
        raise PictureError(
            f"got {shown}, which cannot be read ({why}), expected a whole picture; replace or "
            "remove it"
        ) from error
    if len(content) > MAX_FILE:
        raise PictureError(
            f"got {shown} of more than {MAX_FILE >> 20} MiB, expected a picture; remove it"
        )
    return content[:most]


def _archive_of(root: str, location: str) -> str:
    """The path of the archive that a member's location names."""
    path, found = root, []
    for part in location.split("/")[:-1]:
        path = os.path.join(path, part)
        if is_archive(part):
            found.append(path)
    # Folders may be called like archives: where only one may be meant, nothing is asked.
    return found[0] if len(found) == 1 else next(filter(is_file, found), path)


def _read_member(path: str, place: Place, most: int) -> bytes:
    wanted = min(place.size, most + 1)
    if suffix(path) == ".tar":
        content = read_range(path, place.offset, wanted)
        if len(content) < wanted:
            raise OSError(None, "its archive is shorter than it was")
        return content
    read = read_range(path, place.offset, _LOCAL_HEADER.size + _MEMBER_NAME + wanted)
    signature, _, _, method, *_, name_length, extra_length = _LOCAL_HEADER.unpack_from(read)
    if signature != _SIGNATURE:
        raise OSError(None, "its archive has changed or is damaged")
    start = _LOCAL_HEADER.size + name_length + extra_length
    content = read[start : start + wanted]
    if start + wanted > len(read):
        content = read_range(path, place.offset + start, wanted)
    if method == _DEFLATED:
        content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, most + 1)
    if len(content) <= most and zlib.crc32(content) != place.crc:
        raise OSError(None, "its checksum is wrong")
    return content
