"""Run the golden case of the plugin in one evaluation of the UNet, as a sampler asks for it."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.conditioning import FrozenEncoders
from colorize_jax.diffusion.schedule import make_schedule
from colorize_jax.inference import inputs as host
from colorize_jax.inference import programs
from colorize_jax.inference.denoiser import make_predict
from colorize_jax.inference.options import InferenceOptions
from colorize_jax.inference.program_options import make_static_options, make_traced_options
from colorize_jax.inference.sampling import (
    SamplingInputs,
    StaticOptions,
    TracedOptions,
    make_controls,
    project_inputs,
)
from colorize_jax.inference.system import System
from colorize_jax.models.background_encoder import crop_embedding
from colorize_jax.models.frozen.patch import PatchAutoencoder, PatchReferenceEncoder
from colorize_jax.types import Array, Params
from colorize_jax.verify.golden import GoldenCase
from colorize_jax.verify.networks import nchw, nhwc
from colorize_jax.verify.plugin_networks import LORA, load_plugin

PIXELS_PER_LATENT = 8


def run_plugin_inference(case: GoldenCase) -> dict[str, np.ndarray]:
    """Masks, "context", and "conditioned|without_reference|without_sketch.RUN"."""
    plugin, inputs = load_plugin(case), case.inputs
    system = System(
        plugin.colorizer,
        # The case begins behind the encoders: these are never called.
        FrozenEncoders(PatchAutoencoder(), *2 * (PatchReferenceEncoder(),)),
        make_schedule(),
        "v",
        plugin.background_encoder,
    )
    sketch = nhwc(inputs["sketch"])
    masks = {
        name: jnp.asarray(_view(inputs[name], sketch.shape[1:3]))
        for name in ("sketch_mask", "reference_mask")
    }
    region = jnp.asarray(host.latent_mask(inputs["sketch_mask"][:, 0], PIXELS_PER_LATENT))
    crop = jnp.asarray(inputs["crop"])
    context = jnp.concatenate(
        [
            plugin.colorizer.context(
                plugin.params, inputs[f"{part}clip_tokens"], inputs[f"{part}tagger_tokens"]
            )
            for part in ("", "background_")
        ],
        axis=1,
    )
    bank = programs.encode_background(
        system,
        {"background_encoder": plugin.params["background_encoder"]},
        nhwc(inputs["background_latents"]),
        masks["sketch_mask"],
        masks["reference_mask"],
        crop,
    )
    noisy, timesteps = nhwc(inputs["noisy_latents"]), jnp.asarray(inputs["timesteps"])
    batch = noisy.shape[0]
    given = SamplingInputs(
        keys=jax.random.split(jax.random.key(0), batch),
        vector=_repeat(jnp.asarray(inputs["size_embedding"]), batch),
        hints=_repeat(programs.encode_sketches(system, plugin.params, sketch), batch),
        context=_repeat(context, batch),
        sketch_mask=_repeat(region, batch),
        bank={name: jnp.repeat(tokens, batch, axis=1) for name, tokens in bank.items()},
    )
    blank = _repeat(programs.encode_blank(system, plugin.params, *sketch.shape[1:3]), batch)
    outputs = {
        "latent_mask": nchw(region),
        "background_sketch_mask": nchw(masks["sketch_mask"]),
        "background_reference_mask": nchw(masks["reference_mask"]),
        "crop_embedding": crop_embedding(crop, plugin.background_encoder.vector_channels),
        "context": context,
    }
    for name, run in case.config["runs"].items():
        own = given
        if run.get("foreground_latent"):
            own = given.replace(foreground=_repeat(nhwc(inputs["foreground_latents"]), batch))
        rows = {
            "conditioned": own,
            "without_reference": own.replace(context=None),
            "without_sketch": own.replace(hints=blank),
        }
        options = _options(run)
        static, traced = make_static_options(system, options), make_traced_options(system, options)
        for row, one in rows.items():
            evaluated = _evaluate(system, static, plugin.params, one, traced, noisy, timesteps)
            outputs[f"{row}.{name}"] = nchw(evaluated)
    return {name: np.asarray(output) for name, output in outputs.items()}


def _options(run: dict[str, Any]) -> InferenceOptions:
    """A case's run as options; names are ours but of what a case calls its own."""
    own = ("lora_scale", "foreground_latent")
    return InferenceOptions.from_dict(
        {name: value for name, value in run.items() if name not in own}
        | {"background_plugin": True, "foreground_latent": bool(run.get("foreground_latent"))}
        | {"lora_scales": {LORA: run.get("lora_scale", 1.0)}, "reference_guidance": 1}
    )


def _view(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask (B, 1, h, w) of any size as the background encoder sees it."""
    stretched = np.stack([host.stretch(one[0][..., None], *size)[..., 0] for one in mask])
    return host.latent_mask(stretched, PIXELS_PER_LATENT)


@partial(jax.jit, static_argnums=(0, 1))
def _evaluate(
    system: System,
    static: StaticOptions,
    params: Params,
    given: SamplingInputs,
    traced: TracedOptions,
    noisy: Array,
    timesteps: Array,
) -> Array:
    """The UNet's prediction (B, h, w, C), unguided."""
    controls = make_controls(system, static, params, given, traced)
    prepared = project_inputs(system, params, given, traced)
    predict = make_predict(
        system.colorizer, params, prepared, traced.scales, guide_reference=False, controls=controls
    )
    return predict(noisy, timesteps)


def _repeat(tree: Any, batch: int) -> Any:
    """One picture's arrays for a whole batch."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (batch, *x.shape[1:])), tree)
