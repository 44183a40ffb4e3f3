"""The line extractor on drawings whose lines are known."""

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from data.illustrations.source import IllustrationSource
from data.pictures import lines as extractor
from data.pictures.lines import extract_lines


def _agreement(lines: np.ndarray, truth: np.ndarray, reach: int) -> tuple[float, float]:
    """Share of drawn pixels that are near true lines, and of true ones near drawn ones."""
    drawn, true = lines > 0.35, truth < 128
    near = np.ones((2 * reach + 1,) * 2, bool)
    precision = (drawn & ndimage.binary_dilation(true, near)).sum() / max(1, drawn.sum())
    return precision, (true & ndimage.binary_dilation(drawn, near)).sum() / true.sum()


def test_lines_of_illustrations():
    source = IllustrationSource(seed=7, num_examples=4, height=512, width=448)
    records = [source[i] for i in range(4)]
    scores = [
        _agreement(extract_lines(r["image"] / np.float32(127.5) - 1), r["sketch"][..., 0], 2)
        for r in records
    ]
    precision, recall = np.mean(scores, axis=0)
    assert precision > 0.85
    assert recall > 0.9


def test_line_art_stays_itself():
    sketch = IllustrationSource(seed=7, num_examples=1, height=512, width=448)[0]["sketch"]
    lines = extract_lines(np.repeat(sketch, 3, 2) / np.float32(127.5) - 1)
    precision, recall = _agreement(lines, sketch[..., 0], 1)
    assert precision > 0.98
    assert recall > 0.98


@pytest.mark.parametrize("level", [-1.0, -0.3, 0.0, 1.0])
def test_flat_pictures_have_no_lines(level):
    lines = extract_lines(np.full((65, 40, 3), level, np.float32))
    assert lines.shape == (65, 40)
    assert lines.dtype == np.float32
    assert not lines.any()


def test_gradients_and_noise_have_no_lines():
    ramp = np.linspace(-0.8, 0.8, 256, dtype=np.float32)[:, None, None]
    noise = np.random.default_rng(0).normal(0, 0.04, (256, 256, 3)).astype(np.float32)
    assert extract_lines(np.broadcast_to(ramp, (256, 256, 3))).mean() < 1e-3
    assert extract_lines(ramp + noise).mean() < 0.01


def test_edges_of_colour_and_of_dark_regions_are_lines_and_fills_are_not():
    image = Image.new("RGB", (256, 256), (90, 90, 200))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, 255, 79), fill=(200, 60, 60))
    draw.rectangle((60, 120, 200, 230), fill=(8, 8, 12))
    lines = extract_lines(np.asarray(image) / np.float32(127.5) - 1)
    assert lines[74:86].max(axis=0).mean() > 0.9  # red on blue
    assert lines[118:126, 70:190].max(axis=0).mean() > 0.9  # rim of the dark box
    assert not lines[150:200, 100:160].any()  # its inside


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_strokes_are_filled(width):
    image = Image.new("L", (256, 256), 255)
    ImageDraw.Draw(image).line((40, 20, 200, 230), fill=0, width=width)
    values = np.repeat(np.asarray(image)[..., None], 3, 2) / np.float32(127.5) - 1
    lines = extract_lines(values)
    inside = np.asarray(image) == 0
    inside[:30] = inside[220:] = False
    assert lines[inside].mean() > 0.85


def test_range_size_and_sensitivity():
    image = np.random.default_rng(0).uniform(-1, 1, (40, 30, 3)).astype(np.float32)
    for shape in ((1, 1), (1, 30), (2, 3), (40, 30)):
        lines = extract_lines(image[: shape[0], : shape[1]])
        assert lines.shape == shape
        assert lines.min() >= 0
        assert lines.max() <= 1
    soft = ndimage.gaussian_filter(image, (4, 4, 0)) + 0.1
    assert extract_lines(soft, 3.0).sum() >= extract_lines(soft, 0.5).sum()


def test_large_pictures_are_filtered_smaller(monkeypatch):
    monkeypatch.setattr(extractor, "_MAX_PIXELS", 128 * 128)
    image = np.ones((400, 300, 3), np.float32)
    image[197:203] = -1
    lines = extract_lines(image)
    assert lines.shape == (400, 300)
    assert lines[198:202].mean() > 0.8
    assert not lines[:180].any()
