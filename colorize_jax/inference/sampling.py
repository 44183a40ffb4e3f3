"""Pictures from a batch, as training's samples and evaluation make them: one call, one jit."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from colorize_jax.conditioning import FrozenEncoders
from colorize_jax.config.options import SamplingConfig
from colorize_jax.diffusion import samplers
from colorize_jax.diffusion.schedule import NoiseSchedule
from colorize_jax.inference.denoiser import BLANK, GuidanceScales, generate
from colorize_jax.models.colorizer import Colorizer
from colorize_jax.types import Array, Batch, Conditions, Params

# (parameters of every network, batch, (B,) keys) -> images (B, H, W, 3) in [-1, 1]
Colorize = Callable[[Params, Batch, Array], Array]


def make_colorize(
    colorizer: Colorizer,
    encoders: FrozenEncoders,
    schedule: NoiseSchedule,
    options: SamplingConfig,
    prediction_type: str,
) -> Colorize:
    """Compile the colouring of batches.

    Args:
        colorizer: the trained networks.
        encoders: the frozen ones.
        schedule: of the noise that they were trained with.
        options: sampler, steps, guidance.
        prediction_type: "v" or "eps".

    Raises:
        UserError: there is no such sampler or schedule.
    """
    sampler = samplers.find_sampler(options.sampler)
    plan = samplers.make_plan(sampler, schedule, options.num_steps, options.schedule)
    scales = GuidanceScales(options.reference_guidance, options.sketch_guidance)

    def colorize(params: Params, batch: Batch, keys: Array) -> Array:
        tokens = encoders.encode_reference(params, batch.reference)
        height, width = batch.sketch.shape[1:3]
        cell = encoders.autoencoder.pixels_per_latent
        blank = None
        if options.sketch_guidance > 1:
            blank = colorizer.hints(params, jnp.full_like(batch.sketch, BLANK))
        latents = generate(
            colorizer,
            params,
            schedule,
            Conditions(
                context=colorizer.context(params, *tokens),
                hints=colorizer.hints(params, batch.sketch),
                vector=colorizer.vector(batch.size, batch.aesthetic_score),
            ),
            keys,
            plan,
            scales,
            (height // cell, width // cell, colorizer.unet.out_channels),
            sampler=sampler,
            prediction_type=prediction_type,
            guide_reference=options.reference_guidance > 1,
            blank_hints=blank,
        )
        return jnp.clip(encoders.decode(params, latents), -1, 1)

    return jax.jit(colorize)
