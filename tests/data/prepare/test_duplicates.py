"""Which pictures are copies of which."""

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from data.illustrations import render
from data.pictures import looks
from data.prepare.stages.duplicates import without_duplicates
from data.prepare.stages.survey import SCHEMA


@pytest.mark.parametrize("bits", [0, 1, 3, 6])
def test_near_pairs_are_those_of_a_comparison_of_all(bits):
    rng = np.random.default_rng(bits)
    hashes = rng.integers(0, 2**64, 300, np.uint64)
    for i in range(0, 200, 2):  # neighbours that differ in 0..7 bits
        flips = rng.choice(64, i % 8, replace=False).astype(np.uint64)
        hashes[i + 1] = hashes[i] ^ np.bitwise_or.reduce(np.uint64(1) << flips, initial=0)
    found = {
        (min(i, j), max(i, j))
        for one, other in looks.near_pairs(hashes, bits)
        for i, j in zip(one.tolist(), other.tolist(), strict=True)
    }
    distances = np.bitwise_count(hashes[:, None] ^ hashes)
    expected = {(i, j) for i, j in zip(*np.nonzero(distances <= bits), strict=True) if i < j}
    assert found == expected and len(expected) >= 12


def table(images):
    rows = []
    for i, image in enumerate(images):
        rows.append(
            {
                "location": f"{i}.png",
                "bytes": image.width,
                "height": image.height,
                "width": image.width,
                "content": bytes([i]) * 16,
                "looks": looks.looks(image),
                "colors": looks.colors(image),
            }
        )
    return rows


def problems(rows, duplicates="alike"):
    found = without_duplicates(pa.Table.from_pylist(rows, SCHEMA), duplicates, 3)
    return found["problem"].to_pylist()


def test_the_largest_is_kept_and_another_colouring_is_another_picture():
    drawn = Image.fromarray(render(1, 1, 256, 256).image)
    recoloured = Image.fromarray(render(1, 2, 256, 256).image)
    images = [drawn.resize((128, 128)), drawn, recoloured, drawn.resize((200, 120))]
    assert problems(table(images)) == ["looks like 1.png", None, None, None]


def test_equal_files_are_copies_of_the_first():
    rows = table([Image.fromarray(render(i, i, 64, 64).image) for i in (3, 4, 3)])
    rows[2]["content"] = rows[0]["content"]
    assert problems(rows, "exact") == [None, None, "is the same file as 0.png"]
    assert problems(rows, "keep") == [None, None, None]


def test_different_drawings_are_no_copies():
    drawn = [Image.fromarray(render(i, i % 7, 96, 96).image) for i in range(120)]
    assert problems(table(drawn)) == [None] * len(drawn)


def test_two_poses_of_a_character_are_two_pictures():
    """Whatever their hashes say: some part of them has other colours."""
    rows = table([Image.fromarray(render(i, 6, 240, 144).image) for i in (6, 486)])
    rows[1]["looks"] = rows[0]["looks"]
    assert problems(rows) == [None, None]


def test_what_is_damaged_is_nobodys_copy():
    rows = table([Image.new("RGB", (64, 64)), Image.fromarray(render(1, 1, 64, 64).image)])
    rows[0] = {"location": "0.png", "problem": "is damaged"}
    assert problems(rows) == ["is damaged", None]
