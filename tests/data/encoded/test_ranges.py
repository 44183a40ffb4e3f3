"""Records of ArrayRecord files by ranges of bytes: what the files' own reader reads."""

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from data.encoded.ranges import find_records, record_of

BLOCK = 2**16


def write(path, records):
    writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    for record in records:
        writer.write(record)
    writer.close()


@pytest.mark.parametrize("seed", range(8))
def test_ranges_hold_the_records(tmp_path, seed):
    rng = np.random.default_rng(seed)
    edges = [0, 1, BLOCK - 24, BLOCK - 25, BLOCK, 2 * BLOCK, 2 * BLOCK - 48, 127, 128, 16384]
    sizes = [*rng.choice(edges, 12), *rng.integers(0, 5 * BLOCK, 12)]
    # The first one moves all others along the blocks.
    records = [rng.bytes(int(size)) for size in [rng.integers(BLOCK), *rng.permutation(sizes)]]
    path = tmp_path / "a.array_record"
    write(path, records)
    content = path.read_bytes()
    places = find_records(path, len(records))
    for (start, length), record in zip(places, records, strict=True):
        assert record_of(content[start : start + length], start) == record
    assert ArrayRecordReader(str(path)).read_all() == records


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "a.array_record"
    write(path, [b"a" * 100] * 3)
    with pytest.raises(ValueError, match="records"):
        find_records(path, 4)
    (start, length), *_ = find_records(path, 3)
    for broken in (path.read_bytes()[start : start + length - 1], b"", b"\1" * length):
        with pytest.raises(ValueError, match=r"no whole record|ends in"):
            record_of(broken, start)
    grouped = tmp_path / "b.array_record"
    writer = ArrayRecordWriter(str(grouped), "group_size:4,uncompressed")
    for _ in range(4):
        writer.write(b"b" * 50)
    writer.close()
    with pytest.raises(ValueError, match="4 records in a chunk"):
        find_records(grouped, 4)
