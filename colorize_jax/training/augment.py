"""What happens to a batch between the loader and the network: conversion, dropout, noise.

All random numbers of a step are drawn here, for the global batch and before they are needed: the
step itself is a deterministic function of parameters, batch and `StepRandomness`.
"""

from collections.abc import Mapping

import flax.struct
import jax
import jax.numpy as jnp

from colorize_jax.rng import stream
from colorize_jax.types import Array, Batch

# A reference is cut by the mask of another sample: the one this many places earlier in the batch.
MASK_SHIFT = 4
MASK_THRESHOLDS = (0.05, 0.99)


def to_batch(record: Mapping[str, Array]) -> Batch:
    """Convert a loader's batch to floats; whatever else it holds is left out.

    Args:
        record: uint8 `image`, `reference` (B, H, W, 3), `sketch` (B, H, W, 1 or 3; paper 255, line
            0), `sketch_mask`, `reference_mask` (B, H, W, 1; 255 inside); float `size` (B,) in px,
            `aesthetic_score` (B,), `crop` (B, 4); and, instead of pictures, `moments`,
            `clip_tokens` and `tagger_tokens` of any float dtype, which tokens keep as the encoders'
            own do. All but sketch, size and score may be missing.

    Returns:
        Pictures in [-1, 1] with the sketch's lines at +1, masks in [0, 1], all float32.
    """

    def picture(name: str) -> Array | None:
        # 255 * (1 / 255) is exactly 1 in float32: paper and white are exactly -1 and 1.
        return (2 * record[name].astype(jnp.float32) - 255) / 255 if name in record else None

    def mask(name: str) -> Array | None:
        return record[name].astype(jnp.float32) / 255.0 if name in record else None

    def floats(name: str) -> Array | None:
        return jnp.asarray(record[name], jnp.float32) if name in record else None

    sketch = -picture("sketch")
    return Batch(
        sketch=jnp.broadcast_to(sketch, (*sketch.shape[:3], 3)),
        size=floats("size"),
        aesthetic_score=floats("aesthetic_score"),
        image=picture("image"),
        reference=picture("reference"),
        sketch_mask=mask("sketch_mask"),
        reference_mask=mask("reference_mask"),
        crop=floats("crop"),
        moments=floats("moments"),
        clip_tokens=record.get("clip_tokens"),
        tagger_tokens=record.get("tagger_tokens"),
    )


def inpaint_reference(batch: Batch, key: Array, rate: float) -> Batch:
    """Paint white, in some samples, the part of the reference that another sample's mask covers.

    Args:
        batch: with `reference` and `reference_mask`.
        key: random key of this use in this step.
        rate: share of samples, 0..1.

    Raises:
        ValueError: the batch has precomputed tokens instead of pictures.
    """
    if not rate:
        return batch
    if batch.reference is None or batch.reference_mask is None:
        raise ValueError(
            f"got inpaint rate {rate} for a batch without reference pictures and masks, expected "
            "both; set the rate to 0"
        )
    size = batch.reference.shape[0]
    shift = (
        MASK_SHIFT if MASK_SHIFT % size else 1
    )  # a sample never takes its own mask, unless it is alone
    chosen_key, threshold_key = jax.random.split(key)
    low, high = MASK_THRESHOLDS
    chosen = jax.random.bernoulli(chosen_key, rate, (size, 1, 1, 1))
    threshold = jax.random.uniform(threshold_key, (size, 1, 1, 1), minval=low, maxval=high)
    covered = jnp.roll(batch.reference_mask, shift, axis=0) > threshold
    return batch.replace(reference=jnp.where(chosen & covered, 1.0, batch.reference))


@flax.struct.dataclass
class StepRandomness:
    """The random numbers of one training step.

    Attributes:
        timesteps: (B,) int32, uniform over all.
        noise: (B, h, w, C) standard normal plus the offset of each sample and channel.
        keep_reference: (B,) 1, or 0 where the context is dropped.
        keep_hints: (B, number of hints) 1, or 0 where a hint is dropped.
    """

    timesteps: Array
    noise: Array
    keep_reference: Array
    keep_hints: Array


def draw(
    key: Array,
    step: Array | int,
    latents_shape: tuple[int, int, int, int],
    *,
    num_timesteps: int = 1000,
    offset_noise: float = 0.05,
    reference_dropout: float = 0.2,
    hint_dropout: float = 0.1,
    num_hints: int = 4,
) -> StepRandomness:
    """Draw the random numbers of step `step`.

    Args:
        key: the run's key.
        step: may be traced.
        latents_shape: (B, h, w, C) of the global batch.
        num_timesteps: timesteps are 0..num_timesteps - 1.
        offset_noise: standard deviation of the noise that all pixels of a channel share.
        reference_dropout, hint_dropout: rates, 0..1.
        num_hints: hints of the sketch encoder.
    """
    batch, _, _, channels = latents_shape
    noise = jax.random.normal(stream(key, step, "noise"), latents_shape)
    offset = jax.random.normal(stream(key, step, "offset_noise"), (batch, channels))
    kept_reference = jax.random.bernoulli(
        stream(key, step, "reference_dropout"), 1 - reference_dropout, (batch,)
    )
    kept_hints = jax.random.bernoulli(
        stream(key, step, "hint_dropout"), 1 - hint_dropout, (batch, num_hints)
    )
    return StepRandomness(
        timesteps=jax.random.randint(stream(key, step, "timesteps"), (batch,), 0, num_timesteps),
        noise=add_offset(noise, offset, offset_noise),
        keep_reference=kept_reference.astype(jnp.float32),
        keep_hints=kept_hints.astype(jnp.float32),
    )


def add_offset(noise: Array, offset: Array, level: float) -> Array:
    """Return noise (B, h, w, C) + level * offset (B, C): it teaches overall brightness."""
    return noise + level * offset[:, None, None, :]


def drop_context(context: Array, keep: Array) -> Array:
    """Zero the context (B, S, C) of samples with keep (B,) 0: "no reference" is all zeros."""
    return context * keep[:, None, None].astype(context.dtype)


def drop_hints(hints: tuple[Array, ...], keep: Array) -> tuple[Array, ...]:
    """Zero hint i (B, h_i, w_i, C_i) of samples with keep (B, number of hints) 0 there."""
    return tuple(
        hint * keep[:, i, None, None, None].astype(hint.dtype) for i, hint in enumerate(hints)
    )
