"""The first look at every picture: can it be read, how large is it, and what is it equal to?"""

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from data.errors import PictureError
from data.pictures import looks
from data.pictures.stored import StoredPicture
from data.prepare.jobs.output import SURVEY_SIZE, write_table
from data.prepare.jobs.workers import Mapper
from data.sources.store import Listing, Place, read_place

SCHEMA = pa.schema(
    {
        "location": pa.large_string(),
        "offset": pa.int64(),
        "size": pa.int64(),
        "crc": pa.int64(),
        "bytes": pa.int64(),
        "height": pa.int32(),
        "width": pa.int32(),
        "content": pa.binary(16),
        "looks": pa.uint64(),
        "colors": pa.binary(48),
        "problem": pa.string(),
    }
)


def parts(listing: Listing) -> list[tuple[int, list[Place]]]:
    """Pictures in the order of their names, so many to a part: (number, places)."""
    order = sorted(range(len(listing.locations)), key=listing.locations.__getitem__)
    places = [
        Place(listing.locations[i], listing.offsets[i], listing.sizes[i], listing.crcs[i])
        for i in order
    ]
    starts = range(0, len(places), SURVEY_SIZE)
    return [(start // SURVEY_SIZE, places[start : start + SURVEY_SIZE]) for start in starts]


def path_of(notes: Path, number: int) -> Path:
    """Where what was seen of a part is noted."""
    return notes / "survey" / f"{number:06}.parquet"


def survey(root: str, notes: Path, part: tuple[int, Sequence[Place]], mapper: Mapper) -> Path:
    """Look at the pictures of a part, and note what was seen."""
    number, places = part
    rows = list(seen(root, places, mapper))
    path = path_of(notes, number)
    write_table(path, pa.Table.from_pylist(rows, SCHEMA))
    return path


def seen(root: str, places: Sequence[Place], mapper: Mapper) -> Iterator[dict[str, Any]]:
    """A row for each picture."""
    return mapper(partial(look, root), places)


def look(root: str, place: Place) -> dict[str, Any]:
    """Decode a picture and say what it is, by the names of `SCHEMA`."""
    row: dict[str, Any] = place._asdict()
    picture = StoredPicture(partial(read_place, root, place), place.location, "color")
    try:
        row["bytes"] = len(picture.content)
        row["content"] = hashlib.blake2b(picture.content, digest_size=16).digest()
        height, width = picture.shape
        scale = min(1.0, looks.SIDE / max(height, width))
        size = max(1, round(height * scale)), max(1, round(width * scale))
        small = Image.fromarray(picture.whole(*size, Image.Resampling.BOX))
    except PictureError as error:
        row["problem"] = error.reason
        return row
    row |= {"height": height, "width": width}
    row |= {"looks": looks.looks(small), "colors": looks.colors(small)}
    return row
