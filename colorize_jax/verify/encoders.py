"""Run the golden cases of the frozen encoders."""

from typing import Any

import jax
import numpy as np

from colorize_jax.errors import UserError
from colorize_jax.models.frozen.clip_vision import ClipVision, preprocess_clip
from colorize_jax.models.frozen.tagger import Tagger, preprocess_tagger
from colorize_jax.models.frozen.vae import Vae
from colorize_jax.nn.resize import resize_antialiased
from colorize_jax.verify.golden import GoldenCase
from colorize_jax.verify.networks import load, nchw, nhwc


def vae_from(config: dict[str, Any]) -> Vae:
    """Build the VAE from the published constructor's arguments.

    Raises:
        UserError: the arguments ask for attention outside the middle.
    """
    if config.get("attn_resolutions"):
        raise UserError(
            f"got a VAE with attention at resolutions {config['attn_resolutions']}, expected it in "
            "the middle alone; SDXL's has no other"
        )
    return Vae(
        config["ch"], tuple(config["ch_mult"]), config["num_res_blocks"], config["z_channels"]
    )


def clip_vision_from(config: dict[str, Any]) -> ClipVision:
    """Build the vision tower from the published configuration.

    Raises:
        UserError: another activation or epsilon than ViT-bigG/14's.
    """
    expected = {"hidden_act": "gelu", "layer_norm_eps": 1e-5}
    for name, value in expected.items():
        if config.get(name, value) != value:
            raise UserError(
                f"got {name} {config[name]!r}, expected {value!r}, which ViT-bigG/14 has; "
                "other CLIP models do not fit this system"
            )
    return ClipVision(
        config["hidden_size"],
        config["intermediate_size"],
        config["num_hidden_layers"],
        config["num_attention_heads"],
        config["image_size"],
        config["patch_size"],
        config["projection_dim"],
    )


def tagger_from(config: dict[str, Any]) -> Tagger:
    """Build the tagger from the published constructor's arguments."""
    return Tagger(
        config["img_size"],
        config["patch_size"],
        config["window_size"],
        config["embed_dim"],
        tuple(config["depths"]),
        tuple(config["num_heads"]),
        config["num_classes"],
    )


def run_vae(case: GoldenCase) -> dict[str, np.ndarray]:
    """Mean and log variance of an image's posterior, and a decoded (unscaled) latent."""
    module, image = vae_from(case.config), nhwc(case.inputs["image"])
    variables = load(case, module, image)
    mean, logvar = jax.jit(lambda v, x: module.apply(v, x, method="encode"))(variables, image)
    latent = nhwc(case.inputs["latent"])
    decoded = jax.jit(lambda v, x: module.apply(v, x, method="decode"))(variables, latent)
    return {"mean": nchw(mean), "logvar": nchw(logvar), "decoded": nchw(decoded)}


def run_clip_vision(case: GoldenCase) -> dict[str, np.ndarray]:
    """Every step from an image in [-1, 1] to tokens."""
    module, image = clip_vision_from(case.config), nhwc(case.inputs["image"])
    size = module.image_size
    normalized = jax.jit(preprocess_clip, static_argnums=1)(image, size)
    variables = load(case, module, normalized)
    hidden = jax.jit(lambda v, x: module.apply(v, x, method="last_hidden_state"))(
        variables, normalized
    )
    tokens = jax.jit(lambda v, x: module.apply(v, x, method="tokens"))(variables, image)
    return {
        "resized": nchw(resize_antialiased(image, size, size)),
        "normalized": nchw(normalized),
        "last_hidden_state": np.asarray(hidden),
        "tokens": np.asarray(tokens),
    }


def run_tagger(case: GoldenCase) -> dict[str, np.ndarray]:
    """Every step from an image in [-1, 1] to tokens and logits, pooled and per token."""
    module, image = tagger_from(case.config), nhwc(case.inputs["image"])
    resized = jax.jit(preprocess_tagger, static_argnums=1)(image, module.image_size)
    variables = load(case, module, resized)
    output = jax.jit(module.apply)(variables, resized)
    token_logits = module.apply(variables, output.tokens, method="classify")
    return {
        "resized_bgr": nchw(resized),
        "tokens": np.asarray(output.tokens),
        "logits": np.asarray(output.logits),
        "token_logits": np.asarray(token_logits),
    }
