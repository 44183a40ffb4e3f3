"""What can be found out about pictures one by one, and then about all of them."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image
from tqdm import tqdm

from data.errors import PictureError
from data.pictures import looks
from data.pictures.stored import Deferred, StoredPicture
from data.sources import catalog
from data.sources.files import stamp
from data.sources.folders import FolderSource

_DARK = 127
_BLANK = 250
_ALIKE_BITS = 3


@dataclass
class Finding:
    """What was seen of one picture.

    Attributes:
        name: of its colour picture.
        damage: why a run would skip it; None where it would not.
        inverted: whether its sketch seems to be light on dark.
        blank: whether its sketch is empty.
        foreground: share of its mask, 0..1; None where it was not looked at.
        looks: hash of what it looks like, 64 bits; None where it was not looked at.
    """

    name: str
    damage: str | None = None
    inverted: bool = False
    blank: bool = False
    foreground: float | None = None
    looks: int | None = None


def inspect(source: FolderSource, *, decode: bool, num_threads: int) -> list[Finding]:
    """Open every record's pictures, and with `decode` look at them too."""

    def one(index: int) -> Finding:
        found = Finding(source.name(index))
        try:
            record = source.draw(index, np.random.default_rng(0))
            if decode:
                _look(record, found)
        except PictureError as error:
            found.damage = str(error)
        return found

    with ThreadPoolExecutor(num_threads) as pool:
        indices = tqdm(range(len(source)), unit="picture", desc="pictures", dynamic_ncols=True)
        return list(pool.map(one, indices))


def _look(record: dict[str, Deferred], found: Finding) -> None:
    image = _small(record["image"])
    found.looks = looks.looks(Image.fromarray(image))
    if isinstance(record["sketch"], StoredPicture):
        sketch = _small(record["sketch"])
        found.inverted = float(sketch.mean()) < _DARK
        found.blank = int(sketch.min()) > _BLANK
    mask = record.get("sketch_mask")
    if isinstance(mask, StoredPicture):
        found.foreground = float(_small(mask).mean()) / 255


def _small(picture: Deferred) -> np.ndarray:
    height, width = picture.shape
    scale = min(1.0, looks.SIDE / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return picture.whole(*size, Image.Resampling.BOX)


def alike(findings: list[Finding]) -> Iterator[tuple[str, str]]:
    """Pairs of pictures that look the same: their hashes differ in few bits."""
    seen = [f for f in findings if f.looks is not None]
    hashes = np.array([f.looks for f in seen], np.uint64)
    pairs = {
        (min(i, j), max(i, j))
        for one, other in looks.near_pairs(hashes, _ALIKE_BITS)
        for i, j in zip(one.tolist(), other.tolist(), strict=True)
    }
    return ((seen[i].name, seen[j].name) for i, j in sorted(pairs))


def equal_files(source: FolderSource) -> list[list[str]]:
    """Groups of colour pictures whose files are equal, byte by byte."""
    by_size: dict[tuple[int, int], list[int]] = {}
    for index, row in enumerate(source.rows.tolist()):
        size, crc = _size(source, row)
        by_size.setdefault((size, crc), []).append(index)
    by_content: dict[bytes, list[str]] = {}
    for group in by_size.values():
        if len(group) > 1:
            for index in group:
                picture = source.picture(catalog.COLOR, int(source.rows[index]), "color")
                try:
                    digest = hashlib.blake2b(picture.content, digest_size=16).digest()
                except PictureError:
                    continue
                by_content.setdefault(digest, []).append(source.name(index))
    return [names for names in by_content.values() if len(names) > 1]


def _size(source: FolderSource, row: int) -> tuple[int, int]:
    """Bytes of a colour picture's file, and its checksum where that is known without reading."""
    place = source.place(catalog.COLOR, row)
    if place.offset >= 0:
        return place.size, place.crc
    path = source.root / catalog.COLOR / place.location  # shards hold no files of their own
    return stamp(path)[1], 0
