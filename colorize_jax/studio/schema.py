"""`InferenceOptions` as JSON Schema, made from the rules by which the options are checked."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from colorize_jax.config import checks
from colorize_jax.config.options import sampler_name, schedule_name
from colorize_jax.diffusion.samplers import AUTOMATIC, SAMPLERS, SCHEDULES
from colorize_jax.inference.options import InferenceOptions
from colorize_jax.inference.text.manipulation import RULES, TextManipulations

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
# Registry -> its names as they are written; aliases and other spellings are understood, too.
NAMES = {sampler_name: tuple(SAMPLERS), schedule_name: (AUTOMATIC, *SCHEDULES)}


def options_schema() -> Schema:
    """Every option with its range, its default and its meaning."""
    fields = dataclasses.fields(InferenceOptions)
    defaults = InferenceOptions().to_dict()
    properties = {
        one.name: {
            **check_schema(one.metadata["check"]),
            "description": one.metadata["help"],
            "default": defaults[one.name],
        }
        for one in fields
    }
    return {
        "$schema": DIALECT,
        "title": InferenceOptions.__name__,
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def check_schema(check: checks.Check) -> Schema:
    """What a rule allows; a rule that is not known here is an error of the program."""
    return _MAKERS[type(check)](check)


def _real(check: checks.Real) -> Schema:
    schema: Schema = {"type": "number"}
    if math.isfinite(check.low):
        schema["exclusiveMinimum" if check.open in ("low", "both") else "minimum"] = check.low
    if math.isfinite(check.high):
        schema["exclusiveMaximum" if check.open in ("high", "both") else "maximum"] = check.high
    return schema


def _items(check: checks.Items) -> Schema:
    schema = {"type": "array", "items": check_schema(check.each)}
    if check.length is not None:
        return schema | {"minItems": check.length, "maxItems": check.length}
    return schema | ({} if check.empty else {"minItems": 1})


def _maybe(check: checks.Maybe) -> Schema:
    return {"anyOf": [check_schema(check.check), {"type": "null"}]}


def _named(check: checks.Named) -> Schema:
    return {"type": "string", "enum": list(NAMES[check.find])}


def _text(check: checks.Text) -> Schema:
    return {"type": "string"} if check.empty else {"type": "string", "pattern": r"\S"}


def _pair(check: checks.Pair) -> Schema:
    both = [check_schema(check.first), check_schema(check.second)]
    return {"type": "array", "prefixItems": both, "minItems": 2, "maxItems": 2}


def _texts(check: TextManipulations) -> Schema:
    one = {
        "type": "object",
        "properties": {name: check_schema(rule) for name, rule in RULES.items()},
        "required": ["target"],
        "additionalProperties": False,
    }
    return {"type": "array", "items": one}


_SHARE: Schema = {"type": "number", "minimum": 0, "maximum": 1}

_MAKERS: dict[type[checks.Check], Callable[[Any], Schema]] = {
    checks.Real: _real,
    checks.Whole: lambda c: {"type": "integer", "minimum": c.low, "maximum": c.high},
    checks.Flag: lambda c: {"type": "boolean"},
    checks.Choice: lambda c: {"type": "string", "enum": list(c.words)},
    checks.Text: _text,
    checks.Location: _text,
    checks.Named: _named,
    checks.Items: _items,
    checks.Pair: _pair,
    checks.Either: lambda c: {"anyOf": [check_schema(each) for each in c.checks]},
    checks.Window: lambda c: {"type": "array", "items": _SHARE, "minItems": 2, "maxItems": 2},
    checks.Scales: lambda c: {"type": "object", "additionalProperties": check_schema(c.each)},
    checks.Maybe: _maybe,
    TextManipulations: _texts,
}
