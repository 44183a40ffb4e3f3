"""From a network that predicts v or eps to the `denoise(x, sigma) -> x0` that samplers know."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from colorize_jax.diffusion.samplers.loops import Denoise
from colorize_jax.diffusion.schedule import NoiseSchedule, check_prediction_type, sigma_to_t
from colorize_jax.types import Array


def make_denoiser(
    predict: Callable[[Array, Array], Array], schedule: NoiseSchedule, prediction_type: str
) -> Denoise:
    """Wrap a network (k-diffusion's discrete v and eps denoisers, sigma_data 1).

    Args:
        predict: `(z_t (B, ...), t (B,)) -> prediction (B, ...)`; z_t in the scale of training
            (variance preserving), t float32, fractional, in [0, T - 1].
        schedule: links sigma and t.
        prediction_type: "v" or "eps".

    Returns:
        `denoise(x, sigma)` with x = z_0 + sigma * noise, sigma () or (B,).
    """
    check_prediction_type(prediction_type)

    def denoise(x: Array, sigma: Array) -> Array:
        sigma = jnp.broadcast_to(sigma, x.shape[:1])
        t = sigma_to_t(schedule, sigma)
        sigma = sigma.reshape((-1,) + (1,) * (x.ndim - 1))
        signal_rate = jax.lax.rsqrt(sigma**2 + 1)
        prediction = predict(x * signal_rate, t).astype(jnp.float32)
        if prediction_type == "eps":
            return x - sigma * prediction
        return x * signal_rate**2 - prediction * sigma * signal_rate

    return denoise
