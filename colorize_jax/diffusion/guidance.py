"""Classifier-free guidance by reference, by sketch, or by both.

With c the prediction under all conditions, u_r the one without reference (zero context) and u_s the
one without sketch (hints of a blank sheet), at scales s_r and s_s:

    reference   u_r + s_r (c - u_r)
    sketch      u_s + s_s (c - u_s)
    both        the mean of the two

A scale of 1 or less turns its guidance off. Which predictions are evaluated is static; the scales
are traced and may change without recompilation.
"""

import jax.numpy as jnp

from colorize_jax.types import Array


def guide(
    conditional: Array,
    without_reference: Array | None = None,
    without_sketch: Array | None = None,
    reference_scale: Array | float = 1.0,
    sketch_scale: Array | float = 1.0,
) -> Array:
    """Combine predictions of one noisy latent.

    Args:
        conditional: (B, ...) under all conditions.
        without_reference: (B, ...), or None where it was not evaluated.
        without_sketch: (B, ...), or None where it was not evaluated.
        reference_scale: () or (B,); off at 1 or less.
        sketch_scale: () or (B,); off at 1 or less.

    Returns:
        (B, ...) guided prediction; `conditional` where no guidance is on.
    """
    push, num_guided = 0.0, 0
    for unconditional, scale in (
        (without_reference, reference_scale),
        (without_sketch, sketch_scale),
    ):
        if unconditional is None:
            continue
        scale = _per_sample(scale, conditional)
        excess = jnp.maximum(scale - 1, 0)
        push = push + excess * (conditional - unconditional)
        num_guided = num_guided + (scale > 1)
    return conditional + push / jnp.maximum(num_guided, 1)


def progress(t: Array, num_timesteps: int = 1000) -> Array:
    """Share of the denoising done at timesteps t: 0 at pure noise, 1 at the clean end."""
    return jnp.clip(1 - t / (num_timesteps - 1), 0, 1)


def reference_active(
    t: Array,
    window: tuple[Array | float, Array | float] = (0.0, 1.0),
    excluded: tuple[Array | float, Array | float] | None = None,
    num_timesteps: int = 1000,
) -> Array:
    """Whether the reference conditions the model at timesteps t.

    A function of t alone: a sampler with evaluations inside a step may return to an earlier t, and
    so enter a window again that it had left.

    Args:
        t: () or (B,), may be fractional.
        window: first and last progress, both inclusive, at which the reference is used.
        excluded: first and last progress, both inclusive, at which it is not, inside the window.
        num_timesteps: T.

    Returns:
        bool of t's shape.
    """
    now = progress(t, num_timesteps)
    active = (window[0] <= now) & (now <= window[1])
    if excluded is not None:
        active &= ~((excluded[0] <= now) & (now <= excluded[1]))
    return active


def mask_context(context: Array, active: Array) -> Array:
    """Replace the context (B, S, C) by zero tokens where `active`, () or (B,), is false.

    Cross-attention has no biases in keys and values: zero tokens give zero, however many they are.
    """
    return jnp.where(_per_sample(active, context), context, 0)


def _per_sample(value: Array | float, like: Array) -> Array:
    """Shape () or (B,) to broadcast against `like` (B, ...)."""
    value = jnp.asarray(value)
    return value.reshape(value.shape + (1,) * (like.ndim - 1)) if value.ndim else value
