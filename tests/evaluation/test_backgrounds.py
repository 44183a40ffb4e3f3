"""Both sides of a mask, by hand."""

import numpy as np
import pytest

from colorize_jax.evaluation.backgrounds import background_error, gradient_correlation, leakage
from colorize_jax.evaluation.color import ciede2000, to_lab

RED, BLUE, GREEN = (np.array(c, float) for c in ((1, -1, -1), (-1, -1, 1), (-1, 1, -1)))
MASK = np.zeros((32, 32, 1))
MASK[:, 16:] = 1


def picture(left, right):
    image = np.empty((32, 32, 3))
    image[:, :16], image[:, 16:] = left, right
    return image


def test_background_error_sees_the_outside_alone():
    truth = picture(BLUE, RED)
    assert background_error(truth, truth, MASK) == 0
    assert background_error(picture(BLUE, GREEN), truth, MASK) == 0
    expected = ciede2000(to_lab(GREEN), to_lab(BLUE))
    assert background_error(picture(GREEN, RED), truth, MASK) == pytest.approx(expected)
    assert np.isnan(background_error(truth, truth, np.ones_like(MASK)))


def test_gradient_correlation_knows_shapes_whatever_their_colours():
    stripes, other = picture(BLUE, RED), picture(BLUE, RED)
    stripes[8:16, :16], other[8:16, :16] = GREEN, RED
    assert gradient_correlation(stripes, stripes, MASK) == pytest.approx(1)
    assert gradient_correlation(other, stripes, MASK) > 0.95
    assert gradient_correlation(picture(BLUE, RED), stripes, MASK) == 0
    moved = picture(BLUE, RED)
    moved[20:28, :16] = GREEN
    assert gradient_correlation(moved, stripes, MASK) < 0.3
    assert np.isnan(gradient_correlation(stripes, picture(BLUE, RED), MASK))


def test_leakage_is_the_share_of_pixels_in_the_other_sides_colours():
    truth = picture(BLUE, RED)
    assert leakage(truth, truth, MASK) == (0, 0)
    leaked = truth.copy()
    leaked[:8, 16:] = BLUE
    leaked[:4, :16] = RED
    assert leakage(leaked, truth, MASK) == (0.25, 0.125)
    wrong = picture(GREEN, GREEN)  # wrong, but nobody's
    assert leakage(wrong, truth, MASK) == (0, 0)
