"""`tags`: what the tagger sees in a picture."""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from colorize_jax.errors import UserError

HELP = "name the tags of pictures, by a tagger's weights and its list of labels"
RATING, CHARACTER = "9", "4"
KINDS = {RATING: "rating", "0": "tag", CHARACTER: "character"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("image", nargs="+", metavar="IMAGE", help="pictures, or folders of them")
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="PATH",
        help="the tagger: folder of imported weights, or published file",
    )
    parser.add_argument(
        "--labels",
        required=True,
        metavar="CSV",
        help="the tagger's labels in the order of its classes, with columns name and category "
        "(selected_tags.csv beside its weights)",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.35,
        metavar="P",
        help="least probability (default: 0.35)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a picture")
    parser.add_argument(
        "--output",
        metavar="JSONL",
        help="write a table that data.prepare reads as --metadata; goes on with one that is there",
    )


def run(args: argparse.Namespace) -> int:
    """Print the tags of each picture, most probable first; of ratings only the first."""
    from colorize_jax.setup.checkpoints import open_tagger

    tagger = open_tagger(args.checkpoint, args.labels)
    if args.output:
        return write_table(tagger, args)
    for path, _ in pictures(args.image):
        tags = tagger(path, args.threshold)
        if args.json:
            print(json.dumps({"image": path, "tags": {t.name: round(t.score, 4) for t in tags}}))
            continue
        print(path)
        for tag in tags:
            print(f"  {tag.score:6.3f}  {tag.name:<32}{KINDS.get(tag.category, tag.category)}")
    return 0


def pictures(given: list[str]) -> Iterator[tuple[str, str]]:
    """Paths of pictures, those in folders too, each with its name below the folder."""
    from colorize_jax.inference.jobs import SUFFIXES

    for path in given:
        if not os.path.isdir(path):
            yield path, os.path.basename(path)
            continue
        for file in sorted(Path(path).rglob("*")):
            if file.suffix.lower() in SUFFIXES and not file.name.startswith("."):
                yield str(file), file.relative_to(path).as_posix()


def write_table(tagger, args: argparse.Namespace) -> int:
    """Append a line a picture; those of an earlier start are not tagged again.

    Raises:
        UserError: the table cannot be read or written.
    """
    try:
        done, whole = _lines_of(args.output)
        with open(args.output, "ab") as file:
            file.truncate(whole)  # behind it is half a line of a start that was killed
            for path, name in pictures(args.image):
                if name in done:
                    continue
                try:
                    tags = tagger(path, args.threshold)
                except UserError as error:
                    print(f"left out: {error}", file=sys.stderr)
                    continue
                row = {
                    "image_path": name,
                    "tags": [tag.name for tag in tags if tag.category != RATING],
                    "characters": [tag.name for tag in tags if tag.category == CHARACTER],
                }
                file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
                file.flush()
    except OSError as error:
        raise UserError(
            f"got output {args.output} ({error.strerror}), expected a file that can be written; "
            "choose another"
        ) from error
    return 0


def _lines_of(path: str) -> tuple[set[str], int]:
    """Names in a table of an earlier start, and the bytes of its whole lines."""
    if not os.path.exists(path):
        return set(), 0
    with open(path, "rb") as file:
        content = file.read()
    whole = content[: content.rfind(b"\n") + 1]
    try:
        return {json.loads(line)["image_path"] for line in whole.splitlines()}, len(whole)
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"got output {path} that is no table of this command, expected one or a new name; "
            "choose another"
        ) from None
