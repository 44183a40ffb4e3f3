"""The compiled programs of a picture: pure functions of parameters and arrays.

    encode_texts        tokens -> embeddings in the space of CLIP's own tokens
    encode_references   pixels at the encoders' sizes, directions between texts -> context
    encode_sketches     pixels, hints of colour -> hints
    encode_background   latent and masks -> normed tokens of every decoder block: the plugin's bank
    denoise             all of that -> latents: the whole loop (`sampling`)
    prepare, begin, advance    the same loop in parts, between which the host may look or stop
    decode              latents -> pixels

Each is compiled once for every shape.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.diffusion.samplers import Part, Progress
from colorize_jax.inference.denoiser import BLANK
from colorize_jax.inference.sampling import (
    Prepared,
    SamplingInputs,
    StaticOptions,
    TracedOptions,
    prepare_steps,
    sample_latents,
    sample_part,
)
from colorize_jax.inference.system import System
from colorize_jax.inference.text.directions import TextDirections, manipulate
from colorize_jax.models.background_encoder import crop_embedding, encode_bank
from colorize_jax.types import Array, Params


@partial(jax.jit, static_argnums=0)
def encode_texts(system: System, params: Params, ids: Array) -> Array:
    """Tokens (B, N) of CLIP's text tower -> embeddings (B, C) float32 of any length."""
    embeddings = system.clip_text.apply({"params": params["clip_text"]}, ids)
    return embeddings.astype(jnp.float32)


@partial(jax.jit, static_argnums=0)
def encode_references(
    system: System,
    params: Params,
    clip_images: Array,
    tagger_images: Array,
    directions: TextDirections | None = None,
) -> Array:
    """References at the sides of CLIP and the tagger (B, side, side, 3) -> context (B, S, C).

    Where `directions` are given, CLIP's tokens are moved along them.
    """
    clip_tokens, tagger_tokens = system.encoders.encode_resized(params, clip_images, tagger_images)
    if directions is not None:
        clip_tokens = manipulate(clip_tokens, directions)
    return system.colorizer.context(params, clip_tokens, tagger_tokens)


@partial(jax.jit, static_argnums=0)
def encode_sketches(
    system: System, params: Params, sketches: Array, color_hints: Array | None = None
) -> tuple[Array, ...]:
    """Sketches (B, H, W, 3), maybe with hints of colour (B, H, W, 4) -> hints, finest first."""
    return system.colorizer.hints(params, sketches, color_hints)


def encode_blank(system: System, params: Params, height: int, width: int) -> tuple[Array, ...]:
    """Hints of a sheet without lines, batch 1."""
    return encode_sketches(system, params, jnp.full((1, height, width, 3), BLANK))


@partial(jax.jit, static_argnums=0)
def encode_images(system: System, params: Params, images: Array) -> Array:
    """Images (B, H, W, 3) -> scaled latents (B, h, w, C), the posterior's mean."""
    return system.encoders.encode_image(params, images)


@partial(jax.jit, static_argnums=0)
def encode_background(
    system: System,
    params: Params,
    latents: Array,
    sketch_mask: Array,
    reference_mask: Array,
    crop: Array,
) -> dict[str, Array]:
    """The plugin's bank, from arguments of `background_encoder`'s functions."""
    encoder = system.background_encoder
    vector = crop_embedding(crop, encoder.vector_channels)
    own = params["background_encoder"]
    return encode_bank(encoder, own, latents, sketch_mask, reference_mask, vector)


denoise = jax.jit(sample_latents, static_argnums=(0, 1))
prepare = jax.jit(prepare_steps, static_argnums=(0, 1))


@partial(jax.jit, static_argnums=(0, 1))
def begin(
    system: System,
    static: StaticOptions,
    params: Params,
    inputs: SamplingInputs,
    traced: TracedOptions,
    prepared: Prepared,
) -> Progress:
    """The loop before its first evaluation; arguments as for `sampling.sample_part`."""
    return sample_part(system, static, params, inputs, traced, prepared, Part())[1]


@partial(jax.jit, static_argnums=(0, 1), donate_argnames="progress")
def advance(
    system: System,
    static: StaticOptions,
    params: Params,
    inputs: SamplingInputs,
    traced: TracedOptions,
    prepared: Prepared,
    progress: Progress,
    until: Array,
) -> tuple[Array, Progress]:
    """Go on until so many evaluations are done: the latents so far, and where the loop stands."""
    part = Part(progress, until)
    return sample_part(system, static, params, inputs, traced, prepared, part)


def denoise_by_steps(
    system: System,
    static: StaticOptions,
    params: Params,
    inputs: SamplingInputs,
    traced: TracedOptions,
    watch: Callable[[int, Array], None],
) -> Array:
    """As `denoise`, one evaluation of the UNet after another; what `watch` raises ends it there.

    Args:
        system, static, params, inputs, traced: see `sampling.sample_latents`.
        watch: called after every evaluation with how many are done and the clean latents
            (B, h, w, C) that it expects, which are gone when the next one begins.
    """
    prepared = prepare(system, static, params, inputs, traced)
    arguments = (system, static, params, inputs, traced, prepared)
    progress, done = begin(*arguments), 0
    while progress.going:  # the host waits for the device here
        done += 1
        latents, progress = advance(*arguments, progress, np.int32(done))
        watch(done, jax.block_until_ready(progress.expected))
    return latents


@partial(jax.jit, static_argnums=0)
def decode(system: System, params: Params, latents: Array) -> Array:
    """Scaled latents (B, h, w, C) -> images (B, H, W, 3) in [-1, 1]."""
    return jnp.clip(system.encoders.decode(params, latents), -1, 1)


def without_loras(system: System) -> System:
    """The same system for parameters into which low-rank additions were merged."""
    return _with_unet(system, loras=())


def in_loops(system: System) -> System:
    """The same system for little memory: without second copies of parameters, see `for_loop`."""
    return _with_unet(system, block_loop="loop")


def _with_unet(system: System, **fields: Any) -> System:
    unet = system.colorizer.unet.clone(**fields)
    return replace(system, colorizer=replace(system.colorizer, unet=unet))
