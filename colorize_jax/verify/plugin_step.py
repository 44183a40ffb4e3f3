"""Run the golden case of the second stage: from pixels to losses and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from colorize_jax.conditioning import FrozenEncoders
from colorize_jax.config.options import Config, DiffusionConfig
from colorize_jax.diffusion import schedule as diffusion
from colorize_jax.io.published import torch_names
from colorize_jax.models.background_encoder import crop_embedding
from colorize_jax.models.frozen.patch import PatchAutoencoder, PatchReferenceEncoder
from colorize_jax.nn.resize import resize_bicubic
from colorize_jax.training import refinement, trees
from colorize_jax.training.augment import StepRandomness, add_offset
from colorize_jax.training.refinement import Background, CutRandomness
from colorize_jax.training.step import Inputs, TrainSystem, embed, gradients, join_context, pair
from colorize_jax.types import Array, Batch, Encoded, Params
from colorize_jax.verify.golden import GoldenCase
from colorize_jax.verify.networks import nchw, nhwc
from colorize_jax.verify.plugin_networks import LORA, load_plugin

TRAINABLE = ("^background_encoder/", f"/lora_(down|up)_{LORA}/")


def run_plugin_step(case: GoldenCase) -> dict[str, np.ndarray]:
    """The cut pictures and masks, "context", "prediction", the loss, and gradients by name."""
    plugin, inputs = load_plugin(case), case.inputs
    prediction_type = case.config["parameterization"]
    system = TrainSystem(
        colorizer=plugin.colorizer,
        # The case begins behind the encoders: these are never called.
        encoders=FrozenEncoders(PatchAutoencoder(), *2 * (PatchReferenceEncoder(),)),
        schedule=diffusion.make_schedule(),
        learning_rate=optax.constant_schedule(0.0),
        optimizer=optax.identity(),
        config=Config(
            diffusion=DiffusionConfig(prediction_type=prediction_type),
        ),
        background_encoder=plugin.background_encoder,
    )
    outputs, cut, background = _cut(case, plugin.background_encoder.vector_channels)
    random = StepRandomness(
        timesteps=jnp.asarray(inputs["timesteps"], jnp.int32),
        noise=add_offset(
            nhwc(inputs["noise"]), jnp.asarray(inputs["offset_noise"]), case.config["offset_noise"]
        ),
        keep_reference=jnp.asarray(inputs["keep_reference"]),
        keep_hints=jnp.asarray(inputs["keep_hints"]).T,
    )
    tokens = (jnp.asarray(inputs[name]) for name in ("clip_tokens", "tagger_tokens"))
    step = pair(
        Encoded(nhwc(inputs["latents"]), *tokens),
        cut.batch.sketch,
        jnp.asarray(inputs["size_embedding"]),
        random,
        background=background,
    )
    prediction, context = jax.jit(_predict, static_argnums=0)(system, plugin.params, step)
    trained, frozen = trees.split(plugin.params, TRAINABLE, system.held)
    compiled = jax.jit(gradients, static_argnums=0, static_argnames="dual")
    grads, metrics = compiled(system, trained, frozen, step, jnp.float32(0), dual=False)
    outputs |= {
        "prediction": nchw(prediction),
        "context": context,
        "diffusion_loss": metrics["diffusion_loss"],
        "gradient_norm": optax.tree.norm(grads),
        "gradient_norm.background_encoder": optax.tree.norm(grads["background_encoder"]),
        "gradient_norm.loras": optax.tree.norm(grads["unet"]),
    }
    for component, tree in grads.items():
        for name, gradient in torch_names.to_torch(component, tree):
            outputs[f"gradient.{component}.{name}"] = gradient
    return {name: np.asarray(value) for name, value in outputs.items()}


def _cut(
    case: GoldenCase, vector_channels: int
) -> tuple[dict[str, np.ndarray], refinement.Cut, Background]:
    """Figures and backgrounds of a case: as its outputs name them, and as the step takes them."""
    inputs = case.inputs
    pictures = ("image", "sketch", "reference", "sketch_mask", "reference_mask")
    size = jnp.zeros(inputs["image"].shape[0])  # the case embeds size and score itself
    batch = Batch(
        size=size, aesthetic_score=size, **{name: nhwc(inputs[name]) for name in pictures}
    )
    numbers = ("sketch_threshold", "reference_threshold", "bleach", "bleach_value")
    cut = refinement.cut(batch, CutRandomness(*(jnp.asarray(inputs[name]) for name in numbers)))
    height, width = inputs["image"].shape[2:]
    latents = nhwc(inputs["background_latents"])
    masks = refinement.view_masks(batch.sketch_mask, batch.reference_mask, *latents.shape[1:3])
    names = ("background_clip_tokens", "background_tagger_tokens")
    tokens = tuple(jnp.asarray(inputs[name]) for name in names)
    crop = jnp.asarray(inputs["crop"])
    outputs = {
        "target_image": nchw(cut.batch.image),
        "blanked_sketch": nchw(cut.batch.sketch),
        "background_reference": nchw(cut.background),
        "background_reference_resized": nchw(resize_bicubic(cut.background, height, width)),
        "background_sketch_mask": nchw(masks["sketch_mask"]),
        "background_reference_mask": nchw(masks["reference_mask"]),
        "latent_mask": nchw(masks["region"]),
        "crop_embedding": np.asarray(crop_embedding(crop, vector_channels)),
    }
    return outputs, cut, Background(tokens=tokens, latents=latents, crop=crop, **masks)


def _predict(system: TrainSystem, params: Params, inputs: Inputs) -> tuple[Array, Array]:
    """What the loss compares, and the context before any is dropped."""
    random = inputs.random
    conditions = embed(system.colorizer, params, inputs)
    controls = refinement.make_controls(
        system.colorizer.unet, system.background_encoder, params, inputs.background
    )
    noisy = diffusion.corrupt(system.schedule, inputs.latents, random.noise, random.timesteps)
    prediction = system.colorizer.denoise(params, noisy, random.timesteps, conditions, controls)
    return prediction, join_context(system.colorizer, params, inputs.tokens)
