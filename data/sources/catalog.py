"""A folder's pictures as one Arrow table, built once, kept in a file and mapped into memory.

A row a colour picture, and one for whatever was passed over, with the reason as its `problem`.
All processes share the file's pages: start and memory hardly grow with the number of pictures.
"""

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
from tqdm import tqdm

from data.errors import DataError, PictureError
from data.pictures.reading import SIDEWAYS, opened, orientation
from data.sources import index_tables
from data.sources.files import as_path, is_remote, stamp
from data.sources.names import key, stem
from data.sources.shards import find_shards, list_shards
from data.sources.store import Listing, Place, list_folder, read_place

logger = logging.getLogger(__name__)

VERSION = 3
CACHE = ".catalog"
COLOR, MASK, SKETCH = "color", "mask", "sketch"
_HEADER_THREADS = 8
_HEADER_BYTES = 2**16
_SHOWN_FROM = 2000  # pictures, from which on a bar shows how far it is
_SAME = ""  # location of a sketch or mask that is its colour picture's


def open_catalog(root: str | Path, indices: Sequence[str] = ()) -> tuple[pa.Table, Path]:
    """Open the catalog of a folder of pictures; built anew where the folder has changed.

    Args:
        root: holds `color/`, `sketch*/` and perhaps `mask/`; on a disk or in a bucket.
        indices: see `index_tables.find_tables`.

    Returns:
        The table, mapped from its file, and that file. Columns: `name`, `problem`, `width`,
        `height`, `score`, `has_sketch`, `published`, `lot` (see `lots`), `references` (row
        numbers), `caption`, `tags` and, for every store, its name (location), `_offset`, `_size`
        and `_crc`; a location of "" is the colour picture's.

    Raises:
        DataError: folders are missing, or an index is bad.
    """
    root = as_path(root)
    if not root.is_dir():
        raise DataError(f"got {root}, expected a folder of pictures; check the path")
    paths = index_tables.find_tables(root, indices)
    shards = [path.name for path in find_shards(root)]
    told = json.dumps([VERSION, [str(path) for path in paths], stores(root), shards])
    name = f"{hashlib.sha256(told.encode()).hexdigest()[:16]}.arrow"
    folders = [_own_cache(root)] if is_remote(root) else [root / CACHE, _own_cache(root)]
    for folder in folders:
        try:
            with _locked(folder):
                path = folder / name
                table = read_catalog(path) if path.is_file() else None
                if table is None or not _is_current(table):
                    _write(path, build(root, paths))
                return read_catalog(path), path
        except OSError as error:  # most often a data set that may not be written to
            reason = error.strerror or error
            logger.info("%s cannot hold the catalog of its pictures (%s)", folder, reason)
    raise DataError(
        f"got {' and '.join(map(str, folders))}, where nothing can be written, expected a place to "
        "keep the catalog of the pictures in; make room or set XDG_CACHE_HOME"
    )


def read_catalog(path: Path) -> pa.Table:
    """Map a catalog into memory."""
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


def stores(root: Path) -> list[str]:
    """The folders of pictures there are: colours, sketches in all their styles, masks."""
    found = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    styles = [name for name in found if name.startswith(SKETCH)]
    return [COLOR, *styles, *([MASK] if MASK in found else [])]


def facts(table: pa.Table) -> dict[str, Any]:
    """What a catalog says of itself: `stores` (name -> folder), `stamps`, `tables` and
    `references_lost`."""
    return json.loads(table.schema.metadata[b"catalog"])


def _own_cache(root: Path) -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    digest = hashlib.sha256(str(root).encode()).hexdigest()[:16]
    return Path(home) / "colorize-jax" / digest


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Of several processes one builds, and the others find what it built."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write(path: Path, table: pa.Table) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with pa.OSFile(str(temporary), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    temporary.replace(path)


def _is_current(table: pa.Table) -> bool:
    return all(stamp(path) == tuple(seen) for path, seen in facts(table)["stamps"].items())


# ----------------------------------------------------------------------------- building


class _Names:
    """Where in a listing a name is: with its suffix, or else the only one of its stem."""

    def __init__(self, names: Sequence[str]) -> None:
        self.exact, self.stems = hashes(names)
        self._exact = _Lookup(self.exact)
        self._stems = _Lookup(self.stems)

    def exactly(self, exact: np.ndarray) -> np.ndarray:
        """(N,) positions of names with their suffixes; negative where there is none."""
        return self._exact.find(exact)

    def find(self, exact: np.ndarray, stems: np.ndarray) -> np.ndarray:
        """(N,) positions; -1 where there is none, -2 where there are several."""
        found = self._exact.find(exact)
        missing = found == -1
        found[missing] = self._stems.find(stems[missing])
        return found

    def shared(self) -> np.ndarray:
        """(N,) whether another name has the same stem."""
        return self._stems.find(self.stems) == -2


class _Lookup:
    """Positions of numbers in an array, found by bisection."""

    def __init__(self, values: np.ndarray) -> None:
        self._order = np.argsort(values, kind="stable").astype(np.int32)
        self._sorted = values[self._order]

    def find(self, wanted: np.ndarray) -> np.ndarray:
        if not len(self._sorted):
            return np.full(len(wanted), -1, np.int32)
        first = np.searchsorted(self._sorted, wanted)
        last = len(self._sorted) - 1
        here = np.minimum(first, last)
        found = np.where(self._sorted[here] == wanted, self._order[here], -1)
        several = (first < last) & (self._sorted[np.minimum(first + 1, last)] == wanted)
        return np.where(several & (found >= 0), -2, found).astype(np.int32)


def hashes(names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(N,) 64 bit numbers for names with and without their suffixes, of this process."""
    exact, stems = np.empty(len(names), np.int64), np.empty(len(names), np.int64)
    for i, name in enumerate(names):
        one = key(name)
        exact[i], stems[i] = hash(one), hash(stem(one))
    return exact, stems


def lots(names: Sequence[str]) -> np.ndarray:
    """(N,) float32 in [0, 1) that follow from the names alone, evenly spread: who is held out."""
    digests = (
        hashlib.blake2b(stem(key(name)).encode(errors="replace"), digest_size=4).digest()
        for name in names
    )
    return (np.frombuffer(b"".join(digests), "<u4") / 2**32).astype(np.float32)


def build(root: Path, paths: Sequence[Path]) -> pa.Table:
    """List all folders, read the indices, and bring them together.

    Raises:
        DataError: no colour pictures, or an index is bad.
    """
    table = None
    if find_shards(root):
        listings, table = list_shards(root)
    else:
        # Others are listed in their turn: of millions the names alone are gigabytes.
        listings = {COLOR: list_folder(root / COLOR)} | dict.fromkeys(stores(root)[1:])
    stamps = {str(path): stamp(path) for path in paths}
    color = listings[COLOR]
    if not color.locations:
        raise DataError(
            f"got no pictures in {root / COLOR}, expected some, as files or in zip archives; put "
            "them there"
        )
    names = _Names(color.names or color.locations)
    rows = _Rows(color.locations)
    found_tables = [index_tables.read_table(path) for path in paths]
    if table is not None:
        found_tables.insert(0, table)
    if found_tables:
        rows.take_index(pa.concat_tables(found_tables), names)
    columns: dict[str, Any] = {}
    for store, listed in listings.items():
        listing = list_folder(root / store) if listed is None else listed
        stamps |= listing.stamps
        found = np.arange(len(color.locations), dtype=np.int32)
        if store != COLOR:
            others = _Names(listing.names or listing.locations)
            found = others.find(names.exact, names.stems)
            # Of a.png and a.jpg each needs a sketch of its own suffix.
            found[names.shared() & (others.exactly(names.exact) < 0)] = -2
            if store.startswith(SKETCH):
                rows.refuse(found == -2, "shares its name, but for the suffix, with another")
                rows.refuse_unused(store, listing.locations, found)
        columns |= _place_columns(store, listing, found, color.locations)
        rows.problems += [(f"{store}/{location}", reason) for location, reason in listing.problems]
    folders = {name: "" if color.names else name for name in listings}
    rows.measure(root / folders[COLOR], color)
    known = {"stores": folders, "stamps": stamps, "tables": [str(path) for path in paths]}
    return rows.table(columns, known)


def _place_columns(
    store: str, listing: Listing, found: np.ndarray, own: Sequence[str]
) -> dict[str, Any]:
    """The columns of a store: where each row's picture of it is."""
    locations: list[str | None] = []
    for name, position in zip(own, found.tolist(), strict=True):
        location = None if position < 0 else listing.locations[position]
        locations.append(_SAME if store != COLOR and location == name else location)
    columns: dict[str, Any] = {store: pa.array(locations, pa.large_string())}
    for part, values in listing.places().items():
        taken = values[found] if len(values) else np.zeros(len(found), values.dtype)
        columns[f"{store}_{part}"] = pa.array(np.where(found < 0, 0, taken).astype(values.dtype))
    return columns


class _Rows:
    """The rows of a catalog while it is built: those of colour pictures, and the rest behind."""

    def __init__(self, names: Sequence[str]) -> None:
        count = len(names)
        self.names = names
        self.size = np.zeros((count, 2), np.int32)
        self.score = np.full(count, np.nan, np.float32)
        self.has_sketch, self.published = np.ones(count, bool), np.zeros(count, bool)
        self.problem = np.full(count, None, object)
        self.references = pa.nulls(count, pa.list_(pa.int32()))
        self.texts: dict[str, list[str | None]] = {}
        self.problems: list[tuple[str, str]] = []  # of what is no row yet
        self.lost = 0

    def refuse(self, where: np.ndarray, reason: str) -> None:
        """Note the first problem of rows."""
        self.problem[where & (self.problem == None)] = reason  # noqa: E711 (elementwise)

    def refuse_unused(self, store: str, locations: Sequence[str], found: np.ndarray) -> None:
        """Note the sketches that no colour picture asks for."""
        used = np.zeros(len(locations), bool)
        used[found[found >= 0]] = True
        if self.problem.size and (found == -2).any():
            return  # which of them was meant nobody knows
        for i in np.flatnonzero(~used).tolist():
            self.problems.append((f"{store}/{locations[i]}", "has no colour picture"))

    def take_index(self, index: pa.Table, names: _Names) -> None:
        """Scatter an index over the rows; of two rows for a picture the one with references."""
        listed = index.column("image_path").to_pylist()
        found = names.find(*hashes(listed))
        for i in np.flatnonzero(found < 0).tolist():
            reason = "is in the index, but not in color/"
            if found[i] == -2:
                reason = "is in the index, but several pictures in color/ have that name"
            self.problems.append((listed[i], reason))
        lengths = pc.list_value_length(index.column("reference_list")).fill_null(0)
        has = lengths.to_numpy() > 0
        order = np.argsort(has, kind="stable")  # those with references last: they overwrite
        order = order[found[order] >= 0]
        to = found[order]

        for axis, side in enumerate(("height", "width")):
            self.size[to, axis] = index.column(side).fill_null(0).to_numpy()[order]
        self.score[to] = index.column("aesthetic_score").to_numpy()[order]
        published = index.column("published").to_numpy().astype(bool)
        self.published[to] = published[order]
        listed_sketch = index.column("exist_sketch").fill_null(False).to_numpy()
        unknown = index.column("exist_sketch").is_null().to_numpy() & ~published
        self.has_sketch[to] = (listed_sketch.astype(bool) | unknown)[order]
        outside = np.ones(len(self.names), bool)
        outside[to] = False
        self.refuse(outside, "is not in the index")
        self._take_references(index.column("reference_list"), order[has[order]], found, names)
        for text in ("caption", "tags"):
            if index.column(text).null_count < len(index):
                values, column = index.column(text).to_pylist(), [None] * len(self.names)
                for i, row in zip(order.tolist(), to.tolist(), strict=True):
                    column[row] = values[i]
                self.texts[text] = column

    def _take_references(
        self, lists: pa.ChunkedArray, order: np.ndarray, found: np.ndarray, names: _Names
    ) -> None:
        """Names of references -> numbers of rows; `order` are the index's rows that have some."""
        by_row = order[np.argsort(found[order], kind="stable")]
        rows = found[by_row]
        last = np.append(rows[1:] != rows[:-1], True)[: len(rows)]
        by_row, rows = by_row[last], rows[last]
        taken = lists.take(pa.array(by_row)).combine_chunks()
        numbers = names.find(*hashes(taken.flatten().to_pylist()))
        known = np.append(0, np.cumsum(numbers >= 0))
        edges = np.append(0, np.cumsum(taken.value_lengths().to_numpy()))
        counts = np.zeros(len(self.names), np.int32)
        counts[rows] = known[edges[1:]] - known[edges[:-1]]
        self.lost = int((numbers < 0).sum())
        offsets = np.append(0, np.cumsum(counts)).astype(np.int32)
        self.references = pa.ListArray.from_arrays(offsets, pa.array(numbers[numbers >= 0]))

    def measure(self, folder: Path, listing: Listing) -> None:
        """Read heights and widths from headers where the index does not say them."""
        missing = np.flatnonzero((self.size <= 0).any(axis=1) & (self.problem == None))  # noqa: E711
        bar = tqdm(missing.tolist(), "sizes", unit="picture", disable=len(missing) < _SHOWN_FROM)

        def one(row: int) -> tuple[int, int] | str:
            place = Place(
                listing.locations[row], listing.offsets[row], listing.sizes[row], listing.crcs[row]
            )
            try:
                return header_size(folder, place)
            except PictureError as error:
                return error.reason

        with ThreadPoolExecutor(_HEADER_THREADS) as pool:
            for row, size in zip(missing.tolist(), pool.map(one, bar), strict=True):
                if isinstance(size, str):
                    self.problem[row] = size
                else:
                    self.size[row] = size

    def table(self, columns: dict[str, Any], known: dict[str, Any]) -> pa.Table:
        extra = len(self.problems)
        problems = [*self.problem.tolist(), *(reason for _, reason in self.problems)]
        names = [*self.names, *(location for location, _ in self.problems)]

        def padded(values: pa.Array) -> pa.Array:
            return pa.concat_arrays([values, pa.nulls(extra, values.type)]) if extra else values

        table = {
            "name": pa.array(names, pa.large_string()),
            "problem": pa.array(problems, pa.string()).dictionary_encode(),
            "height": padded(pa.array(self.size[:, 0])),
            "width": padded(pa.array(self.size[:, 1])),
            "score": padded(pa.array(self.score)),
            "has_sketch": padded(pa.array(self.has_sketch)),
            "published": padded(pa.array(self.published)),
            "lot": padded(pa.array(lots(self.names))),
        }
        table["references"] = padded(self.references)
        for text, values in self.texts.items():
            table[text] = padded(pa.array(values, pa.large_string()))
        table |= {name: padded(values) for name, values in columns.items()}
        known = known | {"references_lost": self.lost}
        return pa.table(table).replace_schema_metadata({"catalog": json.dumps(known)})


def header_size(folder: Path, place: Place) -> tuple[int, int]:
    """(H, W) of a picture as it is looked at; of most formats its first bytes are enough.

    Raises:
        PictureError: it cannot be read.
    """
    name = str(folder / place.location)
    try:
        return _size(read_place(folder, place, _HEADER_BYTES), name)
    except PictureError:
        return _size(read_place(folder, place), name)


def _size(content: bytes, name: str) -> tuple[int, int]:
    with opened(content, name, whole=False) as image:
        turn = orientation(image, content)
        size = image.height, image.width
    return size[::-1] if turn >= SIDEWAYS else size
