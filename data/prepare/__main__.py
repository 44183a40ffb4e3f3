"""Make a training set of a folder of colour pictures.

    python -m data.prepare PICTURES --output DATASET

Looks at all pictures, leaves out damaged ones and copies, draws lines of several styles and masks,
and writes archives with an index. A job that was stopped or killed goes on with the same command.
docs/prepare.md has what each stage needs and writes.
"""

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence

from data.errors import run_program
from data.pictures.lines import STYLES
from data.prepare.beam import prepare_by_beam
from data.prepare.jobs.options import BUILT_IN_MASKS, DUPLICATES, LAYOUTS, SPLITS, Options
from data.prepare.pipeline import prepare


def parser() -> argparse.ArgumentParser:
    """The command line; its flags are the fields of `Options`."""
    made = argparse.ArgumentParser(
        prog="python -m data.prepare", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = made.add_argument
    add("pictures", metavar="PICTURES", help="folder of colour pictures, archives among them")
    add("--output", required=True, metavar="DATASET", help="folder of the set")
    add("--layout", choices=LAYOUTS, default="zip", help="archives, shards or loose files")
    add("--archive-size", type=int, default=1000, metavar="N", help="pictures of an archive")
    add(
        "--duplicates", choices=DUPLICATES, default="alike",
        help="leave out equal files and what looks alike, equal files alone, or nothing",
    )  # fmt: skip
    add("--alike-bits", type=int, default=3, metavar="N", help="of 64 that alike ones differ in")
    add(
        "--lines", nargs="*", default=tuple(STYLES), metavar="STYLE",
        help=f"{', '.join(STYLES)}, or .json descriptions of models",
    )  # fmt: skip
    add(
        "--masks", nargs="*", default=BUILT_IN_MASKS, metavar="WAY",
        help=f"tried in order: {', '.join(BUILT_IN_MASKS)}, folders of masks, .json descriptions",
    )  # fmt: skip
    add("--tagger", default="", metavar="JSON", help="description of a model that tags pictures")
    add("--score", default="", metavar="JSON", help="description of a model of aesthetic scores")
    add("--embeddings", default="", metavar="JSON", help="description of a model of embeddings")
    add("--metadata", default="", metavar="TABLE", help="your captions, tags and scores")
    add("--characters", nargs="*", default=(), metavar="WAY",
        help="folder, pattern:REGEX, column:NAME, tags, tags:REGEX, embeddings:COSINE")  # fmt: skip
    add("--max-references", type=int, default=16, metavar="N", help="others that a picture names")
    add("--splits", choices=SPLITS, default="none", help="one table, or the published ones")
    add("--heldout-share", type=float, default=0.0, metavar="X", help="of pictures set apart")
    add("--processes", type=int, default=os.cpu_count() or 1, metavar="N", help="of this machine")
    add(
        "--beam", metavar="OPTIONS",
        help='run on Apache Beam, with its own options: --beam="--runner=DirectRunner"',
    )  # fmt: skip
    add("--threads", type=int, default=1, metavar="N", help="of one process, or of models")
    return made


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    return parser().parse_args(arguments)


def options_of(arguments: argparse.Namespace) -> Options:
    """Options of parsed arguments.

    Raises:
        DataError: a value is out of range.
    """
    known = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(Options)}
    lists = {name: tuple(value) for name, value in known.items() if isinstance(value, list)}
    return Options(**known | lists)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare a folder; returns the exit status."""

    def run() -> int:
        parsed = parse_arguments(arguments)
        options = options_of(parsed)
        if parsed.beam is None:
            prepare(options)
        else:
            prepare_by_beam(options, parsed.beam)
        return 0

    return run_program(run, interrupted="interrupted; the same command goes on")


if __name__ == "__main__":
    sys.exit(main())
