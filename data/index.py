"""The optional index of a user's pictures: a JSON or Parquet table with one row per picture."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from data.errors import DataError


@dataclass(frozen=True)
class Entry:
    """One picture of an index; None where the index does not say.

    Attributes:
        image_path: name below `color/`.
        width, height: px.
        aesthetic_score: about 0..10.
        exist_sketch: whether `sketch/` holds its line art.
        reference_list: names of pictures of the same character.
        caption: free text.
    """

    image_path: str
    width: int | None = None
    height: int | None = None
    aesthetic_score: float | None = None
    exist_sketch: bool = True
    reference_list: tuple[str, ...] = ()
    caption: str = ""


_FIELDS = tuple(field.name for field in fields(Entry))


def read_index(path: str | Path) -> list[Entry]:
    """Reads a `.json` (a list of objects) or `.parquet` index; other columns are ignored.

    Raises:
        DataError: on a missing, unreadable or mistyped index (row and field are named), and on a
            Parquet one without pyarrow.
    """
    path = Path(path)
    readers = {".json": _read_json, ".parquet": _read_parquet}
    if path.suffix.lower() not in readers:
        raise DataError(f"got index {path}, expected a .json or .parquet file; convert it")
    if not path.is_file():
        raise DataError(f"got index {path}, which does not exist, expected a file; check its path")
    rows = readers[path.suffix.lower()](path)
    return [_entry(path, number, row) for number, row in enumerate(rows)]


def select(
    entries: Iterable[Entry],
    min_aesthetic_score: float | None = None,
    min_short_side: int | None = None,
) -> list[Entry]:
    """The entries with a sketch that pass the filters (published: 5.5 and 768 px).

    Raises:
        DataError: if an entry lacks what a filter asks for, or none is left.
    """
    entries = list(entries)
    kept = [
        entry
        for entry in entries
        if entry.exist_sketch
        and _passes(entry, "aesthetic_score", entry.aesthetic_score, min_aesthetic_score)
        and _passes(entry, "width and height", _short_side(entry), min_short_side)
    ]
    if not kept:
        raise DataError(
            f"got {len(entries)} index entries of which none is left, expected some with a sketch "
            f"and aesthetic score >= {min_aesthetic_score} and short side >= {min_short_side}; "
            "lower the filters"
        )
    return kept


def _short_side(entry: Entry) -> int | None:
    if entry.width is None or entry.height is None:
        return None
    return min(entry.width, entry.height)


def _passes(entry: Entry, name: str, value: float | None, least: float | None) -> bool:
    if least is None:
        return True
    if value is None:
        raise DataError(
            f"got no {name} of {entry.image_path} in the index, expected it for filtering; "
            "add it or switch the filter off"
        )
    return value >= least


def _read_json(path: Path) -> list[Any]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(
            f"got index {path}, which is not JSON ({error}), expected a list of objects; mend it"
        ) from error
    if not isinstance(rows, list):
        raise DataError(
            f"got index {path} holding one {type(rows).__name__}, expected a list of objects; "
            "put each picture's object into one list"
        )
    return rows


def _read_parquet(path: Path) -> list[Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            f"got index {path} but no pyarrow to read it, expected it installed; "
            "pip install '.[parquet]', or write the index as JSON"
        ) from error
    try:
        names = set(pyarrow.parquet.read_schema(path).names)
        return pyarrow.parquet.read_table(
            path, columns=[name for name in _FIELDS if name in names]
        ).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        why = str(error).splitlines()[0]
        raise DataError(
            f"got index {path}, which is not Parquet ({why}), expected a table; write it anew"
        ) from error


def _entry(path: Path, number: int, row: Any) -> Entry:
    def wrong(got: object, expected: str) -> DataError:
        return DataError(f"got {got!r} in row {number} of {path}, expected {expected}; mend it")

    if not isinstance(row, dict):
        raise wrong(row, "an object")
    row = {name: row[name] for name in _FIELDS if not _is_missing(row.get(name))}
    name = row.get("image_path")
    if not isinstance(name, str) or not name:
        raise wrong(name, "image_path to be a file name")
    for side in ("width", "height"):
        if side in row:
            if _whole(row[side]) is None:
                raise wrong(row[side], f"{side} to be a positive whole number")
            row[side] = _whole(row[side])
    has_sketch = row.get("exist_sketch", True)
    if has_sketch not in (True, False):
        raise wrong(has_sketch, "exist_sketch to be true or false")
    score = row.get("aesthetic_score", 0.0)
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise wrong(score, "aesthetic_score to be a number")
    references = row.get("reference_list", [])
    if not isinstance(references, list) or not all(isinstance(r, str) for r in references):
        raise wrong(references, "reference_list to be a list of file names")
    row["reference_list"] = tuple(references)
    row["exist_sketch"] = bool(has_sketch)
    return Entry(**row)


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _whole(value: Any) -> int | None:
    """A positive whole number as an int (tables with gaps hold them as floats), else None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value % 1:
        return None
    return int(value) if value > 0 else None
