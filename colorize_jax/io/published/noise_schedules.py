"""The noise schedule that weights were trained with, converted from and to every file format.

Our record of it is a dictionary of `SCHEDULE_FIELDS`, options of `DiffusionConfig`: the "scaled
linear" schedule, whose square roots of beta rise linearly, rescaled to zero terminal SNR or not.
Other schedules cannot be said in it and are refused.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from colorize_jax.config.method import DiffusionConfig
from colorize_jax.diffusion.schedule import make_schedule
from colorize_jax.errors import UserError
from colorize_jax.io.formats.weights_folder import SCHEDULE_FIELDS

# What diffusers' schedulers take where their config.json says nothing.
SCHEDULER_DEFAULTS = {"beta_start": 0.0001, "beta_end": 0.02, "num_train_timesteps": 1000}
SCHEDULER_DEFAULTS |= {"beta_schedule": "linear", "rescale_betas_zero_snr": False}
PREDICTION_TYPES = {"v": "v_prediction", "eps": "epsilon"}
ZERO = 1e-7  # a share of signal that is none

Record = dict[str, Any]


def record(diffusion: DiffusionConfig) -> Record:
    """The record of a run's schedule."""
    return {name: getattr(diffusion, name) for name in SCHEDULE_FIELDS}


PUBLISHED = record(DiffusionConfig())


def check_record(content: Any, source: str | Path) -> Record:
    """Check a record from outside.

    Raises:
        UserError: it is none, or has values that no schedule can have.
    """
    if not isinstance(content, Mapping) or set(content) != set(SCHEDULE_FIELDS):
        raise UserError(
            f"got {source} with the noise schedule {content!r}, expected "
            f"{', '.join(SCHEDULE_FIELDS)}; get the file again"
        )
    try:
        return record(DiffusionConfig(**content))
    except UserError as error:
        raise UserError(f"{source}: {error}") from error


def check_prediction(prediction_type: str | None, schedule: Record | None, source: Any) -> None:
    """Raise UserError for a prediction of noise from noise alone."""
    if prediction_type == "eps" and schedule and schedule["zero_terminal_snr"]:
        raise UserError(
            f"got {source} that predicts eps with zero terminal SNR, expected v: noise alone says "
            "nothing of the picture; get another file"
        )


def from_tensors(tensors: Mapping[str, Any], source: str | Path) -> Record | None:
    """Read the constants that some trainers store beside weights; None where there are none.

    Raises:
        UserError: a schedule of another kind.
    """
    for prefix in ("", "denoiser.", "model."):
        for name in ("alphas_cumprod", "betas"):
            tensor = tensors.get(prefix + name)
            if tensor is not None and len(tensor.shape) == 1:
                values = np.asarray(tensor).astype(np.float64)
                alphas = values if name == "alphas_cumprod" else np.cumprod(1 - values)
                exact = np.dtype(tensor.dtype).itemsize >= 4
                return from_alphas(alphas, source, exact=exact)
    return PUBLISHED | {"zero_terminal_snr": True} if "ztsnr" in tensors else None


def from_alphas(alphas_cumprod: np.ndarray, source: str | Path, *, exact: bool = True) -> Record:
    """Recognise a schedule by its shares of signal (T,).

    Args:
        alphas_cumprod: over the timesteps.
        source: for messages.
        exact: whether they have float32's digits.

    Raises:
        UserError: a schedule of another kind.
    """
    known = [PUBLISHED, PUBLISHED | {"zero_terminal_snr": True}]
    if exact and len(alphas_cumprod) > 1 and alphas_cumprod[-1] > ZERO:
        betas = 1 - alphas_cumprod[[0, -1]] / np.array([1, alphas_cumprod[-2]])
        ends = [float(f"{beta:.4g}") for beta in betas]
        known.append(
            {"beta_start": ends[0], "beta_end": ends[1], "num_timesteps": len(alphas_cumprod)}
            | {"zero_terminal_snr": False}
        )
    for candidate in known:
        try:
            expected = make_schedule(**candidate).alphas_cumprod
        except UserError:
            continue
        if len(expected) == len(alphas_cumprod) and np.allclose(
            expected, alphas_cumprod, rtol=0, atol=1e-4 if exact else 2e-3
        ):
            return dict(candidate)
    raise UserError(
        f"got {source} with a noise schedule that is not scaled linear, expected one whose square "
        "roots of beta rise linearly, or the published one with zero terminal SNR; models of other "
        "schedules cannot be used"
    )


def from_scheduler(content: Mapping[str, Any], source: str | Path) -> Record | None:
    """Read the schedule of a diffusers scheduler's config.json; None where it says none.

    Raises:
        UserError: a schedule of another kind.
    """
    if str(content.get("_class_name", "")).startswith("FlowMatch"):
        raise UserError(
            f"got {source} of {content['_class_name']}, expected a schedule of betas: models that "
            "match flows cannot be used"
        )
    trained = content.get("trained_betas")
    if trained is not None:
        return from_alphas(np.cumprod(1 - np.asarray(trained, np.float64)), source)
    if not set(content) & set(SCHEDULER_DEFAULTS):
        return None
    said = SCHEDULER_DEFAULTS | dict(content)
    if said["beta_schedule"] != "scaled_linear":
        raise UserError(
            f"got {source} with the beta_schedule {said['beta_schedule']!r}, expected "
            "scaled_linear; models of other schedules cannot be used"
        )
    found = {
        "beta_start": said["beta_start"],
        "beta_end": said["beta_end"],
        "num_timesteps": said["num_train_timesteps"],
        "zero_terminal_snr": said["rescale_betas_zero_snr"],
    }
    return check_record(found, source)


def to_scheduler(prediction_type: str, schedule: Record | None) -> dict[str, Any]:
    """A scheduler's config.json; the published schedule where none is known."""
    said = schedule or PUBLISHED
    zero = said["zero_terminal_snr"]
    return {
        "_class_name": "DDIMScheduler",
        "beta_end": said["beta_end"],
        "beta_schedule": "scaled_linear",
        "beta_start": said["beta_start"],
        "clip_sample": False,
        "num_train_timesteps": said["num_timesteps"],
        "prediction_type": PREDICTION_TYPES[prediction_type],
        "rescale_betas_zero_snr": zero,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        # Sampling has to begin at the last timestep where that is pure noise.
        "timestep_spacing": "trailing" if zero else "leading",
    }


def from_text(text: str | None, source: str | Path) -> Record | None:
    """Read what `to_text` wrote; None of None."""
    if text is None:
        return None
    try:
        return check_record(json.loads(text), source)
    except ValueError as error:
        raise UserError(
            f"got {source} whose metadata holds a damaged noise schedule ({error}), expected JSON; "
            "export it again"
        ) from error


def to_text(schedule: Record) -> str:
    """One line for a file's metadata."""
    return json.dumps(schedule)
