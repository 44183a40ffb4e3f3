"""Measure a colorizer: colour sketches by references, compare with what should have come out.

    python eval.py --checkpoint RUN_OR_WEIGHTS --output DIR
    python eval.py --checkpoint RUN_OR_WEIGHTS --data PICTURES --protocol shuffled --output DIR

Pictures are made as `colorize` makes them, with the same options. `--data illustrations` (the
default) draws pairs whose right answers are known; a folder of pictures is read as training reads
it. Protocols say which reference a sketch gets:

    aligned      its own picture
    cross        another picture of the same character: of a folder, from its reference_list
    shuffled     another picture of the set
    backgrounds  of drawn pairs, for a plugin: with it and without, in front of the reference's
                 own background
    hints        drawn pairs as in cross, with and without dots of another colour on one part
    paper-5k, paper-50k   so many pictures at 1024 px with the published options, shuffled and
                 aligned

DIR gets report.json, report.html and metrics.jsonl. Stopped or killed, it goes on with the pairs
that are left; several processes share the pairs.
"""

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils
from tqdm import tqdm

from colorize_jax.commands.option_flags import (
    add_option_flags,
    add_precision_flags,
    options_from_flags,
)
from colorize_jax.errors import UserError, leave, run_program
from colorize_jax.evaluation.protocols import pairs as protocols
from colorize_jax.evaluation.protocols.coloring import Evaluator
from colorize_jax.evaluation.protocols.controls import DrawnHints
from colorize_jax.evaluation.protocols.pairs import PRESETS, DrawnPairs, FolderPairs, Pairs
from colorize_jax.evaluation.protocols.progress import Progress
from colorize_jax.evaluation.protocols.report import PAGE, describe, in_order, show, write_report
from colorize_jax.evaluation.protocols.summary import summarize
from colorize_jax.inference.options import InferenceOptions, read_options
from colorize_jax.inference.pipeline import ColorizePipeline
from colorize_jax.io.formats.atomic import Reads
from colorize_jax.io.open_weights import weights_paths
from colorize_jax.setup.checkpoints import open_pipeline
from colorize_jax.setup.judges import open_judges
from colorize_jax.setup.machine import distributed, platform
from data.errors import DataError
from data.sources.array_records import open_pictures
from data.sources.folders import FolderOptions

DRAWN = "illustrations"
NUM = 256
PUBLISHED_OPTIONS = {"height": 1024, "width": 1024}  # all others are the defaults
# What tells a colorizer from another one; the encoders belong to it.
MADE_BY = ("unet", "sketch_encoder", "reference_projection", "background_encoder")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and evaluate; returns the exit status."""
    args = build_parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)

    def run() -> int:
        for line in platform.configure():
            print(line)
        distributed.initialize(args.coordinator, args.num_processes, args.process_id)
        return evaluate(args)

    return run_program(run, interrupted="interrupted; the same command goes on")


def evaluate(args: argparse.Namespace) -> int:
    """Colour, score and report; 1 where pairs could not be used."""
    # ------------------------------------------------------------------ networks and options
    for flag, value in (("--num", args.num), ("--batch-size", args.batch_size)):
        if value is not None and value < 1:
            raise UserError(f"got {flag} {value}, expected at least 1; change it")
    if args.heldout_share and args.data == DRAWN:
        raise UserError(
            f"got --heldout_share {args.heldout_share:g} of drawn pairs, expected a folder as "
            "--data; no run trains on these pairs: leave it out"
        )
    if args.data != DRAWN and _lies_in(args.output, args.data):
        raise UserError(
            f"got output {args.output}, which lies among the pictures {args.data}, expected "
            "another place; choose another name"
        )
    given = _given(args)
    pipeline = open_pipeline(
        *args.checkpoint, dtype=args.dtype, products=args.products, raw=args.raw
    )
    judges = open_judges(pipeline, args.judge)
    options = pipeline.defaults
    protocol = args.protocol or _protocol(args, pipeline)
    if protocol in PRESETS:
        options = InferenceOptions.from_dict(PUBLISHED_OPTIONS)
    options = options.replace(**given)
    options = options.replace(seed=options.seed or 0)

    # ------------------------------------------------------------------------------- pairs
    pairs = make_pairs(args, protocol, pipeline, options)
    about = {
        "protocol": protocol,
        "pairs": pairs.fingerprint(),
        "weights": pipeline.networks.fingerprint(*MADE_BY),
        "options": options.to_dict(),
        "judges": judges.fingerprint(),
    }
    for kind in pairs.kinds.values():
        own = options.replace(background_plugin=True) if kind.plugin else options
        pipeline.check(own)
    process, count = jax.process_index(), jax.process_count()
    if process:
        _meet("the first process has the folder")
    progress = Progress(
        args.output,
        about,
        len(pairs),
        process=process,
        overwrite=args.overwrite,
        reads=_reads(args),
    )
    if not process:
        _meet("the first process has the folder")

    # --------------------------------------------------------------------- results and scores
    share = range(process, len(pairs), count)
    left = sum(index not in progress.rows for index in share)
    with tqdm(total=left, unit="pair", disable=not left) as bar:
        evaluator = Evaluator(
            pipeline, pairs, options, progress, judges, args.batch_size, bar.update
        )
        evaluator.run(share)
    _meet("all pairs are done")
    if process:
        return 0

    # ------------------------------------------------------------------------------- report
    progress.refresh()
    summary = summarize(progress)
    write_report(progress, summary, about, pairs.kinds, paper=protocol in PRESETS)
    print_summary(summary)
    print(f"written: {Path(args.output) / PAGE}")
    return 1 if summary["problems"] else 0


def make_pairs(
    args: argparse.Namespace,
    protocol: str,
    pipeline: ColorizePipeline,
    options: InferenceOptions,
) -> Pairs:
    """The pairs of a protocol.

    Raises:
        UserError: the data have no such protocol, or too few pictures for it.
    """
    num = PRESETS.get(protocol, NUM) if args.num is None else args.num
    drawn = args.data == DRAWN
    known = protocols.DRAWN_KINDS if drawn else protocols.FOLDER_KINDS
    if protocol not in known:
        raise UserError(
            f"got --protocol {protocol} of {args.data}, expected one of {', '.join(known)}; choose "
            "one or other data"
        )
    if protocol == protocols.BACKGROUNDS and pipeline.system.background_encoder is None:
        raise UserError(
            f"got --protocol {protocol} and weights without a plugin, expected those of a second "
            "stage; name them with --checkpoint too"
        )
    if drawn:
        side = pipeline.system.limits.default
        size = options.height or side, options.width or side
        if protocol == protocols.HINTS:
            return DrawnHints(num, *size, args.pairs_seed)
        return DrawnPairs(protocol, num, *size, args.pairs_seed)
    try:
        source = open_pictures(args.data, _folder_options(args))
    except DataError as error:
        raise UserError(str(error)) from error
    return FolderPairs(source, protocol, num, args.pairs_seed)


def _meet(reason: str) -> None:
    """Wait for the other processes, where there are others."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(reason)


def print_summary(summary: Mapping[str, Any]) -> None:
    """What the figures say, in words."""
    for name, figure in summary["ratios"].items():
        print(f"{name} ratio: {show(figure)}")
    for name, figure in in_order(summary["distances"] | summary["means"]).items():
        print(f"{describe(name)}: {show(figure)}")
    for doubt in summary["doubts"]:
        print(f"warning: {doubt}", file=sys.stderr)
    for name, problem in summary["problems"].items():
        print(f"unusable: {name}: {problem}", file=sys.stderr)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--checkpoint",
        action="append",
        required=True,
        metavar="PATH",
        help="a training run's workdir, folder of weights, exported or published file, or demo; "
        "repeat it where networks lie elsewhere",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the evaluation")
    parser.add_argument(
        "--data", default=DRAWN, metavar="PICTURES", help=f"a folder, or {DRAWN} (the default)"
    )
    words = [*dict.fromkeys([*protocols.DRAWN_KINDS, *protocols.FOLDER_KINDS])]
    parser.add_argument(
        "--protocol",
        choices=words,
        help="see above (default: cross; of a second stage's run backgrounds)",
    )
    parser.add_argument("--num", type=int, help=f"pairs (default: {NUM}, or the preset's)")
    parser.add_argument(
        "--pairs-seed", type=int, default=0, metavar="SEED", help="which pairs (default: 0)"
    )
    parser.add_argument(
        "--heldout_share",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="of a folder, the pictures alone that a run with this data.heldout_share kept back",
    )
    parser.add_argument(
        "--judge",
        action="append",
        default=[],
        metavar="DIR",
        help="imported weights of inception (FID, KID) or lpips; CLIP and tagger are the "
        "checkpoint's",
    )
    parser.add_argument(
        "--batch-size", type=int, default=8, metavar="N", help="pictures at a time (default: 8)"
    )
    parser.add_argument("--options", metavar="FILE", help="JSON or YAML with options of pictures")
    add_precision_flags(parser)
    parser.add_argument(
        "--raw", action="store_true", help="the parameters themselves, not their running average"
    )
    parser.add_argument("--overwrite", action="store_true", help="begin anew in a used folder")
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="of several processes")
    parser.add_argument("--num_processes", type=int, metavar="N", help="how many there are")
    parser.add_argument("--process_id", type=int, metavar="K", help="number of this one, from 0")
    add_option_flags(parser)
    return parser


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """Options of pictures that the command line or its file names."""
    given = read_options(args.options) if args.options else {}
    return given | options_from_flags(args)


def _lies_in(path: str, folder: str) -> bool:
    return Path(path).resolve().is_relative_to(Path(folder).resolve())


def _protocol(args: argparse.Namespace, pipeline: ColorizePipeline) -> str:
    """The protocol of a call that names none."""
    has_plugin = pipeline.system.background_encoder is not None
    return protocols.BACKGROUNDS if has_plugin and args.data == DRAWN else protocols.CROSS


def _folder_options(args: argparse.Namespace) -> FolderOptions:
    share = args.heldout_share
    return FolderOptions(heldout_share=share, heldout=bool(share), masks="off")


def _reads(args: argparse.Namespace) -> Reads:
    paths = [path for name in args.checkpoint for path in weights_paths(name)]
    data = [] if args.data == DRAWN else [args.data]
    return Reads(
        {"checkpoint": paths, "pictures": data, "judge": args.judge, "options": [args.options]}
    )


if __name__ == "__main__":
    leave(main())
