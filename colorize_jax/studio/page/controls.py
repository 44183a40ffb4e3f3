"""`InferenceOptions` -> a control for each option, and the controls' values back to options.

An option whose rule has no control of its own is a text, read as on the command line.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from colorize_jax.config.checks import Check, Choice, Flag, Maybe, Named, Real, Scales, Whole
from colorize_jax.inference.options import InferenceOptions
from colorize_jax.inference.text.manipulation import TextManipulations
from colorize_jax.studio.schema import NAMES

FIELDS = {one.name: one for one in dataclasses.fields(InferenceOptions)}
# What most pictures need.
FRONT = ("reference_strength", "sketch_strength", "reference_guidance", "steps", "seed", "autofit")
GROUPS: dict[str, tuple[str, ...]] = {
    "Size": ("height", "width", "crop_to_sketch"),
    "Guidance": ("sketch_guidance", "guidance_window", "no_guidance_window", "unconditional"),
    "Strengths": ("level_strengths", "block_strengths", "sketch_strengths"),
    "Sampling": ("sampler", "schedule", "preprocessor", "aesthetic_score"),
    "Foreground and background": (
        "split_attention",
        "foreground_strength",
        "background_strength",
        "merge",
        "mask_source",
        "sketch_mask_threshold",
        "reference_mask_threshold",
        "remove_foreground",
        "remove_background",
    ),
    "Background transfer": (
        "background_plugin",
        "reference_mask_dilation",
        "white_background",
        "remove_background_figure",
        "foreground_latent",
        "background_latent_copy",
    ),
}
REST = "More"
MAX_SLIDER = 2000  # whole numbers of a wider range are typed


def groups() -> dict[str, tuple[str, ...]]:
    """Group -> its options; every option that is not in front is in one of them."""
    named = {*FRONT, *(name for names in GROUPS.values() for name in names)}
    return {**GROUPS, REST: tuple(name for name in FIELDS if name not in named)}


def make_control(name: str, value: Any) -> gr.components.Component:
    """Make the control of an option.

    Args:
        name: of the option.
        value: as JSON has it.
    """
    check, text = FIELDS[name].metadata["check"], FIELDS[name].metadata["help"]
    common = {"label": name.replace("_", " "), "info": text, "value": shown(name, value)}
    common |= {"elem_id": f"option-{name}"}
    if isinstance(check, Flag):
        return gr.Checkbox(**common)
    if isinstance(check, Choice):
        return gr.Dropdown(list(check.words), **common)
    if isinstance(check, Named):
        return gr.Dropdown(list(NAMES[check.find]), **common)
    if isinstance(check, Real) and math.isfinite(check.high - check.low):
        return gr.Slider(check.low, check.high, step=0.01 if check.high <= 1 else 0.05, **common)
    if isinstance(check, Whole) and check.high <= MAX_SLIDER:
        return gr.Slider(check.low, check.high, step=1, **common)
    if isinstance(check, Real | Whole):
        return gr.Number(**common)
    metavar = check.metavar or "VALUE"
    lines = 3 if check.repeated else 1
    return gr.Textbox(placeholder=f"{metavar} (empty: none)", lines=lines, **common)


def shown(name: str, value: Any) -> Any:
    """An option's value, as JSON has it, in the form that its control has."""
    check: Check = FIELDS[name].metadata["check"]
    if isinstance(check, Flag | Choice | Named | Real | Whole):
        return value
    check = check.check if isinstance(check, Maybe) else check
    if value is None:
        return ""
    if isinstance(check, TextManipulations):
        return "\n".join(_text_line(one) for one in value)
    if isinstance(check, Scales):
        return ",".join(f"{key}={scale:g}" for key, scale in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(f"{number:g}" for number in value)
    return str(value)


def options_of(values: Mapping[str, Any]) -> InferenceOptions:
    """Read all controls.

    Args:
        values: option -> what its control holds.

    Raises:
        UserError: a value that its option does not allow.
    """
    return InferenceOptions.from_dict({name: _read(name, v) for name, v in values.items()})


def _read(name: str, value: Any) -> Any:
    check: Check = FIELDS[name].metadata["check"]
    if isinstance(check, Whole) and isinstance(value, float) and value.is_integer():
        return int(value)  # a browser knows one kind of number
    if not isinstance(value, str) or isinstance(check, Choice | Named):
        return value
    text = value.strip()
    if check.repeated:
        return check.parse_all(name, [line for line in text.splitlines() if line.strip()])
    if not text:
        return FIELDS[name].default
    return check.parse(name, text)


def _text_line(one: Mapping[str, Any]) -> str:
    """A manipulation as its option's command line has it."""
    settings = {key: value for key, value in one.items() if key != "target" and value is not None}
    told = (f"{key}={str(v).lower() if isinstance(v, bool) else v}" for key, v in settings.items())
    return "; ".join((one["target"], *told))
