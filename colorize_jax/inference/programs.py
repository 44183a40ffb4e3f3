"""The compiled programs of a picture: pure functions of parameters and arrays.

    encode_texts        tokens -> embeddings in the space of CLIP's own tokens
    encode_references   pixels at the encoders' sizes, directions between texts -> context
    encode_sketches     pixels -> hints
    encode_background   latent and masks -> normed tokens of every decoder block: the plugin's bank
    denoise             all of that -> latents: the whole loop (`sampling`)
    decode              latents -> pixels

Each is compiled once for every shape.
"""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp

from colorize_jax.inference.denoiser import BLANK
from colorize_jax.inference.sampling import NORMED, sample_latents
from colorize_jax.inference.system import System
from colorize_jax.inference.text.directions import TextDirections, manipulate
from colorize_jax.nn.layers import sinusoid
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
def encode_sketches(system: System, params: Params, sketches: Array) -> tuple[Array, ...]:
    """Sketches (B, H, W, 3) -> hints, finest first."""
    return system.colorizer.hints(params, sketches)


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
    """Run the plugin's background encoder.

    Args:
        system: with such an encoder.
        params: with "background_encoder".
        latents: (B, h, w, C) of the reference's background.
        sketch_mask, reference_mask: (B, h, w, 1) foregrounds.
        crop: (B, 4) top, left, height, width of what the latents show, as shares of the reference.

    Returns:
        Decoder stack -> (L, B, N, C) normed tokens of each block.
    """
    encoder = system.background_encoder
    inputs = jnp.concatenate([latents, sketch_mask, reference_mask], axis=-1)
    places = sinusoid(crop.reshape(-1), encoder.vector_channels // crop.shape[1])
    stacks = [name for name in encoder.stacks() if name.startswith("output_blocks")]
    _, features = encoder.apply(
        {"params": params["background_encoder"]},
        inputs,
        jnp.zeros(inputs.shape[0]),
        vector=places.reshape(crop.shape[0], -1),
        collect=tuple((name, NORMED) for name in stacks),
    )
    return {name: features[name, NORMED] for name in stacks}


denoise = jax.jit(sample_latents, static_argnums=(0, 1))


@partial(jax.jit, static_argnums=0)
def decode(system: System, params: Params, latents: Array) -> Array:
    """Scaled latents (B, h, w, C) -> images (B, H, W, 3) in [-1, 1]."""
    return jnp.clip(system.encoders.decode(params, latents), -1, 1)


def without_loras(system: System) -> System:
    """The same system for parameters into which low-rank additions were merged."""
    unet = system.colorizer.unet.clone(loras=())
    return replace(system, colorizer=replace(system.colorizer, unet=unet))
