"""Augmentations against values worked out by hand."""

import math

import numpy as np
import pytest

from data.errors import DataError
from data.illustrations import IllustrationSource
from data.transforms import (
    AlterReferenceMask,
    BlankMargins,
    BucketCrop,
    dilate,
    fill_box,
    grow_to_blocks,
)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def record():
    return IllustrationSource(0, 1, 64, 96)[0]


ALL = (
    BucketCrop(48, 48),
    BucketCrop(48, 48, reference_size=32),
    BlankMargins(1.0, margin=300),
    AlterReferenceMask(),
    AlterReferenceMask(0, 0, 0, 100),
)


@pytest.mark.parametrize("transform", ALL, ids=lambda t: type(t).__name__)
def test_transforms_are_pure(transform, record):
    before = {name: value.copy() for name, value in record.items()}
    results = [transform(rng(seed), record) for seed in (1, 1, 2, 3, 4, 5)]
    for name in record:
        np.testing.assert_array_equal(record[name], before[name])
        np.testing.assert_array_equal(results[0][name], results[1][name])
        assert results[0][name].dtype == record[name].dtype
    if not isinstance(transform, AlterReferenceMask):
        assert any(
            not np.array_equal(results[0][name], other[name])
            for other in results[2:]
            for name in record
        )


def test_crop_fits_the_short_side_and_keeps_pictures_together(record):
    cropped = BucketCrop(32, 40)(rng(), record)
    for name in ("image", "sketch", "sketch_mask", "parts", "reference", "reference_mask"):
        assert cropped[name].shape == (32, 40, record[name].shape[2])
    np.testing.assert_array_equal(cropped["reference"], cropped["image"])
    assert set(np.unique(cropped["parts"])) <= set(np.unique(record["parts"]))
    # 64 x 96 becomes 32 x 48: the crop spans 64 x 80 of the picture's own pixels
    assert cropped["size"] == pytest.approx(math.sqrt(32 * 40) * 64 / 32)
    assert cropped["size"].dtype == np.float32


def test_crop_takes_the_window_it_says(record):
    columns = np.broadcast_to(np.arange(96, dtype=np.uint8)[:, None], (64, 96, 3))
    lefts = set()
    for seed in range(40):
        image = BucketCrop(64, 93)(rng(seed), {**record, "image": columns})["image"]
        assert (image[..., 0] == image[0, 0, 0] + np.arange(93)).all()
        lefts.add(int(image[0, 0, 0]))
    assert lefts == {0, 1, 2, 3}


def test_crop_covers_the_other_orientation(record):
    cropped = BucketCrop()(rng(), {**record, "bucket": np.array((96, 64))})
    assert cropped["image"].shape == (96, 64, 3) and "bucket" not in cropped
    assert cropped["size"] == pytest.approx(math.sqrt(96 * 64) * 64 / 96)


def test_untouched_picture_keeps_its_size(record):
    kept = BucketCrop(64, 96)(rng(), record)
    np.testing.assert_array_equal(kept["image"], record["image"])
    assert kept["size"] == record["size"]


def test_blank_margins(record):
    inked = {**record, "sketch": np.zeros((512, 512, 1), np.uint8)}
    margins = []
    for seed in range(30):
        sketch = BlankMargins(1.0)(rng(seed), inked)["sketch"][..., 0]
        rows, columns = np.flatnonzero((sketch == 0).any(1)), np.flatnonzero((sketch == 0).any(0))
        assert (sketch[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] == 0).all()
        assert set(np.unique(sketch)) <= {0, 255}
        margins += [rows[0], 511 - rows[-1], columns[0], 511 - columns[-1]]
    assert 80 < max(margins) <= 100  # 201 px at 1024 are 100 at 512
    never = BlankMargins(0.0)(rng(), inked)
    assert never["sketch"] is inked["sketch"]
    changed = [BlankMargins(0.25)(rng(s), inked)["sketch"].any() for s in range(80)]
    assert 8 <= sum(changed) <= 34


def test_dilation_is_the_local_maximum():
    mask = (rng().random((23, 31, 1)) > 0.97).astype(np.uint8) * 255
    for reach in (0, 1, 2, 5):
        expected = np.zeros_like(mask)
        for y in range(23):
            for x in range(31):
                window = mask[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
                expected[y, x] = window.max()
        np.testing.assert_array_equal(dilate(mask, reach), expected)


def test_published_dilation_reaches_ten_pixels_at_full_size(record):
    mask = np.zeros((1024, 1024, 1), np.uint8)
    mask[500, 600] = 255
    alter = AlterReferenceMask(0, 0, 0)
    wide = alter(rng(), {**record, "reference_mask": mask})["reference_mask"]
    assert (wide > 0).sum() == 21 * 21 and wide[490, 590] and wide[510, 610]


def test_blocks():
    mask = np.zeros((5, 7, 1), np.uint8)
    mask[3, 6] = 9
    grown = grow_to_blocks(mask, 2, 3)[..., 0]
    expected = np.zeros((5, 7), np.uint8)
    expected[2:4, 6:] = 9
    np.testing.assert_array_equal(grown, expected)


def test_boxes():
    mask = np.zeros((6, 8, 1), np.uint8)
    assert not fill_box(mask).any()
    mask[1, 5] = mask[4, 2] = 255
    mask[5, 7] = 100  # too faint to count
    expected = np.zeros((6, 8), np.uint8)
    expected[1:5, 2:6] = 255
    np.testing.assert_array_equal(fill_box(mask)[..., 0], expected)


def test_masks_are_altered_in_exactly_one_way_at_its_rate(record):
    mask = np.zeros((1024, 1024, 1), np.uint8)
    mask[301:700, 333:640] = 255
    mask[301:420, 333:420] = 0
    boxed, grown, dilated = fill_box(mask), grow_to_blocks(mask, 60, 40), dilate(mask, 10)
    counts = dict.fromkeys(("box", "blocks", "dilation", "erasing"), 0)
    for seed in range(200):
        altered = AlterReferenceMask()(rng(seed), {**record, "reference_mask": mask})
        altered = altered["reference_mask"]
        ways = {"box": boxed, "blocks": grown, "dilation": dilated}
        way = next((name for name, x in ways.items() if np.array_equal(altered, x)), "erasing")
        assert way != "erasing" or not (altered & ~mask).any()
        counts[way] += 1
    for name, rate in {"box": 0.17, "blocks": 0.33, "erasing": 0.33, "dilation": 0.17}.items():
        assert abs(counts[name] / 200 - rate) < 0.1, counts


def test_a_whole_reference_comes_with_the_window_of_the_picture(record):
    crop = BucketCrop(32, 32, reference_size=48, whole_reference=True)
    height, width = record["image"].shape[:2]
    whole = {**record, "reference": record["image"], "reference_mask": record["sketch_mask"]}
    cut = crop(rng(3), whole)
    assert cut["reference"].shape == (48, 48, 3)
    top, left, high, wide = cut["crop"]
    side = min(height, width)
    np.testing.assert_allclose((high * height, wide * width), (side, side), rtol=0.05)
    assert 0 <= top <= 1 - high + 1e-6 and 0 <= left <= 1 - wide + 1e-6


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: BlankMargins(1.5), "got rate of blank margins 1.5"),
        (lambda: AlterReferenceMask(0.7, 0.7), "got box_rate \\+ grow_rate \\+ erase_rate 1.7"),
        (lambda: BucketCrop(64), "got a bucket of 64xNone"),
        (lambda: BucketCrop()(rng(), {}), "got a record without a bucket"),
    ],
)
def test_bad_options_are_named(make, message):
    with pytest.raises(DataError, match=message):
        make()
