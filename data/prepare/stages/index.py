"""The tables of a set: what is known of every picture, and which pictures are held out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from data.errors import DataError
from data.prepare.jobs.options import Options
from data.prepare.jobs.output import write_table
from data.prepare.stages import characters
from data.sources import index_tables
from data.sources.catalog import lots
from data.sources.names import key, stem

INDEX = index_tables.PUBLISHED_FOLDER
HELD_OUT = "heldout.parquet"
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
        "source": pa.string(),
        "mask": pa.string(),
        "foreground": pa.float32(),
    }
)
_READERS = {
    ".parquet": pq.read_table,
    ".csv": pyarrow.csv.read_csv,
    ".jsonl": pyarrow.json.read_json,
}


class Metadata:
    """A user's table, looked up by the locations of pictures."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._table = index_tables.read_table(path) if path else None
        self._rows: dict[str, int] = {}
        if self._table is not None:
            for i, name in enumerate(self._table["image_path"].to_pylist()):
                self._rows[stem(key(name))] = i
            self._rows |= {key(n): i for i, n in enumerate(self._table["image_path"].to_pylist())}

    def known(self, name: str, locations: Sequence[str]) -> list[Any]:
        """What an index says under a name, for some pictures; None where it is not known."""
        if self._table is None:
            return [None] * len(locations)
        values = self._table[name].to_pylist()
        return [None if i is None else values[i] for i in map(self._row, locations)]

    @property
    def has_tags(self) -> bool:
        """Whether there are tags of any picture."""
        return self._table is not None and self._table["tags"].null_count < len(self._table)

    def column(self, name: str, locations: Sequence[str]) -> list[str | None]:
        """The texts of any column of the table, for some pictures.

        Raises:
            DataError: there is none of that name.
        """
        path = Path(self._path)
        reader = _READERS.get(path.suffix.lower())
        if reader is None:
            raise DataError(
                f"got column {name} of {path}, expected a .parquet, .csv or .jsonl "
                "table; convert it"
            )
        table = reader(path)
        if name not in table.column_names:
            raise DataError(
                f"got column {name}, expected one of {path}: {', '.join(table.column_names)}; "
                "check its name"
            )
        values = table[name].to_pylist()
        rows = (self._row(location) for location in locations)
        return [None if i is None else _text(values[i]) for i in rows]

    def _row(self, location: str) -> int | None:
        name = key(location)
        return self._rows.get(name, self._rows.get(stem(name)))


def write_index(facts: pa.Table, options: Options, output: Path) -> dict[str, Any]:
    """Write the tables; returns what a report says of them.

    Args:
        facts: of all pictures that are there, in order, see `units.FACTS`.
        options: of the job.
        output: folder of the set.
    """
    metadata = Metadata(options.metadata)
    sources, names = facts["source"].to_pylist(), facts["image_path"].to_pylist()
    tags = [
        _joined(given, own)
        for given, own in zip(
            metadata.known("tags", sources), facts["tags"].to_pylist(), strict=True
        )
    ]
    scores = [
        own if given is None else given
        for given, own in zip(
            metadata.known("aesthetic_score", sources),
            facts["aesthetic_score"].to_pylist(),
            strict=True,
        )
    ]
    with_tags = facts.set_column(
        facts.schema.get_field_index("tags"), "tags", pa.array(tags, pa.string())
    )
    groups = characters.find_groups(
        with_tags, options.characters, lambda name: metadata.column(name, sources)
    )
    lists = characters.references(groups, names, options.max_references)
    columns = {name: facts[name] for name in SCHEMA.names if name in facts.column_names} | {
        "aesthetic_score": pa.array(scores, pa.float32()),
        "exist_sketch": pa.array([bool(options.lines)] * len(facts)),
        "caption": pa.array(metadata.known("caption", sources), pa.string()),
        "tags": pa.array(tags, pa.string()),
    }
    columns["reference_list"] = pa.array(lists, pa.list_(pa.string()))
    table = pa.table({name: columns[name] for name in SCHEMA.names}).cast(SCHEMA)
    # A character is held out with all of its pictures, or with none.
    apart = [name if group is None else group for name, group in zip(names, groups, strict=True)]
    held_out = lots(apart) < options.heldout_share
    counts = {}
    for name, rows in _tables(table, ~held_out, options.splits).items():
        counts[name] = len(rows)
        write_table(output / INDEX / f"{name}.parquet", rows)
    if options.heldout_share:
        rows = table.filter(pa.array(held_out))
        counts["held out"] = len(rows)
        write_table(output / HELD_OUT, rows)
    return {
        "tables": counts,
        "with_tags": len(tags) - tags.count(None),
        "with_score": len(scores) - scores.count(None),
        "characters": len({group for group in groups if group is not None}),
        "with_references": len(lists) - lists.count(None),
    }


def _tables(table: pa.Table, taken: np.ndarray, splits: str) -> dict[str, pa.Table]:
    if splits == "none":
        return {"train": table.filter(pa.array(taken))}
    height, width = (np.asarray(table[side]) for side in ("height", "width"))
    has = pc.is_valid(table["reference_list"]).to_numpy()
    shapes = {"landscape": width > height, "portrait": width < height, "square": width == height}
    found = {}
    for shape, which in shapes.items():
        for name, part in ((shape, ~has), (f"{shape}_with_reference", has)):
            rows = table.filter(pa.array(taken & which & part))
            if len(rows):
                found[name] = rows
    return found


def _text(value: Any) -> str | None:
    """A value of a user's column, lists joined; None where there is none."""
    if isinstance(value, list):
        return ", ".join(sorted(map(str, value))) or None
    return None if value is None else str(value)


def _joined(*lists: str | None) -> str | None:
    """Tags of several lists, each once."""
    names = [name for tags in lists if tags for name in tags.split(", ")]
    return ", ".join(dict.fromkeys(names)) or None
