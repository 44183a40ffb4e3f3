"""Contact sheets: everything in its cell."""

import numpy as np
import pytest
from PIL import Image

from colorize_jax.evaluation.contact_sheet import contact_sheet


def test_cells_keep_pictures_and_aspect():
    red = np.zeros((100, 50, 3), np.uint8)
    red[..., 0] = 255
    rows = [[red, None, Image.new("L", (100, 20), 0)], [red]]
    sheet = np.asarray(contact_sheet(rows, cell_size=100))
    assert sheet.shape == (8 + 2 * 108, 8 + 3 * 108, 3)
    assert (sheet[8:108, 33:83] == (255, 0, 0)).all()
    assert (sheet[8:108, 116:216] == 250).all()  # the empty cell
    assert (sheet[48:68, 224:324] == 0).all()
    assert (sheet[116:216, 33:83] == (255, 0, 0)).all()


def test_titles_and_captions_take_room_of_their_own():
    cell = np.zeros((64, 64), np.uint8)
    plain = contact_sheet([[cell] * 2] * 2, cell_size=64)
    titled = contact_sheet([[cell] * 2] * 2, ["sketch", "result"], cell_size=64)
    captioned = contact_sheet(
        [[cell] * 2] * 2, ["sketch", "result"], ["a row", ["left", "x" * 500]], cell_size=64
    )
    assert plain.width == titled.width == captioned.width
    assert plain.height < titled.height < captioned.height
    # The last caption is shortened: nothing is drawn in the margin.
    assert (np.asarray(captioned)[:, -8:].min(axis=(0, 1)) >= 220).all()


def test_arrays_of_every_kind_look_alike():
    grey = np.full((32, 32), 128, np.uint8)
    alike = [
        grey,
        grey[..., None],
        np.repeat(grey[..., None], 3, 2),
        np.full((32, 32, 3), 0.0039, np.float32),
        np.dstack([grey, grey, grey, np.full_like(grey, 255)]),
    ]
    sheet = np.asarray(contact_sheet([alike], cell_size=32))
    for i in range(len(alike)):
        left = 8 + 40 * i
        assert (sheet[8:40, left : left + 32] == 128).all()


def test_default_cells_are_neither_tiny_nor_huge():
    small = contact_sheet([[np.zeros((64, 32), np.uint8)]])
    assert small.size == (16 + 64, 16 + 128)
    huge = contact_sheet([[np.zeros((4000, 2000), np.uint8)]])
    assert huge.size == (16 + 192, 16 + 384)


@pytest.mark.parametrize("rows", [[], [[]], [[np.zeros((3, 3, 2), np.uint8)]], [[np.zeros(3)]]])
def test_what_is_no_picture(rows):
    with pytest.raises(ValueError, match="expected"):
        contact_sheet(rows)
