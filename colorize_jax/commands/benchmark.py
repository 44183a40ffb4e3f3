"""`benchmark`: how fast training and sampling are, and how much memory they need."""

import argparse
import json
from collections.abc import Callable
from typing import Any

HELP = "time the training step or sampling, count a step's FLOPs, or find a picture's memory"
EPILOG = (
    "step: the training step with one branch and with both. sample: pictures by the config's "
    "sampler. memory: what colouring a picture needs, by compilation alone. suite: all that is "
    "worth knowing of the accelerator that is here, within a budget. Weights and pictures are made "
    "up. --config.section.key=value overrides the config."
)
DEFAULT_CALLS = 10
DEFAULT_BUDGET = 480


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument("what", choices=["step", "sample", "memory", "suite"], help="see below")
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="a file of configs/ (default of suite: base, on CPUs tiny; the others need one)",
    )
    parser.add_argument(
        "--budget",
        type=float,
        default=DEFAULT_BUDGET,
        metavar="SECONDS",
        help=f"of suite (default: {DEFAULT_BUDGET})",
    )
    parser.add_argument("--resolution", type=int, metavar="N", help="height and width, px")
    parser.add_argument(
        "--batch_size",
        type=int,
        metavar="N",
        help="all devices together (default of step: the config's; of sample: one a device)",
    )
    parser.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help=f"how many warm calls are timed (default: {DEFAULT_CALLS})",
    )
    parser.add_argument(
        "--branches", choices=["single", "dual", "both"], default="both", help="of step"
    )
    parser.add_argument(
        "--count", action="store_true", help="of step: count FLOPs from shapes; nothing runs"
    )
    parser.add_argument(
        "--compile_only", action="store_true", help="of step: memory of the programs; nothing runs"
    )
    parser.add_argument(
        "--controls", action="store_true", help="of memory: with all that can steer a picture"
    )
    parser.add_argument(
        "--topology",
        metavar="NAME:SHAPE",
        help="compile for machines that need not be here, e.g. v5p:2x2x1 or h100:8; nothing runs "
        "(not of suite)",
    )
    parser.add_argument(
        "--output",
        metavar="PATH",
        help="write all that was found to a JSON file, of suite a folder",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace that file")
    parser.set_defaults(overrides=[])


def run(args: argparse.Namespace) -> int:
    """Measure, print a table, and write the file where one is named."""
    import jax

    from colorize_jax.config.load import load_config
    from colorize_jax.io.formats.atomic import Reads, atomic_output
    from colorize_jax.setup.machine import distributed, platform

    _check(args)
    if args.what == "suite":
        from colorize_jax.benchmark.suite import run_suite

        return run_suite(args.budget, args.output, args.config or "", overwrite=args.overwrite)
    overrides = list(args.overrides)
    if args.resolution is not None:
        overrides += [f"--config.data.{side}={args.resolution}" for side in ("height", "width")]
    if args.batch_size is not None and args.what == "step":
        overrides.append(f"--config.data.batch_size={args.batch_size}")
    config = load_config(args.config, overrides)
    measure, summary = _chosen(args)
    if args.count or args.topology:
        jax.config.update("jax_platforms", "cpu")  # no device is needed, so none is taken
    else:
        for line in platform.configure():
            print(line)
        distributed.initialize()
    report = measure(config) | {"config_file": args.config, "overrides": overrides}
    if jax.process_index() > 0:
        return 0
    print(summary(report))
    if args.output:
        text = json.dumps(report, indent=2) + "\n"
        options = {"overwrite": args.overwrite, "reads": Reads({"config": [args.config]})}
        with atomic_output(args.output, nbytes=len(text), **options) as place:
            place.write_text(text)
        print(f"written to {args.output}")
    return 0


def _chosen(args: argparse.Namespace) -> tuple[Callable[[Any], Any], Callable[[Any], str]]:
    """What to do with a config, and with what comes of it."""
    from colorize_jax.benchmark import memory, sample, step

    calls = args.steps or DEFAULT_CALLS
    if args.what == "memory":
        return (
            lambda config: memory.picture_memory(config, args.topology, controls=args.controls)
        ), memory.summary
    if args.what == "sample" and args.topology:
        return (
            lambda config: sample.compile_sample(config, args.topology, args.batch_size)
        ), sample.compile_summary
    if args.what == "sample":
        return (
            lambda config: sample.benchmark_sample(config, args.batch_size, calls)
        ), sample.summary
    if args.count:
        return step.count_step, step.count_summary
    if args.compile_only or args.topology:
        return (
            lambda config: step.compile_steps(config, args.topology, args.branches)
        ), step.compile_summary
    return (lambda config: step.benchmark_step(config, args.branches, calls)), step.summary


def _check(args: argparse.Namespace) -> None:
    """Raise UserError before anything slow where arguments are wrong."""
    from colorize_jax.errors import UserError
    from colorize_jax.io.formats.atomic import Reads, check_output

    needed = "output" if args.what == "suite" else "config"
    if not getattr(args, needed):
        raise UserError(f"got {args.what} without --{needed}, expected one; add it")
    for name in ("budget", "steps", "batch_size", "resolution"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"got --{name} {value}, expected at least 1; change it")
    kinds_of = {
        "count": ["step"],
        "compile_only": ["step"],
        "topology": ["step", "sample", "memory"],
        "controls": ["memory"],
    }
    for name, kinds in kinds_of.items():
        if getattr(args, name) and args.what not in kinds:
            raise UserError(
                f"got --{name} with {args.what}, expected it with {' or '.join(kinds)} only; leave "
                "it out"
            )
    if args.steps and (args.topology or args.count or args.compile_only):
        given = next(name for name in ("topology", "count", "compile_only") if getattr(args, name))
        raise UserError(
            f"got --steps with --{given}, expected one of them; nothing is timed where nothing runs"
        )
    if args.output and args.what != "suite":
        reads = Reads({"config": [args.config]})
        check_output(args.output, overwrite=args.overwrite, reads=reads)
