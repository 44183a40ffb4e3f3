"""Configurations of the networks, and the modules and parameter shapes that they stand for.

A configuration is a plain JSON dictionary of a module's own fields; it travels with weights. What
kind of number a field is follows from its published value.
"""

import functools
import json
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from colorize_jax.errors import UserError, nearest_hint
from colorize_jax.types import Params

SCALING_FACTOR = 0.13025  # of SDXL's latents

NetworkConfig = dict[str, Any]

# The published networks. LoRAs are [label, rank] pairs; 0 channels mean that there is no such part.
PUBLISHED: Mapping[str, NetworkConfig] = {
    "unet": {
        "model_channels": 320,
        "channel_mult": [1, 2, 4],
        "num_res_blocks": 2,
        "transformer_depth": [0, 2, 10],
        "norm_groups": 32,
        "head_dim": 64,
        "context_channels": 2048,
        "vector_channels": 512,
        "in_channels": 4,
        "out_channels": 4,
        "hint_blocks": [0, 3, 6, 8],
        "loras": [],
        "foreground_channels": 0,
        "map_modules": False,
        "warp_modules": False,
    },
    "sketch_encoder": {
        "model_channels": 320,
        "channel_mult": [1, 2, 4],
        "head_dim": 128,
        "strides": [2, 2, 2],
        "stem_channels": [16, 16, 32, 32, 96, 96, 256],
    },
    "reference_projection": {
        "num_tokens": 196,
        "context_channels": 2048,
        "head_dim": 128,
        "clip_channels": 1280,
        "tagger_channels": 1024,
    },
    "vae": {
        "channels": 128,
        "channel_mult": [1, 2, 4, 4],
        "num_res_blocks": 2,
        "latent_channels": 4,
    },
    "clip_vision": {
        "hidden_size": 1664,
        "intermediate_size": 8192,
        "num_layers": 48,
        "num_heads": 16,
        "image_size": 224,
        "patch_size": 14,
        "projection_dim": 1280,
    },
    "clip_text": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_layers": 32,
        "num_heads": 20,
        "vocab_size": 49408,
        "context_length": 77,
        "projection_dim": 1280,
    },
    "tagger": {
        "image_size": 448,
        "patch_size": 4,
        "window_size": 14,
        "embed_dim": 128,
        "depths": [2, 2, 18, 2],
        "num_heads": [4, 8, 16, 32],
        "num_classes": 9083,
    },
    "background_encoder": {
        "model_channels": 320,
        "channel_mult": [1, 2, 4],
        "num_res_blocks": 2,
        "transformer_depth": [0, 2, 10],
        "head_dim": 64,
        "vector_channels": 1024,
        "in_channels": 6,
        "num_output_blocks": 7,
    },
    "foreground_encoder": {
        "model_channels": 320,
        "channel_mult": [1, 2, 4],
        "num_res_blocks": 2,
        "vector_channels": 0,
        "in_channels": 4,
    },
}

MODULES: Mapping[str, tuple[str, str]] = {
    "unet": ("unet", "UNet"),
    "sketch_encoder": ("sketch_encoder", "SketchEncoder"),
    "reference_projection": ("reference_projection", "ReferenceProjection"),
    "vae": ("vae", "Vae"),
    "clip_vision": ("clip_vision", "ClipVision"),
    "clip_text": ("clip_text", "ClipText"),
    "tagger": ("tagger", "Tagger"),
    "background_encoder": ("unet", "UNet"),
    "foreground_encoder": ("foreground_encoder", "ForegroundEncoder"),
}

# Fields that make a module this network, whatever its configuration.
FIXED: Mapping[str, NetworkConfig] = {"background_encoder": {"context_channels": 0}}

# Widths of inputs: shapes of parameters follow from them, but they are no fields of the module.
INPUT_WIDTHS = frozenset({"clip_channels", "tagger_channels"})


def published_config(component: str) -> NetworkConfig:
    """Return a fresh copy of a network's published configuration."""
    return json.loads(json.dumps(PUBLISHED[component]))


def check_config(component: str, config: Mapping[str, Any]) -> NetworkConfig:
    """Check a configuration from outside and complete it with published values.

    Raises:
        UserError: the network is unknown, a field is unknown (the nearest is named) or has a value
            of the wrong kind.
    """
    if component not in PUBLISHED:
        raise UserError(
            f"got a config of {component!r}, expected one of {', '.join(PUBLISHED)}"
            f"{nearest_hint(component, PUBLISHED)}; rename it"
        )
    published = published_config(component)
    if not isinstance(config, Mapping):
        raise UserError(f"got {config!r} as config of {component}, expected a dictionary; fix it")
    for name, value in config.items():
        if name not in published:
            raise UserError(
                f"got the unknown field {name!r} in the config of {component}, expected some of "
                f"{', '.join(published)}{nearest_hint(name, published)}; rename or remove it"
            )
        if not _alike(value, published[name], lora=name == "loras"):
            raise UserError(
                f"got {name} = {value!r} in the config of {component}, expected a value like "
                f"{published[name] or [['background', 4]]!r}; correct it"
            )
    return json.loads(json.dumps(published | dict(config)))


def build(component: str, config: Mapping[str, Any], *, dtype: Any = jnp.float32) -> nn.Module:
    """Build a network's module.

    Args:
        component: a key of `PUBLISHED`.
        config: its configuration; fields left out have their published value.
        dtype: of the products; parameters are float32 whatever it is.

    Raises:
        UserError: the configuration is wrong.
    """
    fields = check_config(component, config)
    module, name = MODULES[component]
    constructor = getattr(import_module(f"colorize_jax.models.{module}"), name)
    own = {key: _tuples(value) for key, value in fields.items() if key not in INPUT_WIDTHS}
    return constructor(**own, **FIXED.get(component, {}), dtype=dtype)


def abstract_params(component: str, config: Mapping[str, Any]) -> Params:
    """Return the tree of `jax.ShapeDtypeStruct` of a network's parameters; nothing is computed.

    Raises:
        UserError: the configuration is wrong, or no network can have it.
    """
    fields = check_config(component, config)
    return _abstract_params(component, json.dumps(fields, sort_keys=True))


@functools.lru_cache(maxsize=32)
def _abstract_params(component: str, config_text: str) -> Params:
    config = json.loads(config_text)
    module = build(component, config)
    try:
        variables = jax.eval_shape(module.init, jax.random.key(0), *_inputs(component, config))
    except (ValueError, TypeError, ZeroDivisionError, IndexError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"got a config of {component} that no network can have ({reason}), expected head "
            f"sizes that divide widths and one number a level: {config_text}; correct it"
        ) from error
    return variables["params"]


def _inputs(component: str, config: NetworkConfig) -> tuple[Any, ...]:
    """The smallest inputs that a network's initialization accepts, as shapes."""

    def array(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, *shape), jnp.float32)

    if component in ("unet", "background_encoder", "foreground_encoder"):
        side = 2 ** (len(config["channel_mult"]) - 1)
        latents = array(side, side, config["in_channels"])
        vector = array(config["vector_channels"]) if config["vector_channels"] else None
        if component == "foreground_encoder":
            return latents, array(), vector
        context = array(1, config["context_channels"]) if component == "unet" else None
        return latents, array(), context, None, vector
    if component == "sketch_encoder":
        return (array(64, 64, 3),)
    if component == "reference_projection":
        tokens = config["num_tokens"]
        clip = array(tokens + 1, config["clip_channels"])
        return clip, array(tokens, config["tagger_channels"])
    if component == "clip_text":
        return (jax.ShapeDtypeStruct((1, config["context_length"]), jnp.int32),)
    if component == "vae":
        side = 2 ** len(config["channel_mult"])
        return (array(side, side, 3),)
    return (array(config["image_size"], config["image_size"], 3),)


def _alike(value: Any, published: Any, *, lora: bool) -> bool:
    """Whether a value is of the published one's kind: a flag, a natural number or a list."""
    if lora:
        return isinstance(value, list | tuple) and all(
            isinstance(pair, list | tuple)
            and len(pair) == 2
            and isinstance(pair[0], str)
            and _natural(pair[1])
            for pair in value
        )
    if isinstance(published, bool):
        return isinstance(value, bool)
    if isinstance(published, list):
        return isinstance(value, list | tuple) and bool(value) and all(map(_natural, value))
    return _natural(value)


def _natural(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
