"""The tagger: golden case, windows and seams by hand."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax.errors import UserError
from colorize_jax.models.frozen.tagger import (
    Tagger,
    from_windows,
    relative_positions,
    seam_mask,
    to_windows,
)
from colorize_jax.verify import verify_folder

GOLDEN = Path(__file__).parents[2] / "golden"


def test_golden() -> None:
    checks = list(verify_folder(GOLDEN, "tagger"))
    assert checks and all(check.passed for check in checks), checks


def test_windows_hold_neighbours_and_join_again() -> None:
    x = jnp.arange(2 * 6 * 6 * 3).reshape(2, 6, 6, 3)
    windows = to_windows(x, 3)
    assert windows.shape == (2, 2, 2, 9, 3)
    np.testing.assert_array_equal(windows[1, 0, 1].reshape(3, 3, 3), x[1, :3, 3:])
    np.testing.assert_array_equal(from_windows(windows), x)


def test_seams_part_only_what_was_not_adjacent() -> None:
    # A 4x4 grid rolled by one: its last row and column came from the other side.
    mask = seam_mask(4, 2, 1)
    assert not mask[0, 0].any()
    below = mask[1, 0]  # rows 2 and 3: tokens 0, 1 on one side of the seam, 2, 3 on the other
    np.testing.assert_array_equal(below[0] != 0, [False, False, True, True])
    np.testing.assert_array_equal(mask[1, 1] != 0, ~np.eye(4, dtype=bool))


def test_relative_positions_are_antisymmetric() -> None:
    table, index = relative_positions(3)
    pairs = table[index]
    np.testing.assert_allclose(pairs, -pairs.transpose(1, 0, 2))
    np.testing.assert_allclose(pairs[0, 8], [-np.log2(9) / 3] * 2, rtol=1e-6)


@pytest.mark.parametrize("image_size", [40, 48])
def test_grids_that_windows_do_not_divide(image_size: int) -> None:
    module = Tagger(image_size, 4, 3, 16, (2, 2), (2, 4), 5)
    images = jnp.zeros((1, image_size, image_size, 3))
    output, _ = jax.eval_shape(module.init_with_output, jax.random.key(0), images)
    assert output.tokens.shape == (1, (image_size // 8) ** 2, 32)
    assert output.logits.shape == (1, 5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 450}, "multiple of 32"),
        ({"num_heads": (4, 8)}, "4 depths and 2"),
        ({"num_heads": (3, 8, 16, 32)}, "3 heads"),
    ],
)
def test_bad_fields_are_named(fields: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Tagger(**fields)
