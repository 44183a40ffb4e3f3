"""`colorize`: sketches and references -> pictures."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

HELP = "colour sketches like references (exit status 1: some files of a folder could not be read)"
EPILOG = (
    "Options of the picture come from the checkpoint (a run samples as it was sampled from "
    "in training), --from-image, --options and these flags; later ones win. In the place of a "
    'picture or hint, "none" leaves out the one of --from-image.'
)
NONE = "none"
MAX_SHEET_ROWS = 100
SHEET_SIDE = 256  # px
COLUMNS = ("sketch", "reference", "result")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    from colorize_jax.commands.option_flags import add_option_flags, add_precision_flags

    parser.epilog = EPILOG
    parser.add_argument(
        "--checkpoint",
        action="append",
        metavar="PATH",
        help="demo, the model that comes with the package, or workdir of a training run, folder of "
        "weights, exported or published file; repeat it where networks (CLIP, tagger, VAE) lie "
        "elsewhere",
    )
    parser.add_argument("--sketch", metavar="PATH", help="picture, or folder of them")
    parser.add_argument(
        "--reference",
        action="append",
        metavar="PATH[:MASK]",
        help="picture for all sketches, or folder with their names; repeat it for several "
        "references of one picture, each where its mask of the sketch is white",
    )
    parser.add_argument(
        "--scene",
        metavar="FILE",
        help="YAML with several references, their masks, weights and strengths",
    )
    parser.add_argument("--output", required=True, metavar="PATH", help="PNG, or folder")
    parser.add_argument(
        "--sketch_mask", metavar="PATH", help="foreground of the sketch in white, or folder of them"
    )
    parser.add_argument(
        "--reference_mask", metavar="PATH", help="foreground of the reference, likewise"
    )
    parser.add_argument(
        "--background",
        metavar="PATH",
        help="picture, or folder of them, in the place of the reference's own background",
    )
    parser.add_argument(
        "--hints",
        metavar="PATH",
        help="picture, or folder of them, transparent but for colours that are wanted there",
    )
    parser.add_argument(
        "--hint",
        action="append",
        metavar="X,Y,#RRGGBB[,RADIUS]",
        help="a point of colour, in shares of width, height and shorter side; repeatable",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="DIR",
        help="CLIP's tokenizer, for --text: folder with tokenizer.json, or vocab.json and "
        "merges.txt",
    )
    parser.add_argument(
        "--from-image", metavar="PNG", help="repeat a picture made here, with what else is given"
    )
    parser.add_argument("--options", metavar="FILE", help="JSON or YAML with options")
    parser.add_argument("--contact-sheet", metavar="PNG", help="a page of all that was made")
    parser.add_argument(
        "--batch-size", type=int, default=1, metavar="N", help="pictures at a time (default: 1)"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="make what exists again; folders skip it otherwise"
    )
    add_precision_flags(parser)
    parser.add_argument(
        "--prediction-type", metavar="TYPE", help="v or eps, where the checkpoint does not say"
    )
    parser.add_argument(
        "--raw",
        action="store_true",
        help="of a training run, the parameters themselves and not their running average",
    )
    add_option_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Colour; 0 where all was done, 1 where files of a folder could not be read."""
    from tqdm import tqdm

    from colorize_jax.errors import UserError
    from colorize_jax.inference.jobs import run_jobs
    from colorize_jax.setup.checkpoints import open_pipeline
    from colorize_jax.setup.machine import platform

    for line in platform.configure():
        print(line)
    given = _recall(args)
    if args.batch_size < 1:
        raise UserError(f"got --batch-size {args.batch_size}, expected at least 1; change it")
    _check_of_all(args)
    every = _all_jobs(args)
    reads = _reads(args, every)
    _check_outputs(args, every, reads)
    jobs, skipped = _left(args, every)
    if not jobs:
        print(f"nothing to do: all {skipped} pictures exist in {args.output}")
        _write_sheet(args, reads)
        return 0
    pipeline = open_pipeline(
        *args.checkpoint,
        dtype=args.dtype,
        products=args.products,
        prediction_type=args.prediction_type,
        raw=args.raw,
        tokenizer=args.tokenizer,
    )
    options = pipeline.defaults.replace(**given).with_seed()
    with tqdm(total=len(jobs), unit="picture", disable=len(jobs) == 1) as bar:

        def progress(count: int, warnings: list[str]) -> None:
            for warning in warnings:
                bar.write(f"warning: {warning}", file=sys.stderr)
            bar.update(count)

        report = run_jobs(
            pipeline,
            jobs,
            options,
            batch_size=args.batch_size,
            overwrite=args.overwrite,
            reads=reads,
            extra={
                "checkpoints": args.checkpoint,
                "tokenizer": args.tokenizer,
                **({} if args.scene is None else {"scene": args.scene.to_dict()}),
                **({"hint": args.hint} if args.hint else {}),
            },
            progress=progress,
        )
    if not Path(args.sketch).is_dir():
        if report.failed:
            raise UserError(report.failed[0][1])
        print(f"wrote {jobs[0].output} (seed {options.seed})")
        _write_sheet(args, reads)
        return 0
    existing = f", {skipped} existed" if skipped else ""
    print(f"wrote {len(report.made)} pictures to {args.output}{existing} (seed {options.seed})")
    _write_sheet(args, reads)
    for job, reason in report.failed:
        print(f"failed: {job.sketch.name}: {reason}", file=sys.stderr)
    return 1 if report.failed else 0


def _recall(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of all sources; fill in the paths stored in the picture of --from-image.

    Raises:
        UserError: an option is wrong, or a path is given nowhere.
    """
    from colorize_jax.commands.option_flags import options_from_flags
    from colorize_jax.errors import UserError
    from colorize_jax.inference.metadata import read_metadata
    from colorize_jax.inference.options import InferenceOptions, read_options

    dropped = _drop(args)
    args.scene_file = args.scene
    args.reference, args.scene = _references(args)
    remembered = read_metadata(args.from_image) if args.from_image else None
    given = {} if remembered is None else remembered.options.to_dict()
    if args.options:
        given |= read_options(args.options)
    given |= options_from_flags(args)
    options = InferenceOptions.from_dict(given)  # before anything is loaded
    if options.unconditional:
        if args.reference or args.scene:
            raise UserError(
                "got a reference and --unconditional, expected one of them: without a reference "
                "it would not be looked at; drop one (--no-unconditional takes a remembered one)"
            )
        dropped |= {"reference", "reference_mask", "background"}
    if remembered is not None:
        _recall_inputs(args, remembered, dropped)
    for name in ("checkpoint", "sketch"):
        if not getattr(args, name):
            raise UserError(f"got no --{name}, expected one; name it")
    return given


def _drop(args: argparse.Namespace) -> set[str]:
    """Roles of which "none" was given: what --from-image remembers of them is left out."""
    from colorize_jax.inference.jobs import PARTNERS

    dropped = {role for role in (*PARTNERS, "hint") if getattr(args, role) in (NONE, [NONE])}
    for role in dropped:
        setattr(args, role, None)
    return dropped


def _recall_inputs(args: argparse.Namespace, remembered: Any, dropped: set[str]) -> None:
    """Fill in what a picture was made from, but for what is given or dropped."""
    from colorize_jax.inference.controls.scenes import Scene

    hinted = args.hint or args.hints or dropped & {"hint", "hints"}
    if not (args.scene or args.reference or "reference" in dropped):
        scene = remembered.extra.get("scene")
        args.scene = None if scene is None else Scene.from_dict(scene)
    taken = dropped | ({"reference"} if args.scene else set()) | ({"hints"} if hinted else set())
    for role, path in remembered.inputs.items():
        if getattr(args, role, path) is None and role not in taken:
            setattr(args, role, path)
    if not hinted:
        args.hint = remembered.extra.get("hint")
    args.checkpoint = args.checkpoint or remembered.extra.get("checkpoints")
    args.tokenizer = args.tokenizer or remembered.extra.get("tokenizer")


def _references(args: argparse.Namespace) -> tuple[str | None, Any]:
    """The one reference, or several as a scene."""
    from colorize_jax.errors import UserError
    from colorize_jax.inference.controls.scenes import RegionReference, Scene

    if args.hint and args.hints:
        raise UserError(
            "got --hint and --hints, expected one of them: draw the points into the picture or "
            "drop it"
        )
    if args.scene is not None and args.reference:
        raise UserError(
            f"got --reference and --scene {args.scene}, expected one of them: a scene names all of "
            "its references; drop the other"
        )
    if args.scene is not None:
        return None, Scene.read(args.scene)
    if not args.reference:
        return None, None
    parts = [_split_mask(text) for text in args.reference]
    if len(parts) == 1 and parts[0][1] is None:
        return parts[0][0], None
    return None, Scene(tuple(RegionReference(picture, mask) for picture, mask in parts))


def _check_of_all(args: argparse.Namespace) -> None:
    """Raise UserError for what would be wrong for every sketch, before weights are loaded."""
    from colorize_jax.errors import UserError
    from colorize_jax.inference.controls.hints import parse_point

    for point in args.hint or ():
        parse_point(point)
    for path in [] if args.scene is None else args.scene.files():
        if not Path(path).is_file():
            raise UserError(
                f"got {path} among several references, expected a picture file; correct its path "
                "(a folder of references goes with one --reference alone)"
            )


def _split_mask(text: str) -> tuple[str, str | None]:
    """PATH or PATH:MASK; a path that has a colon itself is one where it exists."""
    path, colon, mask = text.rpartition(":")
    return (path, mask) if colon and path and mask and not Path(text).exists() else (text, None)


def _all_jobs(args: argparse.Namespace) -> list[Any]:
    from colorize_jax.inference.jobs import PARTNERS, plan_jobs

    roles = ("sketch", "output", *PARTNERS)
    paths = {role: Path(path) for role in roles if (path := getattr(args, role)) is not None}
    return plan_jobs(scene=args.scene, points=args.hint or (), **paths)


def _reads(args: argparse.Namespace, jobs: list[Any]) -> Any:
    """All that the command reads."""
    from colorize_jax.inference.jobs import PARTNERS
    from colorize_jax.io.formats.atomic import Reads
    from colorize_jax.io.open_weights import weights_paths

    pictures = {role: [getattr(job, role) for job in jobs] for role in ("sketch", *PARTNERS)}
    checkpoints = [path for name in args.checkpoint for path in weights_paths(name)]
    files = {"checkpoint": checkpoints, "options": [args.options], "picture": [args.from_image]}
    if args.scene is not None:
        pictures["reference"] = args.scene.files()
    return Reads({**pictures, **files, "tokenizer": [args.tokenizer], "scene": [args.scene_file]})


def _check_outputs(args: argparse.Namespace, jobs: list[Any], reads: Any) -> None:
    """Raise UserError before anything is made where an output may not be written."""
    from colorize_jax.errors import UserError
    from colorize_jax.io.formats.atomic import Reads, check_output

    for job in jobs:
        reads.check(job.output)
    if not Path(args.sketch).is_dir():
        check_output(jobs[0].output, overwrite=args.overwrite, reads=reads)
    if args.contact_sheet:
        check_output(args.contact_sheet, overwrite=args.overwrite, reads=reads)
        Reads({"result": [job.output for job in jobs]}).check(Path(args.contact_sheet))
        if not str(args.contact_sheet).lower().endswith(".png"):
            raise UserError(
                f"got --contact-sheet {args.contact_sheet}, expected a name that ends in .png; "
                "change it"
            )


def _left(args: argparse.Namespace, jobs: list[Any]) -> tuple[list[Any], int]:
    """Jobs that are to be done, and how many are done already."""
    if args.overwrite:
        return jobs, 0
    left = [job for job in jobs if not os.path.lexists(job.output)]
    return left, len(jobs) - len(left)


def _write_sheet(args: argparse.Namespace, reads: Any) -> None:
    """Lay all results that exist on one page, those of earlier calls too."""
    if not args.contact_sheet:
        return
    from PIL import Image

    from colorize_jax.evaluation.contact_sheet import contact_sheet
    from colorize_jax.inference.pictures.arrays import read_picture
    from colorize_jax.io.formats.atomic import atomic_output

    def thumbnail(path: Path | str | None) -> Any:
        if path is None:
            return None
        picture = read_picture(path).on(255)
        picture.thumbnail((SHEET_SIDE, SHEET_SIDE))
        return picture

    made = [job for job in _all_jobs(args) if job.output.exists()][:MAX_SHEET_ROWS]
    if not made:
        return

    def references(job: Any) -> Any:
        if job.scene is None:
            return thumbnail(job.reference)
        shown = [thumbnail(one.picture) for one in job.scene.references]
        row = Image.new("RGB", (sum(one.width for one in shown), max(one.height for one in shown)))
        left = 0
        for one in shown:
            row.paste(one, (left, 0))
            left += one.width
        return row

    rows = [[thumbnail(j.sketch), references(j), thumbnail(j.output)] for j in made]
    sheet = contact_sheet(rows, COLUMNS, [job.output.name for job in made])
    nbytes = sheet.width * sheet.height * 3
    options = {"overwrite": args.overwrite, "reads": reads}
    with atomic_output(args.contact_sheet, nbytes=nbytes, **options) as place:
        sheet.save(place, format="PNG")
    print(f"wrote {args.contact_sheet}")
