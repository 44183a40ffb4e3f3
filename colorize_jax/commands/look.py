"""`look`: what the networks look at while they make a picture."""

import argparse
from pathlib import Path
from typing import Any

HELP = "show attention, likeness of places, the denoising and every level's part in one picture"
KIND = "a folder of maps"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    from colorize_jax.commands.option_flags import add_option_flags, add_precision_flags

    parser.add_argument(
        "--checkpoint",
        action="append",
        required=True,
        metavar="PATH",
        help="as for colorize; repeat it where networks lie elsewhere",
    )
    parser.add_argument("--sketch", required=True, metavar="PATH", help="one picture")
    parser.add_argument("--reference", required=True, metavar="PATH", help="one picture")
    parser.add_argument(
        "--aligned",
        metavar="PATH",
        help="the sketch's own picture, whose likeness of places the reference's should have "
        "(default: the result itself)",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for page and maps")
    parser.add_argument(
        "--point",
        action="append",
        metavar="Y,X",
        help="a place in the picture, as shares of its height and width; repeatable",
    )
    parser.add_argument(
        "--blocks", metavar="N,...", help="transformer blocks whose likeness is shown (the run's)"
    )
    parser.add_argument(
        "--noise",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="of the timesteps, at which the networks look (default: 0.5)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier folder")
    add_precision_flags(parser)
    parser.add_argument("--raw", action="store_true", help="not the running average")
    add_option_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Make the picture, look, and write the folder."""
    from colorize_jax.commands.option_flags import options_from_flags
    from colorize_jax.errors import UserError
    from colorize_jax.evaluation.page import image, page, table
    from colorize_jax.io.formats.atomic import Reads, atomic_output, check_output
    from colorize_jax.io.open_weights import weights_paths
    from colorize_jax.looking.sheets import FRAMES, POINTS, TEXTS, Looks, default_blocks
    from colorize_jax.setup.checkpoints import open_pipeline
    from colorize_jax.setup.machine import platform

    if not 0 <= args.noise <= 1:
        raise UserError(f"got --noise {args.noise}, expected 0..1; give a share")
    points = [_point(text) for text in args.point or ()] or list(POINTS)
    given = options_from_flags(args)
    pictures = {name: [getattr(args, name)] for name in ("sketch", "reference", "aligned")}
    weights = [path for name in args.checkpoint for path in weights_paths(name)]
    rules: dict[str, Any] = {"overwrite": args.overwrite, "kind": KIND}
    rules["reads"] = Reads({"checkpoint": weights, **pictures})
    check_output(args.output, **rules)
    for line in platform.configure():
        print(line)
    pipeline = open_pipeline(
        *args.checkpoint, dtype=args.dtype, products=args.products, raw=args.raw
    )
    options = pipeline.defaults.replace(**given).with_seed()
    if options.unconditional:
        raise UserError("got unconditional, expected a reference to look at; drop the option")
    blocks = _blocks(args.blocks) or default_blocks(pipeline)
    look = Looks(pipeline, options, args.sketch, args.reference, args.noise)
    sheets = {
        "denoising": look.denoising(FRAMES),
        "attention": look.attention(points),
        "likeness": look.likeness(points, blocks, args.aligned),
        "levels": look.levels(),
    }
    facts = {
        "sketch": args.sketch,
        "reference": args.reference,
        "aligned reference": args.aligned or "the result itself",
        "seed": str(options.seed),
        "noise": f"{args.noise:g}",
    }
    parts = [table((), facts.items())]
    for name, sheet in sheets.items():
        parts.append(f"<h2>{name.capitalize()}</h2><p>{TEXTS[name]}</p>{image(sheet, name)}")
    text = page("What the networks look at", parts)
    with atomic_output(args.output, nbytes=2 * len(text), **rules) as folder:
        (folder / "look.html").write_text(text)
        look.result.save(folder / "result.png")
        for name, sheet in sheets.items():
            sheet.save(folder / f"{name}.png")
    print(f"wrote {Path(args.output) / 'look.html'} (seed {options.seed})")
    return 0


def _blocks(text: str | None) -> list[int | str]:
    """Blocks that were asked for."""
    parts = [part.strip() for part in text.split(",")] if text else []
    return [int(part) if part.isdigit() else part for part in parts]


def _point(text: str) -> tuple[float, float]:
    from colorize_jax.errors import UserError

    try:
        y, x = (float(part) for part in text.split(","))
        if 0 <= y < 1 and 0 <= x < 1:
            return y, x
    except ValueError:
        pass
    raise UserError(f"got --point {text}, expected Y,X from 0 to 1, such as 0.35,0.5; correct it")
