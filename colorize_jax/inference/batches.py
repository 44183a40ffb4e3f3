"""Colouring of a loader's batches, for training's samples and evaluation: one program."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from colorize_jax.inference.denoiser import BLANK
from colorize_jax.inference.inputs import crop_shares
from colorize_jax.inference.options import InferenceOptions
from colorize_jax.inference.pictures.masks import dilation_reach
from colorize_jax.inference.program_options import make_static_options, make_traced_options
from colorize_jax.inference.sampling import SamplingInputs, sample_latents
from colorize_jax.inference.system import System
from colorize_jax.models.background_encoder import crop_embedding, encode_bank
from colorize_jax.nn.resize import resize_bicubic, resize_nearest
from colorize_jax.types import Array, Batch, Params

# (parameters of every network, batch, (B,) keys) -> images (B, H, W, 3) in [-1, 1]
Colorize = Callable[[Params, Batch, Array], Array]

WHITE = 1.0


def make_colorize(system: System, options: InferenceOptions) -> Colorize:
    """Compile the colouring of batches, as `ColorizePipeline` colours users' pictures.

    Args:
        system: the networks.
        options: sampler, steps, guidance, and whether the plugin runs, with the batch's masks;
            other controls that need masks or texts are ignored.

    Raises:
        UserError: options that the system cannot follow.
    """
    static, traced = make_static_options(system, options), make_traced_options(system, options)

    def colorize(params: Params, batch: Batch, keys: Array) -> Array:
        colorizer, encoders = system.colorizer, system.encoders
        tokens = encoders.encode_reference(params, batch.reference)
        blank = None
        if static.guide_sketch:
            blank = colorizer.hints(params, jnp.full((1, *batch.sketch.shape[1:]), BLANK))
        inputs = SamplingInputs(
            keys=keys,
            vector=colorizer.vector(batch.size, batch.aesthetic_score),
            hints=colorizer.hints(params, batch.sketch),
            blank_hints=blank,
            context=colorizer.context(params, *tokens),
        )
        if options.background_plugin:
            inputs = _with_background(system, params, inputs, batch, options)
        latents = sample_latents(system, static, params, inputs, traced)
        return jnp.clip(encoders.decode(params, latents), -1, 1)

    return jax.jit(colorize)


def _with_background(
    system: System, params: Params, inputs: SamplingInputs, batch: Batch, options: InferenceOptions
) -> SamplingInputs:
    """Add what the plugin takes of the references' own backgrounds."""
    encoders, encoder = system.encoders, system.background_encoder
    height, width = batch.sketch.shape[1:3]
    cells = height // system.cell, width // system.cell
    side = 2 * dilation_reach(batch.reference_mask.shape[1:3], options.reference_mask_dilation) + 1
    figure = jax.lax.reduce_window(
        batch.reference_mask, -math.inf, jax.lax.max, (1, side, side, 1), (1, 1, 1, 1), "SAME"
    )
    behind = jnp.where(figure >= options.reference_mask_threshold, WHITE, batch.reference)
    tokens = encoders.encode_reference(params, behind)
    sketch_mask = resize_nearest(batch.sketch_mask, *cells)
    crop = crop_shares(behind[0], height, width)
    bank = encode_bank(
        encoder,
        params["background_encoder"],
        encoders.encode_image(params, resize_bicubic(behind, height, width)),
        sketch_mask,
        resize_nearest(resize_bicubic(figure, height, width), *cells),
        crop_embedding(jnp.tile(crop, (behind.shape[0], 1)), encoder.vector_channels),
    )
    context = system.colorizer.context(params, *tokens)
    return inputs.replace(
        context=jnp.concatenate([inputs.context, context], axis=1),
        sketch_mask=sketch_mask,
        bank=bank,
    )
