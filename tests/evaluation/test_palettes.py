"""Distances of palettes of hand-made pictures."""

import numpy as np
import pytest

from colorize_jax.errors import UserError
from colorize_jax.evaluation.color import ciede2000, to_lab
from colorize_jax.evaluation.palettes import palette_distance

RED, BLUE, GREY = np.array([1.0, -1, -1]), np.array([-1.0, -1, 1]), np.array([0.0, 0, 0])


def stripes(*colors, height=16, width=48):
    """Vertical stripes of equal width."""
    return np.repeat(np.tile(np.array(colors), (height, 1, 1)), width // len(colors), axis=1)


def difference(a, b):
    return float(ciede2000(to_lab(a), to_lab(b)))


def test_flat_pictures_have_the_difference_of_their_colours():
    assert palette_distance(stripes(RED), stripes(BLUE)) == pytest.approx(difference(RED, BLUE))


def test_places_and_sizes_do_not_count():
    a, b = stripes(RED, BLUE, GREY), stripes(GREY, RED, BLUE, height=90, width=30)
    assert palette_distance(a, b) == pytest.approx(0, abs=1e-9)


def test_shares_do():
    """A quarter of the pixels must turn from red to blue."""
    a, b = stripes(RED, RED, RED, BLUE), stripes(RED, BLUE)
    assert palette_distance(a, b) == pytest.approx(difference(RED, BLUE) / 4)


def test_the_cheapest_way_is_taken():
    """Red to red; blue to grey, not red to grey and blue to red."""
    a, b = stripes(RED, BLUE), stripes(GREY, RED)
    assert palette_distance(a, b) == pytest.approx(difference(BLUE, GREY) / 2)


def test_masks_choose_pixels():
    a, b = stripes(RED, BLUE), stripes(RED, GREY)
    mask = np.zeros(a.shape[:2])
    mask[:, :24] = 1
    assert palette_distance(a, b, mask, mask[..., None]) == pytest.approx(0, abs=1e-9)
    assert palette_distance(a, b, 1 - mask, mask) == pytest.approx(difference(BLUE, RED))
    with pytest.raises(UserError, match=r"above 0\.5"):
        palette_distance(a, b, 0 * mask)
    with pytest.raises(UserError, match="one size"):
        palette_distance(a, b, mask[1:])


def test_many_colours_of_one_distribution_are_near_each_other():
    """Noise over all colours, where a shift of the lightness counts for more."""
    image, other = np.random.default_rng(0).uniform(-1, 1, (2, 64, 64, 3))
    noise = palette_distance(image, other)
    assert palette_distance(image, image) == pytest.approx(0, abs=1e-9)
    assert 0 < noise < 3
    assert palette_distance(image, 0.7 * other + 0.3) > 4 * noise


def test_both_directions_agree():
    image, other = np.random.default_rng(0).uniform(-1, 1, (2, 32, 48, 3))
    there, back = palette_distance(image, other), palette_distance(other, image)
    assert there == pytest.approx(back)


def test_large_pictures_are_sampled():
    large = np.kron(stripes(RED, BLUE, GREY, height=8, width=24), np.ones((80, 80, 1)))
    assert palette_distance(large, stripes(RED, BLUE, GREY)) == pytest.approx(0, abs=0.2)
