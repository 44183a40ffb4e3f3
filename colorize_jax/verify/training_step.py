"""Run the golden case of the training step: losses and gradients of both branches."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from colorize_jax.conditioning import FrozenEncoders
from colorize_jax.config.options import Config, DiffusionConfig, GramConfig
from colorize_jax.diffusion.schedule import make_schedule
from colorize_jax.io.published import torch_names
from colorize_jax.models.colorizer import Colorizer
from colorize_jax.models.frozen.patch import PatchAutoencoder, PatchReferenceEncoder
from colorize_jax.models.reference_projection import ReferenceProjection
from colorize_jax.training.augment import StepRandomness, add_offset
from colorize_jax.training.step import TrainSystem, gradients, pair
from colorize_jax.types import Encoded, Params
from colorize_jax.verify import golden
from colorize_jax.verify.golden import GoldenCase
from colorize_jax.verify.networks import nhwc, sketch_encoder
from colorize_jax.verify.unet import unet_from


def run_training_step(case: GoldenCase) -> dict[str, np.ndarray]:
    """Losses, "gradient_norm[.COMPONENT]" and "gradient.COMPONENT.NAME"."""
    colorizer, inputs = _colorizer(case), case.inputs
    gram = GramConfig(blocks=tuple(case.config["gram_blocks"]), tap=case.config["gram_type"])
    system = TrainSystem(
        colorizer=colorizer,
        # The case begins behind the encoders: these are never called.
        encoders=FrozenEncoders(PatchAutoencoder(), *2 * (PatchReferenceEncoder(),)),
        schedule=make_schedule(),
        learning_rate=optax.constant_schedule(0.0),
        optimizer=optax.identity(),
        config=Config(
            gram=gram, diffusion=DiffusionConfig(prediction_type=case.config["parameterization"])
        ),
    )
    noise = add_offset(
        nhwc(inputs["noise"]), jnp.asarray(inputs["offset_noise"]), case.config["offset_noise"]
    )
    random = StepRandomness(
        timesteps=jnp.asarray(inputs["timesteps"], jnp.int32),
        noise=noise,
        keep_reference=jnp.asarray(inputs["keep_reference"]),
        keep_hints=jnp.asarray(inputs["keep_hints"]).T,
    )
    tokens = (jnp.asarray(inputs[name]) for name in ("clip_tokens", "tagger_tokens"))
    paired = pair(
        Encoded(nhwc(inputs["latents"]), *tokens),
        nhwc(inputs["sketch"]),
        jnp.asarray(inputs["size_embedding"]),
        random,
    )
    weight, params = jnp.float32(case.config["gram_weight"]), _params(case, colorizer)
    compiled = jax.jit(gradients, static_argnums=0, static_argnames="dual")
    grads, metrics = compiled(system, params, {}, paired, weight, dual=True)
    outputs = {
        "diffusion_loss": metrics["diffusion_loss"],
        "gram_loss": metrics["gram_loss"],
        "total_loss": metrics["loss"],
        "gradient_norm": optax.tree.norm(grads),
    }
    for component, tree in grads.items():
        outputs[f"gradient_norm.{component}"] = optax.tree.norm(tree)
        for name, gradient in torch_names.to_torch(component, tree):
            outputs[f"gradient.{component}.{name}"] = gradient
    return {name: np.asarray(value) for name, value in outputs.items()}


def _colorizer(case: GoldenCase) -> Colorizer:
    """The networks: configurations of the case, and of the neighbour with the projection."""
    folder = case.folder.parent / "reference_projection"
    projection = golden.load_case(folder).config | case.config.get("reference_projection", {})
    return Colorizer(
        unet=unet_from(case.config["unet"]),
        sketch_encoder=sketch_encoder(case.config["sketch_encoder"]),
        reference_projection=ReferenceProjection(
            case.inputs["tagger_tokens"].shape[1],
            projection["context_dim"],
            projection["head_dim"],
        ),
    )


def _params(case: GoldenCase, colorizer: Colorizer) -> Params:
    tokens = (case.inputs[name] for name in ("clip_tokens", "tagger_tokens"))
    abstract = jax.eval_shape(lambda: colorizer.init(jax.random.key(0), *tokens))
    weights = golden.weights_from(case)
    return {
        component: jax.tree.map(
            jnp.asarray, torch_names.from_torch(component, tensors, abstract[component])
        )
        for component, tensors in weights.items()
    }
