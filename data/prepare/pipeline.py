"""The stages, one after the other: survey, copies, plan, archives, index, report.

Each takes up what an earlier start of the same job has left.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from data.errors import DataError
from data.prepare.jobs.options import Options, is_description
from data.prepare.jobs.output import check_room, claimed, list_pictures, write_json
from data.prepare.jobs.workers import Mapper, workers
from data.prepare.models.uses import check_model
from data.prepare.stages import characters, plan, survey
from data.prepare.stages.duplicates import COPY_REASONS, without_duplicates
from data.prepare.stages.index import Metadata, write_index
from data.prepare.stages.products import sketch_kinds
from data.prepare.stages.units import make_unit

REPORT = "report.json"
Told = Callable[[str], None]


def prepare(options: Options, tell: Told = print) -> dict[str, Any]:
    """Make a training set of a folder of pictures, or go on with one.

    Args:
        options: what to make.
        tell: is given a line when a stage is done.

    Returns:
        The report, which is also in `report.json`.

    Raises:
        DataError: see `Options`, `job` and `plan`.
    """
    check(options)
    listing = list_pictures(options)
    with (
        claimed(options, listing) as notes,
        workers(options.processes, options.threads) as mapper,
    ):
        seen = _surveyed(options, notes, survey.parts(listing), mapper, tell)
        planned = plan_of(options, notes, seen, tell)
        _made(options, notes, planned, mapper, tell)
        return finish(options, notes, seen, planned, listing.problems, tell)


def check(options: Options) -> None:
    """Raise DataError where options do not go together."""
    metadata = Metadata(options.metadata)
    characters.check_words(
        options.characters,
        has_table=bool(options.metadata),
        has_tags=bool(options.tagger) or metadata.has_tags,
        has_embeddings=bool(options.embeddings),
    )
    for use, paths in (
        ("lines", filter(is_description, options.lines)),
        ("masks", filter(is_description, options.masks)),
        ("tagger", filter(None, [options.tagger])),
        ("embeddings", filter(None, [options.embeddings])),
        ("score", filter(None, [options.score])),
    ):
        for path in paths:
            check_model(use, path)


def parts_left(notes: Path, parts: Sequence[Any]) -> list[Any]:
    """The parts that were not looked at yet."""
    return [part for part in parts if not survey.path_of(notes, part[0]).exists()]


def _surveyed(
    options: Options, notes: Path, parts: Sequence[Any], mapper: Mapper, tell: Told
) -> pa.Table:
    """Look at the pictures that were not looked at yet; all that was seen."""
    left = parts_left(notes, parts)
    started, count = time.monotonic(), sum(len(places) for _, places in left)
    with tqdm(total=count, desc="look", unit="picture", dynamic_ncols=True) as bar:
        for part in left:
            survey.survey(options.pictures, notes, part, counting(mapper, bar))
    tell(_rate("looked at", count, started))
    return read_survey(notes, len(parts))


def read_survey(notes: Path, num_parts: int) -> pa.Table:
    """What was seen of all pictures."""
    return pa.concat_tables(
        pq.read_table(survey.path_of(notes, number), schema=survey.SCHEMA)
        for number in range(num_parts)
    )


def plan_of(options: Options, notes: Path, seen: pa.Table, tell: Told) -> pa.Table:
    """Leave out copies, name the rest, and see whether there is room for it."""
    known = without_duplicates(seen, options.duplicates, options.alike_bits)
    planned = plan.planned(known, options)
    left = plan.estimate(planned, options, units_left(notes, planned))
    tell(f"{len(planned)} of {len(seen)} pictures are taken; about {left / 1e9:.2f} GB to write")
    check_room(Path(options.output), left)
    plan.write_plan(notes, planned, options)
    return planned


def units_left(notes: Path, planned: pa.Table) -> list[int]:
    """The archives that are not there yet."""
    units = range(plan.num_units(planned))
    return [unit for unit in units if not plan.made_path(notes, unit).exists()]


def _made(options: Options, notes: Path, planned: pa.Table, mapper: Mapper, tell: Told) -> None:
    left = units_left(notes, planned)
    count = pc.sum(pc.is_in(planned["unit"], pa.array(left, pa.int32()))).as_py() or 0
    started = time.monotonic()
    with tqdm(total=count, desc="make", unit="picture", dynamic_ncols=True) as bar:
        for unit in left:
            make_unit(options, notes, unit, plan.rows_of(notes, unit), counting(mapper, bar))
    tell(_rate("made", count, started))


def finish(
    options: Options,
    notes: Path,
    seen: pa.Table,
    planned: pa.Table,
    passed_over: Sequence[tuple[str, str]],
    tell: Told,
) -> dict[str, Any]:
    """Write the index and the report, from what all units have noted."""
    output = Path(options.output)
    made = pa.concat_tables(
        pq.read_table(plan.made_path(notes, unit)) for unit in range(plan.num_units(planned))
    )
    facts = made.filter(pc.is_null(made["problem"]))
    if not len(facts):
        raise DataError(
            f"got {len(made)} pictures in {options.pictures} that could be read and now cannot, "
            "expected them as they were; mend the input and remove the output"
        )
    indexed = write_index(facts, options, output)
    known = without_duplicates(seen, options.duplicates, options.alike_bits)
    left_out = [[name, reason] for name, reason in passed_over]
    for table, name in ((known, "location"), (made, "source")):
        rows = table.filter(pc.is_valid(table["problem"])).select([name, "problem"])
        left_out += [list(row.values()) for row in rows.to_pylist()]
    report = {
        "pictures": len(seen),
        "taken": len(facts),
        "archives": plan.num_units(planned),
        "sketches": {style: folder for style, folder in sketch_kinds(options).items()},
        "masks": {by: n for by, n in sorted(Counter(facts["mask"].to_pylist()).items()) if by}
        if options.masks
        else {},
        **indexed,
        "left_out": left_out,
    }
    write_json(output / REPORT, report)
    for line in lines_of(report):
        tell(line)
    return report


def lines_of(report: dict[str, Any]) -> list[str]:
    """The report as a person reads it."""
    reasons = Counter(_kind(reason) for _, reason in report["left_out"])
    lines = [f"{report['taken']} pictures in {report['archives']} archives"]
    lines += [f"  {count} left out: {reason}" for reason, count in reasons.most_common()]
    masks = ", ".join(f"{count} by {by}" for by, count in report["masks"].items())
    lines.append(f"  sketches: {', '.join(report['sketches']) or 'none'}; masks: {masks or 'none'}")
    lines.append(
        f"  {report['with_tags']} with tags, {report['with_score']} with a score; "
        f"{report['characters']} characters, {report['with_references']} pictures name others of "
        "theirs"
    )
    tables = ", ".join(f"{name} {count}" for name, count in report["tables"].items())
    lines.append(f"  tables: {tables}")
    return lines


def _kind(reason: str) -> str:
    for words in COPY_REASONS:
        if reason.startswith(words):
            return f"{words} another"
    return reason.partition(" (")[0]


def counting(mapper: Mapper, bar: tqdm) -> Mapper:
    """A mapper that moves a bar on."""

    def counted(function: Any, items: Any) -> Any:
        for result in mapper(function, items):
            bar.update()
            yield result

    return counted


def _rate(what: str, count: int, started: float) -> str:
    seconds = time.monotonic() - started
    rate = f" ({count / seconds:.1f} a second)" if count else ""
    return f"{what} {count} pictures in {seconds:.1f} s{rate}"
