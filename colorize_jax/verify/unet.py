"""Run the golden cases of the UNet and of what is built from it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.io.published import torch_names
from colorize_jax.models.unet import UNet, touch
from colorize_jax.models.unet_controls import Controls
from colorize_jax.nn.lora import LoRADense, merge_loras
from colorize_jax.nn.regions import Regions
from colorize_jax.types import Params
from colorize_jax.verify import golden
from colorize_jax.verify.golden import GoldenCase
from colorize_jax.verify.networks import nchw, nhwc


def unet_from(config: dict[str, Any], **changes: Any) -> UNet:
    """Build a UNet from the published constructor's arguments."""
    mult = tuple(config["channel_mult"])
    attended = config["attention_resolutions"]
    depths = config.get("transformer_depth", 1)
    depths = [depths] * len(mult) if isinstance(depths, int) else depths
    fields = {
        "model_channels": config["model_channels"],
        "channel_mult": mult,
        "num_res_blocks": config["num_res_blocks"],
        "transformer_depth": tuple(
            depth if 2**level in attended else 0 for level, depth in enumerate(depths)
        ),
        "head_dim": config["num_head_channels"],
        "context_channels": (
            0 if config.get("disable_cross_attentions") else config.get("context_dim", 0)
        ),
        "vector_channels": config["adm_in_channels"] if config.get("num_classes") else 0,
        "in_channels": config["in_channels"],
        "out_channels": config.get("out_channels", 4),
        "foreground_channels": config.get("in_channels_fg") or 0,
        "map_modules": bool(config.get("map_module")),
        "warp_modules": bool(config.get("warp_module")),
        "hint_blocks": tuple(config.get("hint_encoder_index", (0, 3, 6, 8))),
    }
    return UNet(**(fields | changes))


def unet_params(module: UNet, tensors: dict[str, np.ndarray], *, prefix: str = "") -> Params:
    """Import a UNet's weights."""
    abstract = jax.eval_shape(lambda: module.init(jax.random.key(0), *touch(module)))["params"]
    return torch_names.from_torch("unet", tensors, abstract, prefix=prefix)


def hints_of(inputs: dict[str, np.ndarray]) -> tuple[jax.Array, ...]:
    """Collect the inputs hint_0, hint_1, ... of a case."""
    names = sorted(name for name in inputs if name.startswith("hint_"))
    return tuple(nhwc(inputs[name]) for name in names)


def forward_arguments(
    params: Params, inputs: dict[str, np.ndarray], context: jax.Array
) -> tuple[Any, ...]:
    """The arguments of `UNet.apply` with the inputs of a case."""
    latents, timesteps = nhwc(inputs["latents"]), inputs["timesteps"]
    hints, vector = hints_of(inputs), inputs["size_embedding"]
    return {"params": params}, latents, timesteps, context, hints, vector


def run_unet(case: GoldenCase) -> dict[str, np.ndarray]:
    """Outputs "output...", and "block_K" for transformer blocks counted from 1."""
    module, inputs = unet_from(case.config), case.inputs
    params = unet_params(module, golden.weights(case))
    kinds = tuple((stack, "ff") for stack in module.stacks())

    @jax.jit
    def forward(context: Any, controls: Controls) -> Any:
        return module.apply(
            *forward_arguments(params, inputs, context),
            controls=controls,
            collect=kinds,
        )

    context = jnp.asarray(inputs["context"])
    output, features = forward(context, Controls())
    outputs = {
        "output": nchw(output),
        "output_zero_context": nchw(forward(jnp.zeros_like(context), Controls())[0]),
    }
    for name in case.outputs:
        if name.startswith("block_"):
            stack, index = module.locate(int(name.removeprefix("block_")))
            outputs[name] = np.asarray(features[stack, "ff"][index])
        elif name.startswith("output_reference_strength_"):
            strength = jnp.float32(name.rsplit("_", 1)[1])
            outputs[name] = nchw(forward(context, Controls(reference_strength=strength))[0])
    return outputs


def run_unet_split_attention(case: GoldenCase) -> dict[str, np.ndarray]:
    """Outputs "output_merge_M[_fg_F_bg_G]"."""
    module, inputs = unet_from(case.config), case.inputs
    (tensors,) = golden.weights_from(case).values()
    params = unet_params(module, tensors)

    @jax.jit
    def forward(regions: Regions) -> jax.Array:
        return module.apply(
            *forward_arguments(params, inputs, jnp.asarray(inputs["context"])),
            controls=Controls(regions=regions),
        )[0]

    outputs = {}
    for name in case.outputs:
        words = name.split("_")
        options = dict(zip(words[1::2], words[2::2], strict=True))
        regions = Regions(
            nhwc(inputs["latent_mask"]),
            jnp.float32(case.config["mask_threshold"]),
            jnp.float32(options.get("fg", 1.0)),
            jnp.float32(options.get("bg", 1.0)),
            jnp.float32(options["merge"]),
        )
        outputs[name] = nchw(forward(regions))
    return outputs


def run_lora(case: GoldenCase) -> dict[str, np.ndarray]:
    """Outputs of a dense layer with none, one or both of its additions, and its merged kernel."""
    weights, scales = golden.weights(case), case.config["scales"]
    ranks = tuple((label, weights[f"lora_down_{label}.weight"].shape[0]) for label in scales)
    channels_out, channels_in = weights["weight"].shape
    module = LoRADense(channels_out, use_bias="bias" in weights, loras=ranks)
    abstract = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, channels_in)))
    params = torch_names.from_torch("lora", weights, abstract["params"])
    x, off = jnp.asarray(case.inputs["x"]), dict.fromkeys(scales, 0.0)
    outputs = {
        "none": module.apply({"params": params}, x, off),
        "both": module.apply({"params": params}, x, scales),
        "merged_weight": merge_loras(params, scales)["kernel"].T,
    }
    for label, scale in scales.items():
        outputs[f"{label}_only"] = module.apply({"params": params}, x, off | {label: scale})
    return {name: np.asarray(output) for name, output in outputs.items()}
