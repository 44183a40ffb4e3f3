"""Configurations of the networks as JSON, and the modules and parameter shapes they describe.

A configuration is a dictionary of a module's fields, stored with its weights. The published value
of a field also says which type it has.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from colorize_jax.errors import UserError, nearest_hint
from colorize_jax.models.foreground_encoder import ForegroundEncoder
from colorize_jax.models.frozen.clip_text import ClipText
from colorize_jax.models.frozen.clip_vision import ClipVision
from colorize_jax.models.frozen.inception import SIZE, Inception
from colorize_jax.models.frozen.lpips import Lpips
from colorize_jax.models.frozen.tagger import Tagger
from colorize_jax.models.frozen.vae import Vae
from colorize_jax.models.reference_projection import ReferenceProjection
from colorize_jax.models.sketch_encoder import SketchEncoder
from colorize_jax.models.unet import UNet
from colorize_jax.types import Params

SCALING_FACTOR = 0.13025  # of SDXL's latents

NetworkConfig = dict[str, Any]

# Modules of a UNet that a plugin brings along, in our names and in published ones.
ADDITIONS = r"(lora_(down|up)_\w+|conv_fg)$"
REFINEMENT_KIND = "refinement"  # of weights: a run of the second stage, colorizer included
ADDITIONS_KIND = "additions"  # of weights: a plugin without the UNet that it was trained on

# Fields of modules that say how a network runs, not what it is: no part of a configuration.
RUNTIME_FIELDS = frozenset(
    {"parent", "name", "dtype", "implementation", "remat", "block_loop", "products"}
)


@dataclass(frozen=True)
class Architecture:
    """What a network's configuration consists of.

    Attributes:
        module: the network's class; the defaults of its fields are the published configuration.
        left_out: fields that are no part of it beside `RUNTIME_FIELDS`.
        published: values in the place of defaults.
        input_widths: published widths of inputs: shapes of parameters follow from them, but they
            are no fields of the module.
        fixed: fields that make a module this network, whatever its configuration.
    """

    module: type[nn.Module]
    left_out: tuple[str, ...] = ()
    published: Mapping[str, Any] = field(default_factory=dict)
    input_widths: Mapping[str, int] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def config(self) -> NetworkConfig:
        """The published configuration."""
        hidden = {*RUNTIME_FIELDS, *self.left_out, *self.fixed}
        defaults = {
            one.name: one.default
            for one in dataclasses.fields(self.module)
            if one.name not in hidden
        }
        return json.loads(json.dumps(defaults | dict(self.published) | dict(self.input_widths)))


ARCHITECTURES: Mapping[str, Architecture] = {
    "unet": Architecture(UNet, left_out=("num_output_blocks",)),
    "sketch_encoder": Architecture(SketchEncoder, left_out=("near_zero_hints",)),
    "reference_projection": Architecture(
        ReferenceProjection,
        input_widths={
            "clip_channels": ClipVision.projection_dim,
            "tagger_channels": Tagger.embed_dim * 2 ** (len(Tagger.depths) - 1),
        },
    ),
    "vae": Architecture(Vae),
    "clip_vision": Architecture(ClipVision),
    "clip_text": Architecture(ClipText),
    "tagger": Architecture(Tagger),
    "background_encoder": Architecture(
        UNet,
        left_out=(
            "out_channels",
            "hint_blocks",
            "loras",
            "foreground_channels",
            "map_modules",
            "warp_modules",
        ),
        published={"vector_channels": 1024, "in_channels": 6, "num_output_blocks": 7},
        fixed={"context_channels": 0},
    ),
    "foreground_encoder": Architecture(ForegroundEncoder),
    # What pictures are measured with; no system holds them.
    "inception": Architecture(Inception),
    "lpips": Architecture(Lpips),
}

# LoRAs are [label, rank] pairs; 0 channels mean that there is no such part.
PUBLISHED: Mapping[str, NetworkConfig] = {
    component: architecture.config() for component, architecture in ARCHITECTURES.items()
}


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
    architecture = ARCHITECTURES[component]
    own = {k: _tuples(v) for k, v in fields.items() if k not in architecture.input_widths}
    return architecture.module(**own, **architecture.fixed, dtype=dtype)


def abstract_params(component: str, config: Mapping[str, Any]) -> Params:
    """Return the tree of `jax.ShapeDtypeStruct` of a network's parameters; nothing is computed.

    Raises:
        UserError: the configuration is wrong, or no network can have it.
    """
    fields = check_config(component, config)
    return _abstract_params(component, json.dumps(fields, sort_keys=True))


def abstract_weights(kind: str, component: str, config: Mapping[str, Any]) -> Params:
    """Return the shapes that weights of a kind hold of a network: all, but of a mere plugin's UNet.

    Raises:
        UserError: as `abstract_params`.
    """
    abstract = abstract_params(component, config)
    return additions(abstract) if (kind, component) == (ADDITIONS_KIND, "unet") else abstract


def additions(params: Params) -> Params:
    """What a plugin adds to a UNet's parameters: its low-rank additions and `conv_fg`."""
    if not isinstance(params, Mapping):
        return params
    found = {
        name: value if re.match(ADDITIONS, name) else additions(value)
        for name, value in params.items()
        if re.match(ADDITIONS, name) or isinstance(value, Mapping)
    }
    return {name: value for name, value in found.items() if value != {}}


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
    if component == "inception":
        return (array(SIZE, SIZE, 3),)
    if component == "lpips":
        return (array(64, 64, 3),) * 2
    return (array(config["image_size"], config["image_size"], 3),)


def _alike(value: Any, published: Any, *, lora: bool) -> bool:
    """Whether a value has the type of the published one: a flag, a natural number or a list."""
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
