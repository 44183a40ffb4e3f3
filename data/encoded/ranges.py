"""Where records lie in an ArrayRecord file, so that one request for a range reads one of them.

ArrayRecord's own reader knows disks alone. Its files are of Riegeli's format
(https://github.com/google/riegeli/blob/master/doc/riegeli_records_file_format.md): blocks of 64 KiB
that begin with a header, and across them chunks: a header, then data. With one record a chunk and
without compression the data are a zero byte, the length of the record's length, its length, and the
record.
"""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

_BLOCK, _BLOCK_HEADER = 2**16, 24
_CHUNK = struct.Struct("<QQQQQ")  # hash, bytes of data, their hash, kind and records, bytes decoded
_SIMPLE = ord("r")

# (start, number of bytes) -> these bytes of a file
Read = Callable[[int, int], bytes]


def find_records(path: Path, count: int) -> list[tuple[int, int]]:
    """Start and length in bytes of the chunks of the first `count` records of a file on a disk.

    Raises:
        ValueError: it is no such file.
    """
    places: list[tuple[int, int]] = []
    position, size = 0, path.stat().st_size
    with path.open("rb") as file:

        def read(start: int, length: int) -> bytes:
            file.seek(start)
            return file.read(length)

        while len(places) < count and position < size:
            header, after = _through_blocks(read, position, _CHUNK.size)
            kind, num_records, data_size = _parse(header, size)
            *_, (_, end) = _pieces(after, max(data_size, num_records))
            if kind == _SIMPLE:
                if num_records != 1:
                    raise ValueError(f"got {num_records} records in a chunk, expected one")
                places.append((position, end - position))
            position = end
    if len(places) < count:
        raise ValueError(f"got {len(places)} records, expected {count}")
    return places


def record_of(content: bytes, start: int) -> bytes:
    """The record of a chunk.

    Args:
        content: bytes of the file from `start` on, as long as `find_records` says.
        start: of the chunk in the file.

    Raises:
        ValueError: it is none.
    """

    def read(position: int, length: int) -> bytes:
        return content[position - start : position - start + length]

    header, after = _through_blocks(read, start, _CHUNK.size)
    kind, _, data_size = _parse(header, len(content))
    data, _ = _through_blocks(read, after, data_size)
    if kind != _SIMPLE or len(data) < data_size or data[:1] != b"\0":
        raise ValueError("it is no whole record without compression")
    length, begin = _varint(data, 1)
    return data[begin + length :]


def _parse(header: bytes, most: int) -> tuple[int, int, int]:
    """Kind, number of records and bytes of data of a chunk; of data `most` can be there."""
    if len(header) < _CHUNK.size:
        raise ValueError("it ends in a header")
    _, data_size, _, both, _ = _CHUNK.unpack(header)
    if data_size > most:
        raise ValueError("it is no whole record, or no header")
    return both & 0xFF, both >> 8, data_size


def _through_blocks(read: Read, position: int, length: int) -> tuple[bytes, int]:
    """`length` bytes of a chunk, without headers of blocks, and the position behind them."""
    pieces = list(_pieces(position, length))
    return b"".join(read(start, stop - start) for start, stop in pieces), pieces[-1][1]


def _pieces(position: int, length: int) -> Iterator[tuple[int, int]]:
    """Start and stop of each run of `length` bytes of a chunk that no block's header parts."""
    while True:
        position += _BLOCK_HEADER if position % _BLOCK == 0 and length else 0
        step = min(length, _BLOCK - position % _BLOCK)
        yield position, position + step
        position, length = position + step, length - step
        if not length:
            return


def _varint(data: bytes, position: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[position]
        number |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return number, position
