"""The JSON Schema of the options allows what the options allow."""

import dataclasses

import pytest

pytest.importorskip("fastapi")

from colorize_jax.errors import UserError
from colorize_jax.inference.options import InferenceOptions
from colorize_jax.studio.schema import options_schema

SCHEMA = options_schema()


def fits(value, schema):
    """Whether a value is what the part of JSON Schema that is used here allows."""
    if "anyOf" in schema:
        return any(fits(value, one) for one in schema["anyOf"])
    number = isinstance(value, int | float) and not isinstance(value, bool)
    kinds = {
        "null": value is None,
        "boolean": isinstance(value, bool),
        "string": isinstance(value, str),
        "number": number,
        "integer": number and isinstance(value, int),
        "array": isinstance(value, list),
        "object": isinstance(value, dict),
    }
    if not kinds[schema["type"]] or value not in schema.get("enum", [value]):
        return False
    if number:
        low, high = schema.get("minimum", value), schema.get("maximum", value)
        return low <= value <= high
    if isinstance(value, list):
        length = schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))
        return length and all(fits(item, schema["items"]) for item in value)
    return True


def accepted(name, value):
    try:
        InferenceOptions.from_dict({name: value})
    except UserError:
        return False
    return True


def test_every_option_is_there_with_meaning_and_default():
    fields = {one.name: one for one in dataclasses.fields(InferenceOptions)}
    assert list(SCHEMA["properties"]) == list(fields)
    for name, one in SCHEMA["properties"].items():
        assert one["description"] == fields[name].metadata["help"]
        assert one["default"] == InferenceOptions().to_dict()[name]
        assert fits(one["default"], one), name


VALUES = [None, True, -11, -1, 0, 1, 0.5, 3, 21, 11.5, 10**6, "invert", "Euler", "Karras", "x"]
VALUES += [[], [1], [0.1, 0.9], [1.0] * 3, [1.0] * 4, [2, 3], {}, {"background": 0.5}, {"a": "b"}]


@pytest.mark.parametrize("name", SCHEMA["properties"])
def test_it_allows_what_the_options_allow(name):
    for value in VALUES:
        schema = SCHEMA["properties"][name]
        if schema.get("type") == "object" and value == []:
            continue  # pairs are scales by name, too; the schema has them in one way
        if isinstance(value, dict) and schema.get("type") == "object":
            allowed = all(fits(v, schema["additionalProperties"]) for v in value.values())
        else:
            allowed = fits(value, schema)
        assert allowed == accepted(name, value), (name, value)
