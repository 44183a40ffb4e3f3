"""What a model's file does not say of itself: a JSON object.

    {
     "model": "anime2sketch.onnx",     its file, from here
     "channels": "RGB",                or "BGR", "L" (grey), "each": three pictures of one channel,
                                       of whose results the largest counts
     "layout": "NCHW",                 or "NHWC"
     "range": [-1, 1],                 of its input, black and white
     "mean": [0, 0, 0],                subtracted from that, a number a channel
     "std": [1, 1, 1],                 and what the rest is divided by
     "high_pass": 0,                   px: differences from the blurred picture instead of colours,
                                       over 128 and then over their largest
     "size": 0,                        px of the square that it sees; 0: the picture's own size
     "fit": "stretch",                 to that square; or "pad" (on white), or "crop" (the middle)
     "multiple": 1,                    of which its sides must be
     "tile": 1024, "overlap": 128,     px: larger pictures are taken in pieces (lines)
     "input": "", "output": "",        names, where it has several
     "output_range": [0, 1],
     "lines": "dark",                  or "light" (lines)
     "activation": "none",             or "sigmoid", or "minmax" (masks)
     "labels": "selected_tags.csv",    names of its classes, from here (tags)
     "threshold": 0.35,                least probability (tags)
     "features": "clip.json"           description of the model whose output this one takes (scores)
    }

Only "model" is needed; the values above are those of what is left out, but for "labels" and
"features".
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from data.errors import DataError

_CHOICES = {
    "channels": ("RGB", "BGR", "L", "each"),
    "layout": ("NCHW", "NHWC"),
    "fit": ("stretch", "pad", "crop"),
    "lines": ("dark", "light"),
    "activation": ("none", "sigmoid", "minmax"),
}
_PATHS = ("model", "labels", "features")


@dataclass(frozen=True)
class Description:
    """A model, see above.

    Attributes:
        path: of the description.
    """

    path: str
    model: str
    channels: str = "RGB"
    layout: str = "NCHW"
    range: tuple[float, ...] = (-1.0, 1.0)
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    high_pass: float = 0.0
    size: int = 0
    fit: str = "stretch"
    multiple: int = 1
    tile: int = 1024
    overlap: int = 128
    input: str = ""
    output: str = ""
    output_range: tuple[float, ...] = (0.0, 1.0)
    lines: str = "dark"
    activation: str = "none"
    labels: str = ""
    threshold: float = 0.35
    features: str = ""

    @property
    def num_channels(self) -> int:
        """Of its input."""
        return 3 if self.channels in ("RGB", "BGR") else 1


def read_description(path: str) -> Description:
    """Read a description.

    Raises:
        DataError: it is missing, no JSON object, has unknown keys, or values out of range.
    """
    try:
        told = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise DataError(
            f"got description {path} ({why}), expected a JSON object that describes a model; see "
            "docs/prepare.md"
        ) from error
    known = {field.name: field for field in fields(Description) if field.name != "path"}
    if not isinstance(told, dict) or "model" not in told:
        raise DataError(
            f'got description {path} without "model", expected the name of an .onnx file there; '
            "add it"
        )
    for name, value in told.items():
        if name not in known:
            raise _wrong(path, name, value, f"one of {', '.join(known)} as its name")
    values = {
        name: tuple(value) if isinstance(value, list) else value for name, value in told.items()
    }
    for name in _PATHS:
        if isinstance(values.get(name), str) and values[name]:
            values[name] = str(Path(path).parent / values[name])
    found = Description(path=path, **values)
    _check(found)
    return found


def _check(found: Description) -> None:
    for field in fields(Description):
        value = getattr(found, field.name)
        if field.name in _CHOICES and value not in _CHOICES[field.name]:
            raise _wrong(found.path, field.name, value, f"one of {', '.join(_CHOICES[field.name])}")
        is_text = field.name == "model" or isinstance(field.default, str)
        if is_text and not isinstance(value, str):
            raise _wrong(found.path, field.name, value, "a text")
        if isinstance(field.default, int | float) and not _is_number(value):
            raise _wrong(found.path, field.name, value, "a number of at least 0")
        if isinstance(field.default, int) and value != int(value):
            raise _wrong(found.path, field.name, value, "a whole number")
        if isinstance(field.default, tuple):
            count = len(field.default)
            numbers = isinstance(value, tuple) and all(isinstance(v, int | float) for v in value)
            if not numbers or len(value) not in {count, found.num_channels} - {0}:
                raise _wrong(found.path, field.name, value, f"a list of {count} numbers")
    if found.multiple < 1 or found.tile < found.multiple or found.tile % found.multiple:
        raise _wrong(found.path, "tile", found.tile, f"a multiple of {found.multiple}")
    if found.overlap >= found.tile:
        raise _wrong(found.path, "overlap", found.overlap, f"less than the tile's {found.tile}")
    if min(found.std) <= 0:
        raise _wrong(found.path, "std", found.std, "numbers above 0")
    for name in ("range", "output_range"):
        if len(set(getattr(found, name))) != 2:
            raise _wrong(found.path, name, getattr(found, name), "two different numbers")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _wrong(path: str, name: str, value: Any, expected: str) -> DataError:
    return DataError(f"got {name} {value!r} in description {path}, expected {expected}; mend it")
