"""The diffusion loss by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax.training.losses.diffusion import diffusion_loss


def test_mean_squared_error_in_float32():
    prediction = jnp.full((2, 4, 4, 3), 1.5, jnp.bfloat16)
    loss = diffusion_loss(prediction, jnp.zeros((2, 4, 4, 3)))
    assert loss.dtype == jnp.float32
    assert loss == pytest.approx(2.25)


def test_weights_belong_to_samples():
    prediction = jnp.stack([jnp.full((4, 4, 3), 1.0), jnp.full((4, 4, 3), 3.0)])
    loss = diffusion_loss(prediction, jnp.zeros((2, 4, 4, 3)), weights=jnp.array([4.0, 0.5]))
    assert loss == pytest.approx((4 * 1 + 0.5 * 9) / 2)


def test_errors_outside_the_mask_count_nothing():
    prediction = jnp.ones((1, 2, 2, 3))
    mask = np.zeros((1, 4, 4, 1), np.float32)
    mask[:, :2, :2] = 1  # one of four cells
    mask[:, 2:, 2] = 1  # half of another
    assert diffusion_loss(prediction, 0 * prediction, mask=mask) == pytest.approx(1.5 / 4)
    with pytest.raises(ValueError, match="multiple of"):
        diffusion_loss(prediction, prediction, mask=mask[:, :3])
