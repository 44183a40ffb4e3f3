"""`python -m colorize_jax COMMAND`: a small module for each command.

A command is a module of `colorize_jax.commands` with `HELP` (one line), `add_arguments(parser)` and
`run(args) -> int`. Heavy imports are inside `run`, so that `--help` is fast. A command that sets
the parser's default `overrides` gets the list of `--config.key=value` arguments there.
"""

import argparse
import importlib
from collections.abc import Sequence

from colorize_jax.errors import run_program

# Command -> module; the order is that of the help page.
COMMANDS = {
    "colorize": "colorize",
    "look": "look",
    "ablate": "ablate",
    "tags": "tags",
    "encode": "encode",
    "import": "weights.import_weights",
    "export": "weights.export_weights",
    "inspect": "weights.inspect_weights",
    "verify": "verify",
    "benchmark": "benchmark",
    "studio": "studio",
}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of every command."""
    parser = argparse.ArgumentParser(prog="python -m colorize_jax")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module_name in COMMANDS.items():
        module = importlib.import_module(f"colorize_jax.commands.{module_name}")
        subparser = subparsers.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns:
        The exit status: 0, 1 where a check failed, 2 for bad input (one line on stderr says what).
    """
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    if rest and not hasattr(args, "overrides"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    args.overrides = rest
    return run_program(lambda: args.run(args))
