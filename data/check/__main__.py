"""What a training run would see of a folder of pictures, and what not.

    python -m data.check PICTURES [--index NAME ...] [--decode] [--json FILE] [--contact-sheet FILE]

Headers are read; with --decode all pictures are. The exit status is 1 where a run would go without
something that was meant to be used, 2 where it would not start.
"""

import argparse
import collections
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from PIL import Image

from data.buckets import BucketSampler, scaled_buckets
from data.check.contact_sheet import contact_sheet
from data.check.inspection import Finding, alike, equal_files, inspect
from data.errors import run_program
from data.outputs import check_output, whole_file
from data.sources.folders import HARMLESS, FolderSource
from data.sources.names import suffix
from data.sources.selection import MASKS, SKETCHES, FolderOptions

WRONG_STATUS = 1
_SHOWN = 3  # names of a kind
_SHARES = (5, 50, 95)  # percentiles


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m data.check", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("pictures", metavar="PICTURES", help="the folder that holds color/")
    parser.add_argument("--index", nargs="+", default=(), metavar="NAME", help="as data.index")
    parser.add_argument("--decode", action="store_true", help="look at all pictures")
    parser.add_argument("--json", metavar="FILE", help="write all that was found, every name")
    parser.add_argument(
        "--contact-sheet", metavar="FILE", help="draw what the trainer gets of some pictures"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace these two files")
    parser.add_argument("--masks", choices=MASKS, default=MASKS[0], help="as data.masks")
    parser.add_argument(
        "--sketches", choices=SKETCHES, default=SKETCHES[0], help="as data.sketches"
    )
    parser.add_argument("--min-aesthetic-score", type=float, default=0.0, metavar="X")
    parser.add_argument("--min-short-side", type=int, default=0, metavar="PX")
    parser.add_argument(
        "--same-identity-rate", type=float, default=0.0, metavar="X", help="as in data."
    )
    parser.add_argument("--size", type=int, default=1024, metavar="PX", help="of the square bucket")
    parser.add_argument("--num-buckets", type=int, default=19, metavar="N")
    parser.add_argument("--batch-size", type=int, default=128, metavar="N")
    parser.add_argument("--num-threads", type=int, default=2 * (os.cpu_count() or 1), metavar="N")
    return parser.parse_args(arguments)


def check(options: argparse.Namespace) -> dict[str, Any]:
    """Find out all of it.

    Raises:
        DataError: a run would not start.
    """
    source = FolderSource(
        options.pictures,
        # The names of the flags are those of a config's options, see setup/datasets.py.
        FolderOptions(
            indices=options.index,
            min_aesthetic_score=options.min_aesthetic_score,
            min_short_side=options.min_short_side,
            reference_rate=options.same_identity_rate,
            masks=options.masks,
            sketches=options.sketches,
        ),
    )
    report: dict[str, Any] = {"summary": source.describe(), **_counts(source, options)}
    findings = inspect(source, decode=options.decode, num_threads=options.num_threads)
    report |= _seen(findings)
    report["equal_files"] = equal_files(source)
    report["look_alike"] = list(alike(findings))
    table = source.table.select(["name", "problem"])
    refused = table.filter(pc.is_valid(table["problem"])).to_pylist()
    report["passed_over"] = [[row["name"], row["problem"]] for row in refused]
    report["passed_over"] += [[name, reason] for name, reason in source.without_sketch()]
    if options.contact_sheet:
        with _output(options.contact_sheet, options) as place:
            contact_sheet(source, options.size).save(place, _format(options.contact_sheet))
    return report


def _output(path: str, options: argparse.Namespace) -> contextlib.AbstractContextManager[Path]:
    return whole_file(path, overwrite=options.overwrite, reads=_reads(options))


def _reads(options: argparse.Namespace) -> list[str]:
    return [options.pictures, *(index for index in options.index if os.path.exists(index))]


def _format(path: str) -> str:
    """What Pillow calls the format of a file's suffix, PNG where there is none."""
    return Image.registered_extensions().get(Path(path).suffix.lower(), "PNG")


def _counts(source: FolderSource, options: argparse.Namespace) -> dict[str, Any]:
    """Formats, sizes and buckets, from the catalog alone."""
    names = source.table["name"].take(source.rows).to_pylist()
    shapes = source.shapes
    counts: dict[str, Any] = {
        "pictures": len(source),
        "formats": dict(collections.Counter(map(suffix, names)).most_common()),
        "styles": {
            style: int(pc.is_valid(source.table[style]).to_numpy()[source.rows].sum())
            for style in source.styles
        },
        "with_references": int(
            pc.greater(pc.list_value_length(source.table["references"].take(source.rows)), 0)
            .fill_null(False)
            .to_numpy()
            .sum()
        ),
    }
    for name, values in (("short_side", shapes.min(axis=1)), ("long_side", shapes.max(axis=1))):
        counts[name] = np.percentile(values, _SHARES).round().astype(int).tolist()
    buckets = scaled_buckets(options.size, count=options.num_buckets)
    sampler = BucketSampler(shapes, min(options.batch_size, len(source)), 0, buckets)
    counts["buckets"] = {f"{h}x{w}": count for (h, w), count in sampler.counts().items()}
    upscaled = sum(
        int((min(bucket) > shapes[members].min(axis=1)).sum())
        for bucket, members in sampler.members().items()
    )
    counts["smaller_than_their_bucket"] = upscaled
    return counts


def _seen(findings: Sequence[Finding]) -> dict[str, Any]:
    seen: dict[str, Any] = {
        "damaged": [[f.name, f.damage] for f in findings if f.damage],
        "inverted_sketches": [f.name for f in findings if f.inverted],
        "blank_sketches": [f.name for f in findings if f.blank],
    }
    shares = [f.foreground for f in findings if f.foreground is not None]
    if shares:
        seen["foreground"] = np.percentile(shares, _SHARES).round(3).tolist()
        seen["empty_masks"] = [f.name for f in findings if f.foreground == 0]
    return seen


def text(report: dict[str, Any]) -> str:
    """The report as a person reads it."""
    lines = list(report["summary"])

    def spread(name: str, unit: str) -> str:
        low, middle, high = report[name]
        return f"{middle}{unit} (5 % below {low}{unit}, 5 % above {high}{unit})"

    def listing(counts: dict[str, int]) -> str:
        return ", ".join(f"{name} {count}" for name, count in counts.items() if count)

    lines += [
        f"formats: {listing(report['formats'])}",
        f"short side: {spread('short_side', ' px')}",
        f"long side: {spread('long_side', ' px')}",
        f"buckets (height x width): {listing(report['buckets'])}",
    ]
    if report["smaller_than_their_bucket"]:
        lines.append(f"{report['smaller_than_their_bucket']} are smaller than their bucket")
    if report["styles"]:
        lines.append(f"sketches: {listing(report['styles'])}")
    if report["with_references"]:
        lines.append(f"{report['with_references']} name other pictures of their character")
    if "foreground" in report:
        lines.append(f"foreground of masks: {spread('foreground', '')}")
    for name, what in (
        ("damaged", "cannot be used"),
        ("inverted_sketches", "sketches seem to be light on dark: invert them"),
        ("blank_sketches", "sketches are blank"),
        ("empty_masks", "masks are empty"),
        ("equal_files", "groups of equal files"),
        ("look_alike", "pairs of pictures look alike"),
    ):
        found = report.get(name)
        if found:
            shown = "; ".join(_shown(entry) for entry in found[:_SHOWN])
            more = "; …" if len(found) > _SHOWN else ""
            lines.append(f"{len(found)} {what}: {shown}{more}")
    return "\n".join(lines)


def _shown(entry: str | Sequence[str]) -> str:
    return entry if isinstance(entry, str) else " = ".join(entry)


def is_wrong(report: dict[str, Any]) -> bool:
    """Whether a run would go without something that was meant to be used."""
    refused = any(not reason.startswith(HARMLESS) for _, reason in report["passed_over"])
    return refused or bool(report["damaged"] or report["inverted_sketches"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Check a folder; returns the exit status."""
    options = parse_arguments(arguments)

    def run() -> int:
        # What cannot be written is said before hours of reading.
        for path in filter(None, (options.json, options.contact_sheet)):
            check_output(path, overwrite=options.overwrite, reads=_reads(options))
        report = check(options)
        if options.json:
            with _output(options.json, options) as place:
                place.write_text(json.dumps(report, indent=1, ensure_ascii=False))
        print(text(report))
        return WRONG_STATUS if is_wrong(report) else 0

    return run_program(run)


if __name__ == "__main__":
    sys.exit(main())
