"""Of pictures that are the same one is kept: the largest, of the largest file, first by name."""

import numpy as np
import pyarrow as pa

from data.pictures.looks import near_pairs

COPY_REASONS = ("is the same file as", "looks like")
# Levels of 255 between mean colours of parts of a picture: on average, and in the part that differs
# most. Files that were saved again, at half the size too, differ by about 1 and 5; two poses of one
# character before one background by 6 and 29.
_COLOR_DISTANCE, _PART_DISTANCE = 4.0, 16
_ASPECT_DISTANCE = 0.03  # of the logarithm


def without_duplicates(table: pa.Table, duplicates: str, bits: int) -> pa.Table:
    """Give pictures that are another's copy a `problem`.

    Args:
        table: see `survey.SCHEMA`.
        duplicates: see `Options.duplicates`.
        bits: see `Options.alike_bits`.
    """
    problems = np.array(table["problem"].to_pylist(), object)
    sound = np.flatnonzero(problems == None)  # noqa: E711 (elementwise)
    if duplicates == "keep" or not len(sound):
        return table
    names = table["location"].to_pylist()
    rank = _ranks(table, sound)
    pairs = [_equal(table, sound)]
    if duplicates == "alike":
        pairs.append(_alike(table, sound, bits))
    lost: dict[int, tuple[int, str]] = {}
    for found, reason in zip(pairs, COPY_REASONS, strict=False):
        # The best first: what is no copy itself may have copies.
        ordered = np.where((rank[found[:, :1]] < rank[found[:, 1:]]), found, found[:, ::-1])
        for kept, copy in ordered[np.lexsort((rank[ordered[:, 1]], rank[ordered[:, 0]]))].tolist():
            if kept not in lost and copy not in lost:
                lost[copy] = kept, reason
    for copy, (kept, reason) in lost.items():
        problems[copy] = f"{reason} {names[kept]}"
    column = pa.array(problems.tolist(), pa.string())
    return table.set_column(table.schema.get_field_index("problem"), "problem", column)


def _ranks(table: pa.Table, sound: np.ndarray) -> np.ndarray:
    """(N,) place of each picture among all, the best first."""
    area, size = (
        np.asarray(table[name].fill_null(0), np.int64) * other
        for name, other in (
            ("height", np.asarray(table["width"].fill_null(0), np.int64)),
            ("bytes", np.int64(1)),
        )
    )
    order = sound[np.lexsort((sound, -size[sound], -area[sound]))]
    rank = np.full(len(table), len(table), np.int64)
    rank[order] = np.arange(len(order))
    return rank


def _equal(table: pa.Table, sound: np.ndarray) -> np.ndarray:
    """(M, 2) pictures of equal files, each with the first of them."""
    contents = table["content"].to_pylist()
    first: dict[bytes, int] = {}
    rank = _ranks(table, sound)
    for row in sound[np.argsort(rank[sound])].tolist():
        first.setdefault(contents[row], row)
    pairs = [(first[contents[row]], row) for row in sound.tolist() if first[contents[row]] != row]
    return np.array(pairs, np.int64).reshape(-1, 2)


def _alike(table: pa.Table, sound: np.ndarray, bits: int) -> np.ndarray:
    """(M, 2) pictures that look alike: few other edges, the same colours, the same aspect."""
    hashes = np.asarray(table["looks"].fill_null(0), np.uint64)[sound]
    joined = b"".join(color or bytes(48) for color in table["colors"].to_pylist())
    colors = np.frombuffer(joined, np.uint8).reshape(len(table), -1)
    sides = [np.asarray(table[name].fill_null(1), np.float64) for name in ("height", "width")]
    aspect = np.log(sides[0] / sides[1])
    found: set[tuple[int, int]] = set()
    for one, other in near_pairs(hashes, bits):
        one, other = sound[one], sound[other]
        apart = np.abs(colors[one].astype(np.int16) - colors[other])
        near = (apart.mean(axis=1) < _COLOR_DISTANCE) & (apart.max(axis=1) < _PART_DISTANCE)
        near &= np.abs(aspect[one] - aspect[other]) < _ASPECT_DISTANCE
        found |= set(zip(one[near].tolist(), other[near].tolist(), strict=True))
    return np.array(sorted(found), np.int64).reshape(-1, 2)
