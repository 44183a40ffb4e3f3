"""Guidance: its formulas by hand, switches and windows."""

import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax.diffusion.guidance import guide, mask_context, progress, reference_active

CONDITIONAL = jnp.full((2, 3), 5.0)
NO_REFERENCE = jnp.full((2, 3), 3.0)
NO_SKETCH = jnp.full((2, 3), 4.0)


@pytest.mark.parametrize(
    ("reference_scale", "sketch_scale", "expected"),
    [
        (4.0, 1.0, 3 + 4 * 2),
        (1.0, 3.0, 4 + 3 * 1),
        (4.0, 3.0, (11 + 7) / 2),
        (1.0, 0.5, 5),
        (0.0, 1.0, 5),
    ],
)
def test_formulas(reference_scale, sketch_scale, expected):
    guided = guide(CONDITIONAL, NO_REFERENCE, NO_SKETCH, reference_scale, sketch_scale)
    np.testing.assert_allclose(guided, expected)


def test_what_was_not_evaluated_does_not_guide():
    np.testing.assert_allclose(guide(CONDITIONAL), 5)
    np.testing.assert_allclose(guide(CONDITIONAL, NO_REFERENCE, reference_scale=4.0), 11)
    np.testing.assert_allclose(guide(CONDITIONAL, None, NO_SKETCH, 4.0, 3.0), 7)


def test_scales_may_differ_by_sample():
    guided = guide(CONDITIONAL, NO_REFERENCE, reference_scale=jnp.array([4.0, 1.0]))
    np.testing.assert_allclose(guided[:, 0], [11, 5])


def test_progress_runs_from_noise_to_clean():
    np.testing.assert_allclose(progress(jnp.array([999.0, 499.5, 0.0])), [0, 0.5, 1])
    assert progress(jnp.float32(999.0001)) == 0


def test_windows_include_their_ends_and_open_again():
    t = jnp.array([999.0, 700.0, 300.0, 700.0, 0.0])
    assert reference_active(t).all()
    assert reference_active(t, (0.0, 0.5)).tolist() == [True, True, False, True, False]
    assert reference_active(t, excluded=(0.2, 0.8)).tolist() == [True, False, False, False, True]


def test_outside_the_window_the_context_is_zero():
    context = jnp.ones((2, 4, 3))
    masked = mask_context(context, jnp.array([True, False]))
    np.testing.assert_array_equal(masked[0], context[0])
    np.testing.assert_array_equal(masked[1], 0)
    np.testing.assert_array_equal(mask_context(context, jnp.array(False)), 0)
