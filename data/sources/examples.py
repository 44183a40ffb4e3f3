"""Examples in ArrayRecord files: sets that TFDS wrote, and plain files of `tf.train.Example`s.

Both are sequences of dictionaries, read without TensorFlow; pictures stay encoded.
"""

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from grain.sources import ArrayRecordDataSource

from data.errors import DataError
from data.extras import import_tfds
from data.sources.files import is_remote

INFO = "dataset_info.json"
_PLAIN = (".array_record", ".arrayrecord")
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5  # wire types of protocol buffers
_ENCODED = "/encoded"  # how features of pictures often end


class Examples(NamedTuple):
    """A set's examples.

    Attributes:
        name: of the split.
        rows: dictionaries by number.
        pictures: names of the features that are pictures.
    """

    name: str
    rows: Sequence[Mapping[str, Any]]
    pictures: tuple[str, ...]


def find_files(root: Path) -> list[Path]:
    """The plain ArrayRecord files of a folder, in shards or not."""
    if is_remote(root) or not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if any(end in path.name for end in _PLAIN))


def open_examples(root: Path) -> Examples:
    """Open what lies in a folder.

    Raises:
        DataError: a package is missing, or the set is not whole.
    """
    return _open_tfds(root) if (root / INFO).is_file() else _open_plain(root)


def identity(root: Path) -> str:
    """What changes with a set, for what is kept of it."""
    if (root / INFO).is_file():
        return (root / INFO).read_text()
    return json.dumps([[path.name, path.stat().st_size] for path in find_files(root)])


def _open_tfds(root: Path) -> Examples:
    tfds = import_tfds()
    try:
        builder = tfds.builder_from_directory(str(root))
        split, *others = builder.info.splits
        features = builder.info.features
        kinds = {name: type(features[name]).__name__ for name in features}
        pictures = tuple(name for name, kind in kinds.items() if kind == "Image")
        skip = {name: tfds.decode.SkipDecoding() for name in pictures}
        rows = builder.as_data_source(split=split, decoders=skip)
    except (OSError, ValueError, AttributeError, tfds.core.DatasetNotFoundError) as error:
        raise DataError(
            f"got {root}, which is no whole TFDS set ({' '.join(str(error).split())}), "
            "expected one in ArrayRecord files; write it anew"
        ) from error
    if others:
        raise DataError(
            f"got {root} with splits {', '.join((split, *others))}, expected one; write it so"
        )
    return Examples(split, rows, pictures)


class _Plain(Sequence[Mapping[str, Any]]):
    """Examples of plain files, parsed when they are asked for."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._records = ArrayRecordDataSource([str(path) for path in paths])

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return parse_example(self._records[index])


def _open_plain(root: Path) -> Examples:
    try:
        rows = _Plain(find_files(root))
        first = rows[0]
    except (OSError, ValueError, IndexError, RuntimeError, struct.error) as error:
        raise DataError(
            f"got {root}, whose ArrayRecord files cannot be read ({' '.join(str(error).split())}), "
            "expected tf.train.Examples in them; write them anew"
        ) from error
    pictures = tuple(name for name in first if name.startswith(("image", "sketch", "mask")))
    return Examples("records", rows, pictures)


def parse_example(content: bytes) -> dict[str, Any]:
    """A serialized `tf.train.Example` -> feature -> bytes, or an array of its numbers.

    A list of one is its element; "/encoded" at a name's end is left out.

    Raises:
        ValueError: it is none.
    """
    found = {}
    for features in _all(content, 1):
        for entry in _all(features, 1):
            name = bytes(next(_all(entry, 1), b"")).decode().removesuffix(_ENCODED)
            values = _values(next(_all(entry, 2), b""))
            found[name] = values[0] if len(values) == 1 else values
    return found


def _values(feature: memoryview | bytes) -> Sequence[Any]:
    for number, kind in _fields(feature):
        if number == 1:
            return [bytes(value) for value in _all(kind, 1)]
        if number == 2:
            parts = [bytes(value) for value in _all(kind, 1)]
            return np.frombuffer(b"".join(parts), "<f4")
        if number == 3:
            return np.array([n for value in _all(kind, 1) for n in _whole_numbers(value)], np.int64)
    return []


def _whole_numbers(value: Any) -> Iterator[int]:
    """A number, or several that are packed."""
    if isinstance(value, int):
        yield _signed(value)
        return
    position = 0
    while position < len(value):
        number, position = _varint(value, position)
        yield _signed(number)


def _signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number


def _all(message: memoryview | bytes, wanted: int) -> Iterator[Any]:
    return (value for number, value in _fields(message) if number == wanted)


def _fields(message: memoryview | bytes) -> Iterator[tuple[int, Any]]:
    """(Number, value) of a message's fields; of nested ones their bytes."""
    message, position = memoryview(message), 0
    while position < len(message):
        tag, position = _varint(message, position)
        kind, length = tag & 7, 0
        if kind == _VARINT:
            value, position = _varint(message, position)
            yield tag >> 3, value
            continue
        if kind == _LENGTH:
            length, position = _varint(message, position)
        elif kind in (_FIXED32, _FIXED64):
            length = 4 if kind == _FIXED32 else 8
        if kind not in (_LENGTH, _FIXED32, _FIXED64) or position + length > len(message):
            raise ValueError("this is no tf.train.Example")
        yield tag >> 3, message[position : position + length]
        position += length


def _varint(message: memoryview | bytes, position: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        if position >= len(message) or shift > 63:
            raise ValueError("this is no tf.train.Example")
        byte = message[position]
        number |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return number, position
