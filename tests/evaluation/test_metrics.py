"""Metrics by hand on flat pictures, and on the embedded illustrations."""

import numpy as np
import pytest
from scipy import ndimage

from colorize_jax.errors import UserError
from colorize_jax.evaluation.color import ciede2000, to_lab
from colorize_jax.evaluation.metrics import (
    LineScore,
    entanglement,
    find_lines,
    line_f1,
    line_score,
    part_color_error,
    part_color_errors,
)
from data.illustrations.source import CrossPairSource

NUM_PICTURES = 8
RED, BLUE = np.array([1.0, -1, -1]), np.array([-1.0, -1, 1])


def to_float(picture):
    return picture.astype(np.float32) / 127.5 - 1


@pytest.fixture(scope="module", params=[64, 192])
def pictures(request):
    """(image, sketch) of held-out pairs at two sizes."""
    source = CrossPairSource(
        seed=5, num_pairs=NUM_PICTURES, height=request.param, width=request.param
    )
    records = [source[i] for i in range(NUM_PICTURES)]
    return [(to_float(r["image"]), -to_float(r["sketch"])) for r in records]


def halves(left, right, size=32):
    image = np.empty((size, size, 3), np.float32)
    image[:, : size // 2], image[:, size // 2 :] = left, right
    return image


def framed_sketch(size=64):
    """A square frame, two pixels wide."""
    sketch = np.full((size, size, 1), -1.0, np.float32)
    sketch[16:48, 16:48] = 1
    sketch[18:46, 18:46] = -1
    return sketch


def test_part_color_error_by_hand():
    parts = np.zeros((32, 32, 1), np.uint8)
    parts[:, 16:] = 3
    truth, result = halves(RED, BLUE), halves(RED, RED)
    difference = ciede2000(to_lab(RED), to_lab(BLUE))
    assert part_color_errors(result, truth, parts) == {0: 0.0, 3: pytest.approx(difference)}
    assert part_color_error(result, truth, parts) == pytest.approx(difference / 2)
    assert part_color_error(truth, truth, parts) == 0


def test_part_colors_are_means_and_small_parts_have_no_say():
    parts = np.zeros((32, 32), np.uint8)
    parts[0, :5] = 1
    truth = halves(RED, BLUE)
    mirrored = truth[:, ::-1].copy()
    assert part_color_errors(truth, mirrored, parts, min_share=0.01) == {
        0: pytest.approx(0, abs=0.7)
    }
    assert set(part_color_errors(truth, mirrored, parts, min_share=0.001)) == {0, 1}
    with pytest.raises(UserError, match="no part"):
        part_color_error(truth, truth, parts, min_share=1.0)


def test_lines_are_dark_and_thin():
    image = halves(RED, BLUE, size=64)
    assert not find_lines(image).any()
    image[:, 20:22] -= 0.6
    assert (find_lines(image).any(axis=0) == np.isin(np.arange(64), [20, 21])).all()
    bright = halves(-0.5 * np.ones(3), -0.5 * np.ones(3), size=64)
    bright[:, 20:22] += 0.9
    assert not find_lines(bright)[:, 20:22].any()


def test_line_score_by_hand():
    sketch = framed_sketch()
    drawn = np.repeat(0.5 - 0.5 * sketch, 3, axis=-1)
    assert line_score(drawn, sketch) == LineScore(1.0, 1.0)

    # Drawn as a border of two colours, without a line.
    filled = np.ones_like(drawn)
    filled[17:47, 17:47] = RED
    assert line_f1(filled, sketch) > 0.95

    # Half of the frame is missing: what is drawn is right.
    half = drawn.copy()
    half[:, 32:] = 1
    score = line_score(half, sketch)
    assert score.precision == 1
    assert score.recall == pytest.approx(0.5, abs=0.02)
    assert score.f1 == pytest.approx(2 / 3, abs=0.02)

    # One pixel aside is near enough, three are not.
    assert line_f1(np.roll(drawn, 1, axis=1), sketch) == 1
    assert line_f1(np.roll(drawn, (3, 3), axis=(0, 1)), sketch) < 0.2

    blank = np.ones_like(drawn)
    assert line_f1(blank, sketch) == 0
    assert line_f1(drawn, np.full_like(sketch, -1)) == 0
    assert line_f1(blank, np.full_like(sketch, -1)) == 1


def test_the_truth_keeps_its_lines(pictures):
    scores = [line_f1(image, sketch) for image, sketch in pictures]
    assert np.mean(scores) > 0.93 and min(scores) > 0.85


def test_wrong_pictures_score_low(pictures):
    size = pictures[0][0].shape[0]
    noise = np.random.default_rng(0).uniform(-1, 1, (size, size, 3))

    def mean(change):
        return np.mean(
            [line_f1(change(i, image), sketch) for i, (image, sketch) in enumerate(pictures)]
        )

    def blurred(i, image):
        return ndimage.gaussian_filter(image, (size / 32, size / 32, 0))

    assert mean(blurred) < 0.2
    assert mean(lambda i, image: pictures[i - 1][0]) < 0.72
    assert mean(lambda i, image: noise) < 0.7
    assert mean(lambda i, image: np.zeros_like(image)) == 0


def test_slight_noise_does_not_hide_lines(pictures):
    noise = np.random.default_rng(0).normal(0, 0.02, pictures[0][0].shape)
    scores = [line_f1(image + noise, sketch) for image, sketch in pictures]
    assert np.mean(scores) > 0.88


def test_entanglement_looks_away_from_lines():
    sketch = framed_sketch()
    image = np.zeros((64, 64, 3), np.float32)
    other = np.where(sketch > 0, 1, image)
    assert entanglement(image, other, sketch) == 0
    other = np.where(np.arange(64)[:, None, None] < 32, image, BLUE)
    difference = float(ciede2000(to_lab(np.zeros(3)), to_lab(BLUE)))
    assert entanglement(image, other, sketch) == pytest.approx(difference / 2, rel=0.02)
    with pytest.raises(UserError, match="blank areas"):
        entanglement(image, other, np.ones_like(sketch))


def test_sizes_must_agree():
    with pytest.raises(UserError, match="one size"):
        line_f1(np.zeros((8, 8, 3)), np.zeros((8, 9, 1)))
