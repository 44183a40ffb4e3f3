"""Which pictures are taken, what they are called, and which archive each goes to."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.errors import DataError
from data.prepare.jobs.options import Options
from data.prepare.jobs.output import write_table
from data.prepare.stages.duplicates import COPY_REASONS
from data.sources.names import key, stem, suffix

# Bytes of output for a pixel, beside the colour pictures themselves: PNGs of drawings.
_LINE_BYTES, _MASK_BYTES = 0.15, 0.02


def planned(table: pa.Table, options: Options) -> pa.Table:
    """The pictures that are taken, with `name` (of all their files, without a suffix) and `unit`.

    Args:
        table: see `survey.SCHEMA`, copies left out.
        options: of the job.

    Raises:
        DataError: none is left, or one of many copies.
    """
    kept = table.filter(pc.is_null(table["problem"]))
    if len(kept) == 1 and _copies(table) == len(table) - 1 > 0:
        raise DataError(
            f"got {len(table)} pictures in {options.pictures}, all of which are copies of "
            f"{kept['location'][0]}, expected different ones; check the path, or give "
            "--duplicates=keep"
        )
    if not len(kept):
        reasons = table["problem"].value_counts().to_pylist()
        worst = max(reasons, key=lambda entry: entry["counts"])
        raise DataError(
            f"got {len(table)} pictures in {options.pictures}, none of which can be used "
            f"({worst['counts']}: {worst['values']}), expected some; replace them"
        )
    names: list[str] = []
    units, used = [], set()
    for i, location in enumerate(kept["location"].to_pylist()):
        unit = i // options.archive_size
        name = f"{unit:06}/{_plain(location)}"
        if name in used:
            name += f"_{suffix(location)[1:]}"
        while name in used:
            name += "_"
        used.add(name)
        names.append(name)
        units.append(unit)
    kept = kept.drop_columns(["content", "looks", "colors", "problem"])
    kept = kept.append_column("name", pa.array(names, pa.large_string()))
    return kept.append_column("unit", pa.array(units, pa.int32()))


def _copies(table: pa.Table) -> int:
    """How many pictures are left out as copies."""
    return sum(
        pc.sum(pc.starts_with(table["problem"], reason)).as_py() or 0 for reason in COPY_REASONS
    )


def num_units(plan: pa.Table) -> int:
    """How many archives there are."""
    return plan["unit"][-1].as_py() + 1


def write_plan(notes: Path, plan: pa.Table, options: Options) -> None:
    """Note a plan, so that who makes an archive reads no more of it than that."""
    write_table(_plan_path(notes), plan, options.archive_size)


def rows_of(notes: Path, unit: int) -> list[dict[str, Any]]:
    """The pictures of an archive."""
    with pq.ParquetFile(_plan_path(notes)) as plan:
        return plan.read_row_group(unit).to_pylist()


def _plan_path(notes: Path) -> Path:
    return notes / "plan.parquet"


def estimate(plan: pa.Table, options: Options, units: Sequence[int]) -> float:
    """Bytes that some archives of a plan will take."""
    left = plan.filter(pc.is_in(plan["unit"], pa.array(units, pa.int32())))
    if not len(left):
        return 0.0
    pixels = pc.sum(pc.multiply(left["height"].cast("int64"), left["width"])).as_py()
    share = _LINE_BYTES * len(options.lines) + (_MASK_BYTES if options.masks else 0.0)
    return pc.sum(left["bytes"]).as_py() + share * pixels


def _plain(location: str) -> str:
    """A location as a name: its spelling is one, and only its suffix has a dot."""
    return stem(key(location)).replace(".", "_")


def made_path(notes: Path, unit: int) -> Path:
    """What is known of a unit's pictures; when it is there, its archives are."""
    return notes / "made" / f"{unit:06}.parquet"
