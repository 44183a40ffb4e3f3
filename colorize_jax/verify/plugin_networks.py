"""The networks of cases that hold a whole plugin: colorizer with low-rank additions, encoder."""

import re
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from colorize_jax.io.published import torch_names
from colorize_jax.models.colorizer import Colorizer
from colorize_jax.models.reference_projection import ReferenceProjection
from colorize_jax.models.unet import UNet, touch
from colorize_jax.types import Params
from colorize_jax.verify import golden
from colorize_jax.verify.golden import GoldenCase
from colorize_jax.verify.networks import sketch_encoder
from colorize_jax.verify.unet import unet_from

LORA = "background"
NETWORKS = ("unet", "sketch_encoder", "reference_projection", "background_encoder")


@dataclass(frozen=True)
class Plugin:
    """Modules and parameters of a case.

    Attributes:
        colorizer: with the plugin's low-rank additions.
        background_encoder: as far as the case's tensors go.
        params: network -> parameters.
    """

    colorizer: Colorizer
    background_encoder: UNet
    params: Params


def load_plugin(case: GoldenCase) -> Plugin:
    """Build the networks of a case, with its weights.

    Raises:
        UserError: the case's tensors are not those of its configuration.
    """
    config, tensors = case.config, golden.weights(case)
    blocks = (re.match(r"background_encoder\.output_blocks\.(\d+)\.", name) for name in tensors)
    projection = config["reference_projection"]
    colorizer = Colorizer(
        unet_from(config["unet"], loras=((LORA, config["lora_rank"]),)),
        sketch_encoder(config["sketch_encoder"]),
        ReferenceProjection(
            projection["token_length"], projection["output_dim"], projection["dim_head"]
        ),
    )
    encoder = unet_from(
        config["background_encoder"],
        num_output_blocks=1 + max(int(match[1]) for match in blocks if match),
    )

    def init() -> Params:
        key = jax.random.key(0)
        tokens = (case.inputs[name] for name in ("clip_tokens", "tagger_tokens"))
        own = encoder.init(key, *touch(encoder))["params"]
        return colorizer.init(key, *tokens) | {"background_encoder": own}

    abstract = jax.eval_shape(init)
    prefixes = {name: f"{name}." for name in NETWORKS}
    params = torch_names.from_torch_many(tensors, abstract, prefixes)
    return Plugin(colorizer, encoder, jax.tree.map(jnp.asarray, params))
