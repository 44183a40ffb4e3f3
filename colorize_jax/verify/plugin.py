"""Run the golden case of the plugin: background bank, foreground latent, injected features."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.io.published import torch_names
from colorize_jax.models.background_encoder import encode_bank
from colorize_jax.models.foreground_encoder import ForegroundEncoder
from colorize_jax.models.unet_controls import Controls
from colorize_jax.models.unet_injection import Injection
from colorize_jax.nn.regions import Bank, Regions
from colorize_jax.verify import golden
from colorize_jax.verify.golden import GoldenCase
from colorize_jax.verify.networks import nchw, nhwc
from colorize_jax.verify.unet import forward_arguments, unet_from, unet_params

MASK_THRESHOLD = 0.05
MERGE_WHERE_MASKED = 0.3  # of the case's cross-attention


def run_plugin(case: GoldenCase) -> dict[str, np.ndarray]:
    """Outputs "bank_K", "foreground_features_I" and the "output_..." of the main UNet."""
    weights, inputs = golden.weights(case), case.inputs
    background = unet_from(case.config["background_encoder"], num_output_blocks=7)
    bank = encode_bank(
        background,
        unet_params(background, weights, prefix="bg_encoder."),
        *(nhwc(inputs[name]) for name in ("background_latents", "sketch_mask", "reference_mask")),
        vector=jnp.asarray(inputs["background_size_embedding"]),
    )
    features = _foreground_features(case.config["foreground_encoder"], weights, inputs)
    outputs = {f"foreground_features_{i}": np.asarray(x) for i, x in enumerate(features)}
    blocks = [block for stack in bank.values() for block in stack]
    outputs |= {f"bank_{i}": np.asarray(block) for i, block in enumerate(blocks)}

    unet = unet_from(case.config["unet"])
    params = unet_params(unet, weights, prefix="unet.")
    mask = nhwc(inputs["mask"])

    def forward(controls: Controls) -> np.ndarray:
        prediction, _ = jax.jit(unet.apply)(
            *forward_arguments(params, inputs, jnp.asarray(inputs["context"])), controls=controls
        )
        return nchw(prediction)

    def banks(mask: jax.Array | None) -> dict[str, Bank]:
        projected = unet.apply({"params": params}, bank, method="project_banks")
        return {name: Bank(kv, mask) for name, kv in projected.items()}

    regions = Regions(mask, MASK_THRESHOLD, merge=MERGE_WHERE_MASKED)
    runs = {
        "output_z_fg": Controls(foreground=nhwc(inputs["foreground_latents"])),
        "output_background_attention": Controls(banks=banks(None)),
        "output_background_attention_masked": Controls(banks=banks(mask), regions=regions),
        "output_foreground_injection": Controls(
            injection=Injection(features, None, mask, MASK_THRESHOLD)
        ),
        "output_background_feature_injection": Controls(
            injection=Injection(None, features, mask, MASK_THRESHOLD)
        ),
    }
    return outputs | {name: forward(controls) for name, controls in runs.items()}


def _foreground_features(
    config: dict[str, Any], weights: dict[str, np.ndarray], inputs: dict[str, np.ndarray]
) -> tuple[jax.Array, ...]:
    module = ForegroundEncoder(
        config["model_channels"],
        tuple(config["channel_mult"]),
        config["num_res_blocks"],
        config["adm_in_channels"] if config.get("num_classes") else 0,
        config["in_channels"],
    )
    latents = nhwc(inputs["foreground_latents"])
    abstract = jax.eval_shape(module.init, jax.random.key(0), latents)["params"]
    params = torch_names.from_torch("foreground_encoder", weights, abstract, prefix="fg_encoder.")
    return module.apply({"params": params}, latents)
