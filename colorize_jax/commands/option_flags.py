"""Inference options, and the precision of networks, as flags of a command line."""

import argparse
import dataclasses
from typing import Any

from colorize_jax.config.checks import Choice, Flag
from colorize_jax.inference.options import InferenceOptions


def add_option_flags(parser: argparse.ArgumentParser) -> None:
    """Declare one flag for each option, in a group of its own; none has a default."""
    group = parser.add_argument_group("options of the picture")
    for option in dataclasses.fields(InferenceOptions):
        check = option.metadata["check"]
        # argparse formats help with %.
        text = option.metadata["help"].replace("%", "%%")
        common = {"dest": option.name, "default": None}
        flag = f"--{option.name}"
        if isinstance(check, Flag):
            action = argparse.BooleanOptionalAction
            shown = " (default: yes)" if option.default else ""
            group.add_argument(flag, action=action, help=text + shown, **common)
            continue
        metavar = "|".join(check.words) if isinstance(check, Choice) else check.metavar
        shown = _show(option.default)
        action = "append" if check.repeated else "store"
        group.add_argument(flag, action=action, metavar=metavar, help=f"{text}{shown}", **common)


def add_precision_flags(parser: argparse.ArgumentParser) -> None:
    """Declare in which numbers a pipeline's networks compute, as `open_pipeline` takes them."""
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="of the networks")
    parser.add_argument(
        "--products",
        choices=["dtype", "float8", "int8"],
        default="dtype",
        help="of the UNet: in --dtype (default), or of 8 bits where that serves; float8 is for "
        "GPUs from Hopper on",
    )


def options_from_flags(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options that were given as flags, checked one by one, for `from_dict`.

    Raises:
        UserError: a value that its option does not allow.
    """
    given = {}
    for option in dataclasses.fields(InferenceOptions):
        value = getattr(args, option.name)
        if value is None:
            continue
        check = option.metadata["check"]
        if isinstance(value, list):
            value = check.parse_all(option.name, value)
        given[option.name] = check.parse(option.name, value) if isinstance(value, str) else value
    return given


def _show(default: Any) -> str:
    """Say an option's default, where it has one."""
    if default is None or default == ():
        return ""
    if isinstance(default, tuple):
        return f" (default: {','.join(f'{number:g}' for number in default)})"
    return f" (default: {default:g})" if isinstance(default, float) else f" (default: {default})"
