"""Indices of pictures: JSON, JSON lines, CSV or Parquet -> one Arrow table, a row a picture.

Ours is a table with `image_path` and what else is known. The published trainer's lies in
`data_index/`, several to a run, as Parquet or as one JSON mapping from path to record; its missing
values have a meaning of their own (`Defaults`). The `metadata.jsonl` of image folders, with
`file_name` and `text`, is read too.
"""

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from data.errors import DataError
from data.sources.files import as_path, open_file

PUBLISHED_FOLDER = "data_index"
SUFFIXES = (".parquet", ".json", ".jsonl", ".csv")
SCHEMA = pa.schema(
    {
        "image_path": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "aesthetic_score": pa.float32(),
        "exist_sketch": pa.bool_(),
        "reference_list": pa.list_(pa.string()),
        "caption": pa.string(),
        "tags": pa.string(),
        "published": pa.bool_(),
    }
)
_ALIASES = {"file_name": "image_path", "text": "caption"}
_SIDES = ("width", "height")
_CHUNK = 100_000  # rows of JSON that become Arrow at a time


class Defaults(NamedTuple):
    """What missing values of an index stand for.

    Attributes:
        filter_score: compared with the least aesthetic score.
        score: given to the model.
    """

    filter_score: float
    score: float


OURS = Defaults(math.inf, 7.0)  # not known is no reason to leave out; inference asks for 7
PUBLISHED = Defaults(5.51, 6.0)


def find_tables(root: Path, names: Iterable[str] = ()) -> list[Path]:
    """The indices of a folder of pictures.

    Args:
        root: holds `color/`.
        names: files below `root`, or names of tables in `data_index/`; by default `index.*`, all
            of `data_index/`, and `color/metadata.*`, whichever comes first.

    Raises:
        DataError: one that is named is not there.
    """
    published = root / PUBLISHED_FOLDER
    if names:
        return [_named(root, name) for name in names]
    for stem in (root / "index", root / "color" / "metadata"):
        paths = [stem.with_suffix(suffix) for suffix in SUFFIXES]
        found = [path for path in paths if path.is_file()]
        if found:
            return found[:1]
    if not published.is_dir():
        return []
    return sorted(path for path in published.iterdir() if path.suffix.lower() in SUFFIXES)


def _named(root: Path, name: str) -> Path:
    for folder in (root, root / PUBLISHED_FOLDER):
        for suffix in ("", *SUFFIXES):
            path = folder / f"{name}{suffix}"
            if path.is_file():
                return path
    raise DataError(
        f"got index {name}, expected a file in {root} or the name of one in "
        f"{root / PUBLISHED_FOLDER}; check its name"
    )


def read_table(path: str | Path) -> pa.Table:
    """Read an index; columns that nothing is known of are ignored.

    Raises:
        DataError: it is missing, unreadable or mistyped; row and field are named.
    """
    path = as_path(path)
    readers = {
        ".parquet": _read_parquet,
        ".csv": _read_csv,
        ".json": _read_json,
        ".jsonl": _read_json_lines,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"got index {path}, expected a .json, .jsonl, .csv or .parquet file; convert it"
        )
    if not path.is_file():
        raise DataError(f"got index {path}, which does not exist, expected a file; check its path")
    return reader(path)


# ---------------------------------------------------------------------------- columns


def _read_parquet(path: Path) -> pa.Table:
    try:
        known = (*SCHEMA.names, *_ALIASES)
        with open_file(path) as file:
            names = [name for name in pyarrow.parquet.read_schema(file).names if name in known]
            file.seek(0)
            table = pyarrow.parquet.read_table(file, columns=names)
    except (OSError, pa.ArrowException) as error:
        why = str(error).splitlines()[0]
        raise DataError(
            f"got index {path}, which is not Parquet ({why}), expected a table; write it anew"
        ) from error
    return _from_columns(path, table)


def _read_csv(path: Path) -> pa.Table:
    try:
        with open_file(path) as file:
            table = pyarrow.csv.read_csv(file)
    except (OSError, pa.ArrowException) as error:
        why = str(error).splitlines()[0]
        raise DataError(
            f"got index {path}, which is not CSV ({why}), expected a table; write it anew"
        ) from error
    return _from_columns(path, table)


def _from_columns(path: Path, table: pa.Table) -> pa.Table:
    table = table.rename_columns([_ALIASES.get(name, name) for name in table.column_names])
    published = path.parent.name == PUBLISHED_FOLDER
    columns = {}
    for field in SCHEMA:
        if field.name == "published":
            columns[field.name] = pa.repeat(published, len(table)).cast(field.type)
        elif field.name in table.column_names:
            columns[field.name] = _column(path, field, table.column(field.name))
        else:
            columns[field.name] = pa.nulls(len(table), field.type)
    paths = columns["image_path"]
    if len(table) and (paths.null_count or pc.min(pc.utf8_length(paths)).as_py() == 0):
        raise _wrong(path, "an empty image_path", "image_path to be a file name")
    return pa.table(columns, schema=SCHEMA)


def _column(path: Path, field: pa.Field, column: pa.ChunkedArray) -> pa.ChunkedArray:
    if field.name == "reference_list" and not pa.types.is_list(column.type):
        lists = [_references(path, i, value) for i, value in enumerate(column.to_pylist())]
        return pa.chunked_array([pa.array(lists, field.type)])
    if field.name == "tags" and pa.types.is_list(column.type):
        return pc.binary_join(column, ", ")
    if pa.types.is_floating(column.type):  # pandas writes NaN where a table has nothing
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    try:
        column = column.cast(field.type)
    except pa.ArrowException as error:
        why = str(error).splitlines()[0]
        raise DataError(
            f"got column {field.name} of {path} that is no {field.type} ({why}), expected one; "
            "mend it"
        ) from error
    if field.name in _SIDES and column.null_count < len(column) and pc.min(column).as_py() <= 0:
        row = pc.index(pc.less_equal(column, 0), True).as_py()
        raise _wrong(path, column[row].as_py(), f"{field.name} to be a positive whole number", row)
    if field.name == "aesthetic_score" and pc.all(pc.is_finite(column)).as_py() is False:
        row = pc.index(pc.is_finite(column), False).as_py()
        raise _wrong(path, column[row].as_py(), "aesthetic_score to be a number", row)
    return column


# ------------------------------------------------------------------------------- rows


def _read_json(path: Path) -> pa.Table:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DataError(
            f"got index {path}, which is not JSON ({error}), expected a list of objects; mend it"
        ) from error
    if isinstance(content, dict):  # the published form
        return from_rows(path, content.items(), published=True)
    if not isinstance(content, list):
        raise DataError(
            f"got index {path} holding one {type(content).__name__}, expected a list of objects, "
            "or a mapping from image_path to object; put each picture's object into one"
        )
    rows = ((i, row) for i, row in enumerate(content))
    return from_rows(path, rows, published=path.parent.name == PUBLISHED_FOLDER)


def _read_json_lines(path: Path) -> pa.Table:
    def rows() -> Iterator[tuple[int, Any]]:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file):
                if line.strip():
                    yield number, json.loads(line)

    try:
        return from_rows(path, rows(), published=path.parent.name == PUBLISHED_FOLDER)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(
            f"got index {path}, which is not JSON lines ({error}), expected an object a line; "
            "mend it"
        ) from error


def from_rows(path: Path, rows: Iterable[tuple[Any, Any]], *, published: bool) -> pa.Table:
    """Rows by number, or by image_path as the published mapping has them.

    Raises:
        DataError: a row is mistyped; it and the field are named.
    """
    parts, waiting = [], []
    for number, row in rows:
        waiting.append({**_checked(path, number, row), "published": published})
        if len(waiting) == _CHUNK:
            parts.append(pa.Table.from_pylist(waiting, SCHEMA))
            waiting = []
    return pa.concat_tables([*parts, pa.Table.from_pylist(waiting, SCHEMA)])


def _checked(path: Path, number: int | str, row: Any) -> dict[str, Any]:
    def wrong(got: object, expected: str) -> DataError:
        return _wrong(path, got, expected, number)

    if not isinstance(row, dict):
        raise wrong(row, "an object")
    row = {_ALIASES.get(name, name): value for name, value in row.items()}
    if isinstance(number, str):
        row.setdefault("image_path", number)
    row = {name: row[name] for name in SCHEMA.names if row.get(name) is not None}
    name = row.get("image_path")
    if not isinstance(name, str) or not name:
        raise wrong(name, "image_path to be a file name")
    for side in _SIDES:
        if side in row:
            if _whole(row[side]) is None:
                raise wrong(row[side], f"{side} to be a positive whole number")
            row[side] = _whole(row[side])
    if row.get("exist_sketch", True) not in (True, False):
        raise wrong(row["exist_sketch"], "exist_sketch to be true or false")
    if "exist_sketch" in row:
        row["exist_sketch"] = bool(row["exist_sketch"])
    score = row.get("aesthetic_score", 0.0)
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        raise wrong(score, "aesthetic_score to be a number")
    if "reference_list" in row:
        row["reference_list"] = _references(path, number, row["reference_list"])
    if isinstance(row.get("tags"), list):
        row["tags"] = ", ".join(map(str, row["tags"]))
    for text in ("caption", "tags"):
        if not isinstance(row.get(text, ""), str):
            raise wrong(row[text], f"{text} to be a text")
    return row


def _references(path: Path, number: int | str, value: Any) -> list[str] | None:
    """A list of names, or JSON of one."""
    found = value
    if isinstance(value, str):
        try:
            found = json.loads(value) if value.strip() else []
        except json.JSONDecodeError:
            found = value
    if found is None:
        return None
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise _wrong(path, value, "reference_list to be a list of file names", number)
    return found


def _wrong(path: Path, got: object, expected: str, row: int | str | None = None) -> DataError:
    where = path if row is None else f"row {row} of {path}"
    return DataError(f"got {got!r} in {where}, expected {expected}; mend it")


def _whole(value: Any) -> int | None:
    """A positive whole number as an int (tables with gaps hold them as floats), else None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value % 1:
        return None
    return int(value) if 0 < value < np.iinfo(np.int32).max else None
