"""The noise schedule: shares of signal and noise in a latent at each timestep.

    z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) eps                    (variance preserving)
    v_t = sqrt(abar_t) eps - sqrt(1 - abar_t) z_0                    (Salimans & Ho 2022)
    sigma_t = sqrt((1 - abar_t) / abar_t),  snr_t = 1 / sigma_t^2

Tables are built once in float64 by numpy; what runs under jit reads them in float32. Timesteps
count from 0 (almost clean) to `num_timesteps - 1` (almost noise).
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from colorize_jax.errors import UserError, nearest
from colorize_jax.types import Array

PREDICTION_TYPES = ("v", "eps")

# With zero terminal SNR the last sigma is infinite; samplers in sigma space start from this
# signal share instead (float16's smallest step, as other implementations do).
SMALLEST_ALPHA_CUMPROD = 2.0**-24


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """Tables over the T timesteps, all (T,) float64; a constant under jit, hashed by identity.

    Attributes:
        betas: share of variance replaced by noise at each step.
        alphas_cumprod: abar_t, share of the signal's variance left.
        signal_rates: sqrt(abar_t).
        noise_rates: sqrt(1 - abar_t).
        sigmas: noise over signal, ascending; finite also with zero terminal SNR.
        log_sigmas: their logarithms as samplers know them, from abar rounded to float32.
    """

    betas: np.ndarray
    alphas_cumprod: np.ndarray
    signal_rates: np.ndarray
    noise_rates: np.ndarray
    sigmas: np.ndarray
    log_sigmas: np.ndarray

    @property
    def num_timesteps(self) -> int:
        """T."""
        return len(self.betas)


def make_schedule(
    beta_start: float = 0.00085,
    beta_end: float = 0.012,
    num_timesteps: int = 1000,
    zero_terminal_snr: bool = False,
) -> NoiseSchedule:
    """Build the "scaled linear" schedule: sqrt(beta) rises linearly.

    Args:
        beta_start, beta_end: first and last beta, 0 < beta_start <= beta_end < 1.
        num_timesteps: T, at least 2.
        zero_terminal_snr: rescale so that the last timestep is pure noise (Lin et al. 2023).

    Raises:
        UserError: betas or T out of range.
    """
    if not 0 < beta_start <= beta_end < 1:
        raise UserError(
            f"got betas from {beta_start} to {beta_end}, expected 0 < beta_start <= beta_end < 1; "
            "the published model uses 0.00085 and 0.012"
        )
    if num_timesteps < 2:
        raise UserError(
            f"got {num_timesteps} timesteps, expected at least 2; the published model uses 1000"
        )
    betas = np.linspace(beta_start**0.5, beta_end**0.5, num_timesteps, dtype=np.float64) ** 2
    if zero_terminal_snr:
        betas = rescale_zero_terminal_snr(betas)
    alphas_cumprod = np.cumprod(1.0 - betas)
    bounded = np.maximum(alphas_cumprod, SMALLEST_ALPHA_CUMPROD)
    sigmas = np.sqrt((1.0 - bounded) / bounded)
    return NoiseSchedule(
        betas=betas,
        alphas_cumprod=alphas_cumprod,
        signal_rates=np.sqrt(alphas_cumprod),
        noise_rates=np.sqrt(1.0 - alphas_cumprod),
        sigmas=sigmas,
        log_sigmas=_sampler_log_sigmas(bounded),
    )


def _sampler_log_sigmas(alphas_cumprod: np.ndarray) -> np.ndarray:
    """Logarithms of the levels that published samplers start from and end at.

    They round abar to float32, which changes the smallest sigma by a factor of 1 + 1e-5, enough to
    show in the results of stochastic samplers.
    """
    rounded = alphas_cumprod.astype(np.float32).astype(np.float64)
    return 0.5 * np.log((1.0 - rounded) / rounded)


def rescale_zero_terminal_snr(betas: np.ndarray) -> np.ndarray:
    """Shift and scale sqrt(abar): the last becomes 0, the first stays (Lin et al. 2023, alg. 1)."""
    rates = np.sqrt(np.cumprod(1.0 - betas))
    rates = (rates - rates[-1]) * rates[0] / (rates[0] - rates[-1])
    alphas_cumprod = rates**2
    alphas = np.concatenate([alphas_cumprod[:1], alphas_cumprod[1:] / alphas_cumprod[:-1]])
    return 1.0 - alphas


def check_prediction_type(prediction_type: str) -> str:
    """Return `prediction_type`; raise UserError unless it is "v" or "eps"."""
    if prediction_type not in PREDICTION_TYPES:
        near = nearest(prediction_type, PREDICTION_TYPES)
        raise UserError(
            f'got prediction type "{prediction_type}", expected "v" or "eps"; nearest: "{near}"'
        )
    return prediction_type


def _at(table: np.ndarray, t: Array, like: Array) -> Array:
    """Read a table at timesteps (B,) and shape the result to broadcast against `like` (B, ...)."""
    values = jnp.asarray(table, jnp.float32)[t]
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim))


def corrupt(schedule: NoiseSchedule, latents: Array, noise: Array, t: Array) -> Array:
    """Return z_t from clean latents and standard normal noise, (B, ...), at integer timesteps."""
    signal, spread = _at(schedule.signal_rates, t, latents), _at(schedule.noise_rates, t, latents)
    return signal * latents + spread * noise


def velocity(schedule: NoiseSchedule, latents: Array, noise: Array, t: Array) -> Array:
    """Return v_t (B, ...), the target of v-prediction; arguments as in `corrupt`."""
    signal, spread = _at(schedule.signal_rates, t, latents), _at(schedule.noise_rates, t, latents)
    return signal * noise - spread * latents


def target(
    schedule: NoiseSchedule, latents: Array, noise: Array, t: Array, prediction_type: str
) -> Array:
    """Return what the model should predict: the velocity for "v", the noise for "eps"."""
    if check_prediction_type(prediction_type) == "eps":
        return noise
    return velocity(schedule, latents, noise, t)


def predict_clean(
    schedule: NoiseSchedule, prediction: Array, noisy: Array, t: Array, prediction_type: str
) -> Array:
    """Return the clean latents (B, ...) that a prediction at z_t implies.

    For "eps" this divides by sqrt(abar_t): infinite at the last timestep with zero terminal SNR.
    """
    signal, spread = _at(schedule.signal_rates, t, noisy), _at(schedule.noise_rates, t, noisy)
    if check_prediction_type(prediction_type) == "eps":
        return (noisy - spread * prediction) / signal
    return signal * noisy - spread * prediction


def snr(schedule: NoiseSchedule, t: Array) -> Array:
    """Return the signal-to-noise ratio abar / (1 - abar), float32, at integer timesteps (B,)."""
    table = schedule.alphas_cumprod / (1.0 - schedule.alphas_cumprod)
    return jnp.asarray(table, jnp.float32)[t]


def min_snr_weight(schedule: NoiseSchedule, t: Array, gamma: float, prediction_type: str) -> Array:
    """Return per-sample loss weights (B,) float32 of min-SNR-gamma (Hang et al. 2023).

    min(SNR, gamma) / SNR for "eps". For "v" SNR + 1 takes the place of SNR, since
    |v - v'|^2 = (SNR + 1) |z_0 - z_0'|^2. Both are at most 1, also at SNR 0.
    """
    ratio = snr(schedule, t)
    if check_prediction_type(prediction_type) == "v":
        ratio = ratio + 1.0
    return jnp.minimum(1.0, gamma / ratio)


def sigma_to_t(schedule: NoiseSchedule, sigma: Array) -> Array:
    """Return fractional timesteps of noise levels: linear in log sigma, clamped to [0, T - 1]."""
    steps = jnp.arange(schedule.num_timesteps, dtype=jnp.float32)
    return jnp.interp(jnp.log(sigma), jnp.asarray(schedule.log_sigmas, jnp.float32), steps)


def t_to_sigma(schedule: NoiseSchedule, t: Array) -> Array:
    """Return noise levels at fractional timesteps: the inverse of `sigma_to_t`."""
    steps = jnp.arange(schedule.num_timesteps, dtype=jnp.float32)
    return jnp.exp(jnp.interp(t, steps, jnp.asarray(schedule.log_sigmas, jnp.float32)))
