"""A user's own data: `color/`, `sketch*/` and, where there are any, `mask/` -> records."""

import hashlib
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from data.errors import DataError, PictureError
from data.pictures.made import EstimatedMask, ExtractedLines
from data.pictures.stored import Deferred, StoredPicture
from data.records import Record, checked_index
from data.sources import catalog
from data.sources.files import as_path
from data.sources.index_tables import OURS, PUBLISHED
from data.sources.selection import FolderOptions, Selection
from data.sources.store import Place, read_place

NO_SKETCH = "has no sketch"
# How reasons begin for which nothing is lost that was meant to be used.
HARMLESS = ("is hidden", "is no picture (", "is not in the index", "has no colour picture")
_ASPECT_TOLERANCE = 0.02
_CHUNK = 100_000


class FolderSource:
    """Records of the pictures below `root/color`, by their names.

    `color/`, `sketch*/` and `mask/` hold equal names, up to the extension: plain files, folders of
    them, or archives of equal names with members of equal names; or the folder holds `shards`.
    Sketches are dark lines on
    light paper; of several styles one is drawn for every picture and epoch. Pictures are decoded
    when a window of them is asked for. Threads may share it; pickled, it is a path and options.

    Args:
        root: folder that holds `color/` and `sketch*/`.
        options: what to take.

    Raises:
        DataError: on missing folders, bad indices and options, and where nothing is left, or more
            is passed over than `max_passed_over`.
    """

    def __init__(self, root: str | Path, options: FolderOptions | None = None) -> None:
        self.root, self.options = as_path(root), options or FolderOptions()
        table, self._path = catalog.open_catalog(self.root, self.options.indices)
        self._open(table)
        if not self._selection.allows(self.faults()):
            self._selection.refuse(self.root, self.faults(), self.describe()[1:6])

    def __repr__(self) -> str:
        return f"FolderSource({str(self.root)!r}, {len(self)} pictures, {self.options})"

    def __len__(self) -> int:
        return len(self.rows)

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "options": self.options, "_path": self._path, "size": len(self)}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.root, self.options, self._path = (state[n] for n in ("root", "options", "_path"))
        self._open(catalog.read_catalog(self._path))
        if len(self) != state["size"]:
            raise DataError(
                f"got {self.root} with {len(self)} pictures, expected the {state['size']} of the "
                "start; leave it as it is while a run reads it"
            )

    def _open(self, table: pa.Table) -> None:
        self.table = table
        self._folders = stores = catalog.facts(table)["stores"]
        self.styles = tuple(name for name in stores if name.startswith(catalog.SKETCH))
        self.has_masks = catalog.MASK in stores
        filters = {}
        if self.options.sketches == "files":
            filters["exist_sketch is false"] = self._numbers("has_sketch", True)
        self._selection = Selection(
            self.options,
            sound=pc.is_null(table["problem"]).to_numpy() & ~self._lacks_sketch(),
            short_sides=lambda: np.minimum(*self._sides()),
            scores=self._filter_scores,
            lots=self._numbers("lot", 0),
            filters=filters,
        )
        self.rows = self._selection.rows

    def _sides(self) -> tuple[np.ndarray, np.ndarray]:
        return self._numbers("height", 0), self._numbers("width", 0)

    def _filter_scores(self) -> np.ndarray:
        score = self._numbers("score", np.nan)
        published = self._numbers("published", False)
        missing = np.where(published, PUBLISHED.filter_score, OURS.filter_score)
        return np.where(np.isnan(score), missing, score)

    def _has_sketch(self) -> np.ndarray:
        if self.options.sketches == "extract":
            return np.ones(len(self.table), bool)
        found = np.zeros(len(self.table), bool)
        for style in self.styles:
            found |= pc.is_valid(self.table[style]).to_numpy()
        return found

    def _numbers(self, name: str, missing: Any) -> np.ndarray:
        return pc.fill_null(self.table[name], missing).to_numpy()

    @property
    def shapes(self) -> np.ndarray:
        """(N, 2) heights and widths, px, from the index or else the files' headers."""
        return np.stack([side[self.rows] for side in self._sides()], axis=1)

    def fingerprint(self) -> dict[str, Any]:
        """What tells these pictures from others, wherever they lie: count, names and index."""
        names, index = hashlib.sha256(), hashlib.sha256()
        for name, missing in (("score", np.nan), ("published", False)):
            index.update(np.ascontiguousarray(self._numbers(name, missing)[self.rows]).tobytes())
        for start in range(0, len(self), _CHUNK):  # millions of names at once would be gigabytes
            part = self.table.select(["name", "references"]).take(self.rows[start : start + _CHUNK])
            names.update("\n".join(part["name"].to_pylist()).encode(errors="replace"))
            index.update(repr(part["references"].to_pylist()).encode())
        digests = (one.hexdigest()[:16] for one in (names, index))
        return {"pictures": len(self), **dict(zip(("names", "index"), digests, strict=True))}

    def measure(self) -> np.ndarray:
        """The same, as a function for `buckets.BucketSampler`."""
        return self.shapes

    def name(self, index: SupportsIndex) -> str:
        """The location of record `index`'s colour picture below `root`."""
        location = self.table["name"][int(self.rows[index])].as_py()
        return f"{self._folders[catalog.COLOR]}/{location}".removeprefix("/")

    def __getitem__(self, index: SupportsIndex) -> Record:
        """Record `index` (see `data.records`), all pictures at the size of their colour picture.

        Raises:
            PictureError: naming the file, when a picture is damaged.
        """
        index = checked_index(index, len(self))
        return decoded(self.draw(index, np.random.default_rng((self.options.seed, index))))

    def draw(self, index: int, rng: np.random.Generator) -> Record:
        """Record `index` of one epoch, its pictures not decoded yet.

        Args:
            index: 0..len - 1.
            rng: chooses the sketch's style and the reference.

        Raises:
            PictureError: a picture is missing, or sketch and mask are of another aspect than it.
        """
        row = int(self.rows[index])
        style_draw, rate_draw, reference_draw = rng.random(3)
        image = self.picture(catalog.COLOR, row, "color")
        mask = self._mask(row, image)
        record = {"image": image, "sketch": self._sketch(row, image, style_draw)}
        reference, reference_mask = image, mask
        others = self.table["references"][row].as_py() if rate_draw < self.reference_rate else None
        if others:
            other = others[int(reference_draw * len(others))]
            reference = self.picture(catalog.COLOR, other, "color")
            reference_mask = self._mask(other, reference)
        record["reference"] = reference
        if self.options.masks != "off":
            record |= {"sketch_mask": mask, "reference_mask": reference_mask}
        height, width = image.shape
        record["size"] = np.float32(math.sqrt(height * width))
        record["aesthetic_score"] = self.score(row)
        return record

    @property
    def reference_rate(self) -> float:
        """Share of the pictures with a `reference_list` whose reference is another picture."""
        return self.options.reference_rate

    def texts(self, index: int) -> dict[str, str]:
        """Caption and tags of record `index`, where the index has them."""
        row = int(self.rows[index])
        names = [name for name in ("caption", "tags") if name in self.table.column_names]
        return {name: self.table[name][row].as_py() or "" for name in names}

    def score(self, row: int) -> np.float32:
        """The aesthetic score of a row of the catalog, or what stands for one that has none."""
        score = self.table["score"][row].as_py()
        if score is None or math.isnan(score):
            score = (PUBLISHED if self.table["published"][row].as_py() else OURS).score
        return np.float32(score)

    def _sketch(self, row: int, image: StoredPicture, draw: float) -> Deferred:
        styles = [style for style in self.styles if self.table[style][row].is_valid]
        if not styles:
            return ExtractedLines(image)
        sketch = self.picture(styles[int(draw * len(styles))], row, "sketch")
        return of_aspect(sketch, image)

    def _mask(self, row: int, image: StoredPicture) -> Deferred:
        if self.has_masks and self.table[catalog.MASK][row].is_valid:
            return of_aspect(self.picture(catalog.MASK, row, "mask"), image)
        return EstimatedMask(image)

    def place(self, store: str, row: int) -> Place:
        """Where a row of the catalog has its picture of a store."""
        location = self.table[store][row].as_py()
        if location == "":
            location = self.table[catalog.COLOR][row].as_py()
        parts = (self.table[f"{store}_{part}"][row].as_py() for part in ("offset", "size", "crc"))
        return Place(location, *parts)

    def picture(self, store: str, row: int, kind: str) -> StoredPicture:
        """A row's picture of a store, see `StoredPicture`."""
        place, folder = self.place(store, row), self.root / self._folders[store]
        return StoredPicture(partial(read_place, folder, place), str(folder / place.location), kind)

    def passed_over(self) -> dict[str, int]:
        """Reason -> how many files and pictures are passed over for it."""
        problems = self.table["problem"]
        counts = {
            entry["values"]: entry["counts"]
            for entry in pc.value_counts(problems.drop_null()).to_pylist()
        }
        without = int(self._lacks_sketch().sum())
        return counts | ({NO_SKETCH: without} if without else {})

    def without_sketch(self) -> list[tuple[str, str]]:
        """(Location, reason) of the pictures that are passed over for want of a sketch."""
        names = self.table["name"].take(np.flatnonzero(self._lacks_sketch())).to_pylist()
        return [(name, NO_SKETCH) for name in names]

    def _lacks_sketch(self) -> np.ndarray:
        sound = pc.is_null(self.table["problem"]).to_numpy() & self._numbers("has_sketch", False)
        return sound & ~self._has_sketch()

    def faults(self) -> int:
        """How many pictures are passed over that were meant to be used."""
        counts = self.passed_over().items()
        return sum(count for reason, count in counts if not reason.startswith(HARMLESS))

    def describe(self) -> list[str]:
        """What a run sees here, and what not, in a few lines."""
        lines = [f"{len(self)} pictures in {self.root}; {self._styles_and_masks()}"]
        lines += self._selection.describe()
        unknown = int(np.isnan(self._numbers("score", np.nan)[self.rows]).sum())
        if self.options.min_aesthetic_score and unknown:
            lines.append(f"  {unknown} have no aesthetic score and pass the filter by it")
        lost = catalog.facts(self.table)["references_lost"]
        if lost:
            lines.append(f"  {lost} names in reference lists are not in color/")
        for reason, count in sorted(self.passed_over().items(), key=lambda item: -item[1]):
            lines.append(f"  {count} passed over: {reason}{self._example(reason, count)}")
        return lines

    def _styles_and_masks(self) -> str:
        masks = "no masks" if self.options.masks == "off" else "masks estimated"
        if self.has_masks and self.options.masks != "off":
            without = int(pc.is_null(self.table[catalog.MASK]).to_numpy()[self.rows].sum())
            masks = f"masks, {without} of them estimated" if without else "masks"
        extracts = self.options.sketches == "extract"
        return f"{', '.join(self.styles) or 'lines extracted' * extracts}; {masks}"

    def _example(self, reason: str, count: int) -> str:
        if reason == NO_SKETCH:
            where = self._lacks_sketch()
        else:
            where = pc.equal(self.table["problem"], reason).fill_null(False).to_numpy()
        first = self.table["name"][int(np.argmax(where))].as_py()
        return f" ({first}{', …' if count > 1 else ''})"


def decoded(record: Record) -> Record:
    """A drawn record with its pictures as arrays, each at the size of its colour picture.

    Raises:
        PictureError: naming the file, when a picture is damaged.
    """
    arrays: dict[int, np.ndarray] = {}
    for name, picture in record.items():
        if isinstance(picture, np.ndarray | np.generic):
            continue
        if id(picture) not in arrays:
            size = record["reference" if name.startswith("reference") else "image"].shape[:2]
            arrays[id(picture)] = picture.whole(*size, Image.Resampling.LANCZOS)
        record[name] = arrays[id(picture)]
    return record


def of_aspect(part: StoredPicture, image: StoredPicture) -> StoredPicture:
    """A sketch or mask, unless it is of another aspect than its picture."""
    (height, width), (rows, columns) = part.shape, image.shape
    # Rounding to whole pixels is no mistake, however small the pictures.
    slack = _ASPECT_TOLERANCE + 1 / min(height, width, rows, columns)
    if abs(math.log((height * columns) / (width * rows))) > slack:
        raise PictureError(
            f"got {part.name} of {width}x{height} px for {image.name} of {columns}x{rows} px, "
            "expected the same aspect; crop one of them"
        )
    return part
