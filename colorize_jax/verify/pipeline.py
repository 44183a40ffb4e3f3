"""Run the golden case of the whole inference: pixels to latents and back."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.conditioning import FrozenEncoders
from colorize_jax.diffusion.schedule import make_schedule
from colorize_jax.inference import programs
from colorize_jax.inference.inputs import at_side, latent_mask
from colorize_jax.inference.options import InferenceOptions
from colorize_jax.inference.pictures.preprocess import paint_out
from colorize_jax.inference.program_options import make_static_options, make_traced_options
from colorize_jax.inference.sampling import SamplingInputs
from colorize_jax.inference.system import System
from colorize_jax.io.published import torch_names
from colorize_jax.models.colorizer import Colorizer
from colorize_jax.models.reference_projection import ReferenceProjection
from colorize_jax.types import Array, Params
from colorize_jax.verify import golden
from colorize_jax.verify.encoders import clip_vision_from, tagger_from, vae_from
from colorize_jax.verify.golden import GoldenCase
from colorize_jax.verify.networks import nchw, nhwc, sketch_encoder
from colorize_jax.verify.unet import unet_from

# Names that runs have and options have under another name.
RENAMED = {"split": "split_attention"}


def run_pipeline(case: GoldenCase) -> dict[str, np.ndarray]:
    """Conditions, then "latents.RUN" and, of the runs that have one, "image.RUN"."""
    system = _system(case.config)
    params, noise = _params(case, system), nhwc(case.inputs["initial_noise"])
    batch, score = noise.shape[0], case.config["aesthetic_score"]
    sketch = nhwc(case.inputs["sketch"])
    height, width = sketch.shape[1:3]
    inputs = SamplingInputs(
        keys=jax.random.split(jax.random.key(0), batch),
        vector=system.colorizer.vector(
            np.full(batch, (height * width) ** 0.5, np.float32), np.full(batch, score, np.float32)
        ),
        hints=_repeat(programs.encode_sketches(system, params, sketch), batch),
        blank_hints=programs.encode_blank(system, params, height, width),
        sketch_mask=_repeat(latent_mask(case.inputs["sketch_mask"][:, 0], system.cell), batch),
    )
    outputs = {"size_embedding": inputs.vector}
    for i, (hint, blank) in enumerate(zip(inputs.hints, inputs.blank_hints, strict=True)):
        outputs[f"hint_{i}"] = nchw(hint)
        outputs[f"unconditional_hint_{i}"] = nchw(_repeat(blank, batch))
    for name, run in case.config["runs"].items():
        options = _options(run)
        context = _repeat(_context(system, params, case, options), batch)
        outputs.setdefault("context_split" if options.split_attention else "context", context)
        latents = _denoise(system, params, inputs.replace(context=context), options, noise)
        outputs[f"latents.{name}"] = nchw(latents)
        if f"image.{name}" in case.outputs:
            # The published pictures are not clamped.
            image = jax.jit(system.encoders.decode)(params, latents)
            outputs[f"image.{name}"] = nchw(image)
    return {name: np.asarray(output) for name, output in outputs.items()}


def _system(config: dict[str, Any]) -> System:
    projection = config["reference_projection"]
    return System(
        Colorizer(
            unet_from(config["unet"]),
            sketch_encoder(config["sketch_encoder"]),
            ReferenceProjection(
                projection["token_length"], projection["output_dim"], projection["dim_head"]
            ),
        ),
        FrozenEncoders(
            vae_from(config["vae"]["ddconfig"]),
            clip_vision_from(config["clip_vision"]),
            tagger_from(config["tagger"]),
            config["scaling_factor"],
        ),
        make_schedule(),
        config["parameterization"],
    )


def _params(case: GoldenCase, system: System) -> Params:
    """Every network's weights, through the name table."""

    def init() -> Params:
        key = jax.random.key(0)
        encoders = system.encoders.init(key)
        tokens = system.encoders.encode_reference(encoders, jnp.zeros((1, 64, 64, 3)))
        return encoders | system.colorizer.init(key, *tokens)

    abstract = jax.eval_shape(init)
    prefixes = {component: torch_names.PREFIXES[component] for component in abstract}
    tensors = golden.weights(case)
    return jax.tree.map(jnp.asarray, torch_names.from_torch_many(tensors, abstract, prefixes))


def _options(run: dict[str, Any]) -> InferenceOptions:
    return InferenceOptions.from_dict({RENAMED.get(k, k): v for k, v in run.items()})


def _context(system: System, params: Params, case: GoldenCase, options: InferenceOptions) -> Array:
    """Tokens of the references; where attention is split, then of their backgrounds."""
    references = np.asarray(nhwc(case.inputs["reference"]))
    masks, threshold = case.inputs["reference_mask"][:, 0], options.reference_mask_threshold

    def encode(images: np.ndarray) -> Array:
        sides = (system.encoders.clip.image_size, system.encoders.tagger.image_size)
        resized = (at_side(images, side) for side in sides)
        return programs.encode_references(system, params, *resized)

    context = encode(references)
    if not options.split_attention:
        return context
    backgrounds = [
        paint_out(image, mask, threshold, "foreground")
        for image, mask in zip(references, masks, strict=True)
    ]
    return jnp.concatenate([context, encode(backgrounds)], axis=1)


def _denoise(
    system: System, params: Params, inputs: SamplingInputs, options: InferenceOptions, noise: Array
) -> Array:
    static = make_static_options(system, options)
    if not static.guide_sketch:
        inputs = inputs.replace(blank_hints=None)
    traced = make_traced_options(system, options)
    return programs.denoise(system, static, {"unet": params["unet"]}, inputs, traced, noise)


def _repeat(tree: Any, batch: int) -> Any:
    """One picture's arrays for a whole batch; arrays of the whole batch as they are."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (batch, *x.shape[1:])), tree)
