"""Colouring of a loader's batches, for training's samples and evaluation: one program."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from colorize_jax.inference.denoiser import BLANK
from colorize_jax.inference.options import InferenceOptions
from colorize_jax.inference.program_options import make_static_options, make_traced_options
from colorize_jax.inference.sampling import SamplingInputs, sample_latents
from colorize_jax.inference.system import System
from colorize_jax.types import Array, Batch, Params

# (parameters of every network, batch, (B,) keys) -> images (B, H, W, 3) in [-1, 1]
Colorize = Callable[[Params, Batch, Array], Array]


def make_colorize(system: System, options: InferenceOptions) -> Colorize:
    """Compile the colouring of batches, as `ColorizePipeline` colours users' pictures.

    Args:
        system: the networks.
        options: sampler, steps and guidance; controls that need masks or texts are ignored.

    Raises:
        UserError: options that the system cannot follow.
    """
    static, traced = make_static_options(options), make_traced_options(system, options)

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
        latents = sample_latents(system, static, params, inputs, traced)
        return jnp.clip(encoders.decode(params, latents), -1, 1)

    return jax.jit(colorize)
