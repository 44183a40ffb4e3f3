"""Masks from files, transparency and estimates."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from colorize_jax.errors import UserError
from colorize_jax.inference.pictures import masks, preprocess
from colorize_jax.inference.pictures.arrays import read_picture
from data.illustrations.source import IllustrationSource
from data.pictures import masks as estimates


def _overlap(mask: np.ndarray, truth: np.ndarray) -> float:
    a, b = mask > 0.5, truth > 0.5
    return (a & b).sum() / (a | b).sum()


def _disc(size: int, ink: object, paper: object, mode: str = "RGB") -> Image.Image:
    image = Image.new(mode, (size, size), paper)
    ImageDraw.Draw(image).ellipse((size // 4, size // 4, 3 * size // 4, 3 * size // 4), fill=ink)
    return image


def _truth(size: int) -> np.ndarray:
    return np.asarray(_disc(size, 255, 0, "L")) / 255


def test_mask_files():
    truth = _truth(40)
    grey = np.uint8(truth * 255)
    black = np.zeros_like(grey)
    for picture in (
        _disc(40, 255, 0, "L"),
        _disc(40, 1, 0, "1"),
        Image.fromarray(np.stack([black, black, black, grey], -1)),  # a silhouette
        Image.fromarray(np.stack([grey, grey, grey, grey], -1)),
        Image.fromarray(grey.astype(np.uint16) * 257),
        Image.fromarray((grey > 127).astype(np.uint8)),  # of 0 and 1
        Image.fromarray((grey > 127).astype(np.uint16)),
        Image.fromarray(grey.astype(np.uint16)),
    ):
        mask = masks.mask_from_picture(read_picture(picture, mask=True))
        assert mask.dtype == np.float32
        np.testing.assert_allclose(mask, truth, atol=0.01)


def test_mask_of_transparency():
    cut_out = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    cut_out.paste((200, 10, 10, 255), mask=_disc(40, 255, 0, "L"))
    picture = read_picture(cut_out)
    assert estimates.has_solid_alpha(picture)
    np.testing.assert_allclose(masks.mask_from_alpha(picture), _truth(40))
    np.testing.assert_allclose(preprocess.reference_mask(picture), _truth(40))
    with pytest.raises(UserError, match="without transparency"):
        preprocess.reference_mask(read_picture(np.zeros((4, 4), np.uint8)), source="alpha")


def test_a_transparent_layer_of_lines_is_not_cut_out():
    layer = Image.new("RGBA", (100, 100), (0, 0, 0, 0))
    ImageDraw.Draw(layer).ellipse((25, 25, 75, 75), outline=(0, 0, 0, 255), width=2)
    picture = read_picture(layer)
    assert not estimates.has_solid_alpha(picture)
    sketch = preprocess.prepare_sketch(picture, 100, 100)
    filled = preprocess.sketch_mask(picture, sketch)
    assert _overlap(filled, np.asarray(_disc(100, 255, 0, "L"))) > 0.95
    lines_only = preprocess.sketch_mask(picture, sketch, source="alpha")
    assert lines_only.sum() < 0.5 * filled.sum()


@settings(max_examples=25, deadline=None)
@given(
    st.integers(64, 600),
    st.tuples(*[st.integers(0, 255)] * 3),
    st.tuples(*[st.integers(0, 255)] * 3),
)
def test_estimate_finds_a_disc_on_any_colour(size, ink, paper):
    if np.abs(np.subtract(ink, paper)).max() < 60:
        return
    mask = estimates.estimate_foreground(_disc(size, ink, paper))
    assert mask.shape == (size, size)
    assert set(np.unique(mask)) <= {0, 1}
    assert _overlap(mask, _truth(size)) > 0.9


def test_estimate_closes_holes_and_drops_specks():
    image = _disc(200, (200, 30, 30), (250, 250, 250))
    draw = ImageDraw.Draw(image)
    draw.ellipse((90, 90, 105, 105), fill=(250, 250, 250))
    draw.ellipse((10, 10, 20, 20), fill=(30, 30, 200))
    assert _overlap(estimates.estimate_foreground(image), _truth(200)) > 0.95


def test_estimate_follows_gradients():
    ramp = np.linspace(60, 250, 200)[:, None, None] * np.array([1, 0.9, 0.8])
    image = Image.fromarray(np.broadcast_to(ramp, (200, 200, 3)).astype(np.uint8))
    image.paste((20, 20, 90), mask=_disc(200, 255, 0, "L"))
    assert _overlap(estimates.estimate_foreground(image), _truth(200)) > 0.95


def test_figures_cut_off_below_stay_whole():
    sketch = np.zeros((120, 100), np.float32)
    sketch[30:33, 30:70] = 1
    sketch[30:, 30:33] = sketch[30:, 67:70] = 1
    truth = np.zeros_like(sketch)
    truth[30:, 30:70] = 1
    assert _overlap(estimates.estimate_sketch_foreground(sketch), truth) > 0.95


def test_small_gaps_in_lines_are_closed():
    sketch = np.zeros((120, 100), np.float32)
    sketch[30:33, 30:70] = sketch[87:90, 30:70] = 1
    sketch[30:90, 30:33] = sketch[30:90, 67:70] = 1
    sketch[60:62, 30:33] = 0
    truth = np.zeros_like(sketch)
    truth[30:90, 30:70] = 1
    assert _overlap(estimates.estimate_sketch_foreground(sketch), truth) > 0.95


def test_estimates_on_illustrations():
    source = IllustrationSource(seed=3, num_examples=12, height=384, width=320)
    colored, drawn = [], []
    for i in range(12):
        record = source[i]
        truth = record["sketch_mask"][..., 0] / 255
        lines = 1 - record["sketch"][..., 0] / np.float32(255)
        colored.append(
            _overlap(estimates.estimate_foreground(Image.fromarray(record["image"])), truth)
        )
        drawn.append(_overlap(estimates.estimate_sketch_foreground(lines), truth))
    assert np.median(colored) > 0.8
    assert np.median(drawn) > 0.8


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (2, 3), (7, 300)])
@pytest.mark.parametrize("level", [0, 255])
def test_any_size_and_flat_pictures(size, level):
    values = np.full(size, level, np.uint8)
    assert estimates.estimate_foreground(Image.fromarray(values).convert("RGB")).shape == size
    lines = estimates.estimate_sketch_foreground(values / np.float32(255))
    assert lines.shape == size
    assert (lines == (level > 0)).all()


def test_sketch_masks_lie_where_the_sketch_lies():
    picture = read_picture(np.full((40, 20), 255, np.uint8))
    sketch = preprocess.prepare_sketch(picture, 80, 80)
    given_mask = read_picture(np.full((80, 40), 255, np.uint8))
    mask = preprocess.sketch_mask(picture, sketch, given_mask)
    assert mask.shape == (80, 80)
    assert (mask[:, 20:60] == 1).all()
    assert not mask[:, :20].any()
    assert not mask[:, 60:].any()
    with pytest.raises(UserError, match="same aspect"):
        preprocess.sketch_mask(picture, sketch, read_picture(np.zeros((40, 40), np.uint8)))
    with pytest.raises(UserError, match="automatic, alpha, estimate"):
        preprocess.sketch_mask(picture, sketch, source="guess")


def test_learned_extractors_take_part():
    picture = read_picture(np.full((40, 20), 255, np.uint8))
    sketch = preprocess.prepare_sketch(picture, 80, 80)
    seen = []

    def extractor(image):
        seen.append((image.shape, image.max()))
        return np.ones((10, 5))

    assert preprocess.sketch_mask(picture, sketch, extractor=extractor).sum() == 80 * 40
    assert preprocess.reference_mask(picture, extractor=extractor).shape == (40, 20)
    # They see a sketch as a person does: ink on white paper.
    assert seen == [((80, 40, 3), 1), ((40, 20, 3), 1)]
