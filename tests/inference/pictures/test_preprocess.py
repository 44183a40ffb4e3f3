"""Sketches keep their aspect on paper, whatever their size, mode and preprocessor."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from colorize_jax.errors import UserError
from colorize_jax.inference.pictures import preprocess
from colorize_jax.inference.pictures.arrays import read_picture
from colorize_jax.inference.pictures.sizes import Box, SizeLimits, autofit_size, check_size, fit_box

SIDES = st.integers(1, 300)
OUTPUTS = st.integers(1, 12).map(lambda n: 8 * n)


@given(SIDES, SIDES, OUTPUTS, OUTPUTS)
def test_fit_box_is_inside_centred_and_keeps_the_aspect(height, width, canvas_height, canvas_width):
    box = fit_box(height, width, canvas_height, canvas_width)
    assert box.height == canvas_height or box.width == canvas_width
    for start, side, whole in (
        (box.top, box.height, canvas_height),
        (box.left, box.width, canvas_width),
    ):
        assert start >= 0
        assert side >= 1
        assert start + side <= whole
        assert abs(start - (whole - start - side)) <= 1
    scale = min(canvas_height / height, canvas_width / width)
    assert abs(box.height - height * scale) <= 1
    assert abs(box.width - width * scale) <= 1


@given(st.integers(1, 20000), st.integers(1, 20000))
def test_autofit_keeps_area_and_aspect(height, width):
    fitted = autofit_size(height, width)
    check_size(*fitted)
    assert all(side % 32 == 0 for side in fitted)
    assert abs(fitted[0] * fitted[1] / 1024**2 - 1) < 0.1
    if 1 / 12 < height / width < 12:
        assert abs(np.log(fitted[0] / fitted[1]) - np.log(height / width)) < 0.12


def test_autofit_by_hand():
    assert autofit_size(512, 512) == (1024, 1024)
    assert autofit_size(3, 2) == (1248, 832)  # 1254.1, 836.1
    assert autofit_size(1, 1000) == (256, 4096)
    assert autofit_size(100, 100, SizeLimits(default=64, minimum=32, autofit_multiple=8)) == (
        64,
        64,
    )


@pytest.mark.parametrize("size", [(256, 256), (264, 1000), (1536, 768), (8192, 256)])
def test_sizes_that_are_drawn(size):
    check_size(*size)


@pytest.mark.parametrize(
    ("size", "nearest"),
    [((255, 256), "256"), ((1024, 1028), "1032"), ((0, 256), "256"), ((-8, 256), "256")],
)
def test_sizes_that_are_not(size, nearest):
    with pytest.raises(UserError, match=f"multiple of 8 from 256 up; nearest: {nearest}"):
        check_size(*size)


@settings(max_examples=60, deadline=None)
@given(
    SIDES,
    SIDES,
    OUTPUTS,
    OUTPUTS,
    st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"]),
    st.sampled_from(preprocess.PREPROCESSORS),
    st.sampled_from([1, 32]),
)
def test_paper_is_minus_one_everywhere(
    height, width, out_height, out_width, mode, preprocessor, multiple
):
    paper = 0 if preprocessor == "none" else 255
    image = Image.new("RGB", (width, height), (paper,) * 3).convert(mode)
    sketch = preprocess.prepare_sketch(
        read_picture(image), out_height, out_width, preprocessor, multiple=multiple
    )
    rounded = tuple(-(-side // multiple) * multiple for side in (out_height, out_width))
    assert sketch.tensor.shape == (*rounded, 3)
    assert sketch.tensor.dtype == np.float32
    assert sketch.frame == Box(0, 0, out_height, out_width)
    assert sketch.box == fit_box(height, width, out_height, out_width)
    # CMYK and palettes may be off by a level.
    assert np.abs(sketch.tensor + 1).max() < 0.02
    outside = np.ones(rounded, bool)
    outside[sketch.box.slices] = False
    assert (sketch.tensor[outside] == -1).all()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(40, 300),
    st.integers(40, 300),
    st.integers(8, 12).map(lambda n: 8 * n),
    st.integers(8, 12).map(lambda n: 8 * n),
    st.sampled_from(preprocess.PREPROCESSORS),
    st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"]),
)
def test_a_line_stays_in_its_place(height, width, out_height, out_width, preprocessor, mode):
    """A stroke at a third of the width is found there, in the box, by every preprocessor."""
    ink, paper = (255, 0) if preprocessor == "none" else (0, 255)
    image = Image.new("RGB", (width, height), (paper,) * 3)
    stroke = max(2, round(width / 16))
    left = width // 3
    ImageDraw.Draw(image).rectangle((left, 0, left + stroke - 1, height), fill=(ink,) * 3)
    sketch = preprocess.prepare_sketch(
        read_picture(image.convert(mode)), out_height, out_width, preprocessor
    )
    profile = sketch.lines.mean(axis=0)
    scale = sketch.box.width / width
    centre = (left + stroke / 2) * scale
    columns = np.arange(len(profile)) + 0.5
    if scale * stroke >= 2:
        assert profile.max() > 0.5
    near = np.abs(columns - centre) <= scale * stroke / 2 + 3
    assert profile[near].sum() > 0.9 * profile.sum()


def test_invert_is_minus_the_image_channel_by_channel():
    image = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    inverted = preprocess.prepare_sketch(read_picture(image), 16, 24)
    np.testing.assert_allclose(inverted.tensor, 1 - image / 127.5, atol=1e-6)
    same = preprocess.prepare_sketch(read_picture(image), 16, 24, "none")
    np.testing.assert_allclose(same.tensor, image / 127.5 - 1, atol=1e-6)
    assert inverted.box == inverted.frame == Box(0, 0, 16, 24)


@pytest.mark.parametrize(("preprocessor", "ink"), [("invert", 0), ("none", 255)])
def test_transparent_parts_are_paper(preprocessor, ink):
    layer = np.full((8, 8, 4), ink, np.uint8)
    layer[..., 3] = 0
    layer[3:5, :, 3] = 255
    tensor = preprocess.prepare_sketch(read_picture(layer), 8, 8, preprocessor).tensor
    assert (tensor[3:5] == 1).all()
    assert (tensor[:3] == -1).all()
    assert (tensor[5:] == -1).all()


def test_crop_gives_the_sketch_back():
    image = np.random.default_rng(0).integers(0, 256, (20, 10), np.uint8)
    sketch = preprocess.prepare_sketch(read_picture(image), 20, 30, "none")
    assert sketch.box == Box(0, 10, 20, 10)
    np.testing.assert_allclose(sketch.box.crop(sketch.tensor)[..., 0], image / 127.5 - 1, atol=1e-6)


def test_learned_extractors_take_part():
    seen = []

    def extractor(image):
        seen.append((image.shape, image.min(), image.max()))
        return np.ones(image.shape[:2])

    picture = read_picture(np.full((10, 20), 255, np.uint8))
    sketch = preprocess.prepare_sketch(picture, 16, 16, "extract", extractor)
    assert seen == [((8, 16, 3), 1, 1)]
    assert (sketch.box.crop(sketch.tensor) == 1).all()
    assert (sketch.tensor[:4] == -1).all()
    with pytest.raises(UserError, match=r"shape \(3, 3\)"):
        preprocess.prepare_sketch(picture, 16, 16, "extract", lambda _: np.zeros((3, 3)))
    with pytest.raises(UserError, match="invert, none, extract"):
        preprocess.prepare_sketch(picture, 16, 16, "canny")


def test_doubtful_sketches_are_named():
    white, black = (read_picture(np.full((9, 9), level, np.uint8)) for level in (255, 0))
    assert "blank" in preprocess.prepare_sketch(white, 16, 16).doubt()
    assert '"none"' in preprocess.prepare_sketch(black, 16, 16).doubt()
    drawn = np.full((64, 64), 255, np.uint8)
    drawn[30:33] = 0
    assert preprocess.prepare_sketch(read_picture(drawn), 64, 64).doubt() is None


def test_reference_keeps_its_size_and_lies_on_white():
    layer = np.zeros((5, 7, 4), np.uint8)
    layer[2, :, 3] = 255
    reference = preprocess.prepare_reference(read_picture(layer))
    assert reference.shape == (5, 7, 3)
    assert reference.dtype == np.float32
    assert (reference[2] == -1).all()
    assert (np.delete(reference, 2, 0) == 1).all()


def test_paint_out():
    image = np.zeros((1, 3, 3), np.float32)
    mask = np.array([[0.0, 0.5, 1.0]], np.float32)
    kept = preprocess.paint_out(image, mask, 0.5, "foreground")
    assert kept[0, :, 0].tolist() == [0, 1, 1]
    kept = preprocess.paint_out(image, mask, 0.5, "background")
    assert kept[0, :, 0].tolist() == [1, 0, 0]


def test_pictures_of_outputs():
    pictures = preprocess.to_pictures(np.array([[[[-1, 0, 1]]], [[[2, -2, 0.5]]]]))
    assert [picture.getpixel((0, 0)) for picture in pictures] == [(0, 128, 255), (255, 0, 191)]


@pytest.mark.slow
def test_a_large_scan_takes_seconds(tmp_path):
    random = np.random.default_rng(0)
    noise = random.integers(200, 256, (600, 400), np.uint8)
    scan = Image.fromarray(noise).resize((4000, 6000))
    ImageDraw.Draw(scan).ellipse((500, 500, 3500, 5500), outline=0, width=12)
    scan.save(tmp_path / "scan.png", compress_level=1)
    for preprocessor in preprocess.PREPROCESSORS:
        start = time.process_time()
        picture = read_picture(tmp_path / "scan.png")
        sketch = preprocess.prepare_sketch(picture, 1536, 1024, preprocessor)
        preprocess.sketch_mask(picture, sketch)
        preprocess.reference_mask(picture)
        assert time.process_time() - start < 10


def test_a_picture_of_nan_is_told_and_not_drawn_black():
    image = np.zeros((1, 4, 4, 3), np.float32)
    assert np.asarray(preprocess.to_pictures(image)[0]).max() == 128
    image[0, 1, 1, 1] = np.nan
    with pytest.raises(UserError, match="choose another sampler"):
        preprocess.to_pictures(image)
