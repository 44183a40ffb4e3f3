"""The same stages as Apache Beam pipelines, for clusters (extra `beam`).

Two of them: the survey's parts, and the archives. Each element is a part's or an archive's number,
and whoever works on it writes its file whole or not at all, so that it may be repeated or done
twice at once. Between them the driver leaves out copies, and at the end it writes the index.
Input and output are folders that all workers see.
"""

import shlex
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from data.errors import DataError
from data.prepare.jobs.options import Options
from data.prepare.jobs.output import claimed, list_pictures
from data.prepare.pipeline import (
    Told,
    check,
    finish,
    parts_left,
    plan_of,
    read_survey,
    units_left,
)
from data.prepare.stages import plan, survey
from data.prepare.stages.units import make_unit


def prepare_by_beam(options: Options, words: str, tell: Told = print) -> dict[str, Any]:
    """Make a training set as `pipeline.prepare` does, on a runner of Beam's.

    Args:
        options: what to make.
        words: Beam's own options, such as "--runner=FlinkRunner --flink_master=HOST:8081".
        tell: is given a line when a stage is done.

    Raises:
        DataError: as `pipeline.prepare`, or Beam is not installed.
    """
    _beam()
    check(options)
    listing = list_pictures(options)
    with claimed(options, listing) as notes:
        parts = survey.parts(listing)
        left = parts_left(notes, parts)
        _run(words, "look", left, partial(_look, options.pictures, notes))
        tell(f"looked at {sum(len(places) for _, places in left)} pictures")
        seen = read_survey(notes, len(parts))
        planned = plan_of(options, notes, seen, tell)
        units = units_left(notes, planned)
        _run(words, "make", units, partial(_make, options, notes))
        tell(f"made {len(units)} archives")
        return finish(options, notes, seen, planned, listing.problems, tell)


def _look(pictures: str, notes: Path, part: Any) -> int:
    survey.survey(pictures, notes, part, map)
    return part[0]


def _make(options: Options, notes: Path, unit: int) -> int:
    make_unit(options, notes, unit, plan.rows_of(notes, unit), map)
    return unit


def _run(words: str, name: str, elements: Iterable[Any], function: Callable[[Any], int]) -> None:
    """Apply a function to elements; those that a runner repeats are written again, the same."""
    elements = list(elements)
    if not elements:
        return
    beam = _beam()
    from apache_beam.options.pipeline_options import PipelineOptions

    with beam.Pipeline(options=PipelineOptions(shlex.split(words))) as pipeline:
        (
            pipeline
            | "list" >> beam.Create(elements)
            | "spread" >> beam.Reshuffle()
            | name >> beam.Map(function)
        )


def _beam() -> Any:
    try:
        import apache_beam
    except ImportError:
        raise DataError(
            "got --beam without Apache Beam, expected it to be installed: pip install '.[beam]'"
        ) from None
    return apache_beam
