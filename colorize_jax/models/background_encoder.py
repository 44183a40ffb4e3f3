"""The plugin's background encoder: a UNet without cross-attention, read at its decoder's norms.

It sees [background latent, sketch mask, reference mask] at timestep 0 and puts nothing out. What
the colorizer's self-attention reads of it, the bank, are the normed tokens in front of every
self-attention of its decoder; what lies behind the last of them never runs.
"""

from collections.abc import Iterator

import jax.numpy as jnp

from colorize_jax.models.unet import UNet
from colorize_jax.nn.layers import sinusoid
from colorize_jax.types import Array, Params

NORMED = "norm1"  # the feature of which self-attention makes its keys and values
NUM_MASKS = 2  # channels of the input beside the latent's
CROP_NUMBERS = 4


def encode_bank(
    encoder: UNet,
    params: Params,
    latents: Array,
    sketch_mask: Array,
    reference_mask: Array,
    vector: Array,
) -> dict[str, Array]:
    """Run the encoder once.

    Args:
        encoder: a UNet with `num_output_blocks`.
        params: its own.
        latents: (B, h, w, C) of the background, stretched to the picture's size.
        sketch_mask, reference_mask: (B, h, w, 1) foregrounds.
        vector: (B, E) from `crop_embedding`.

    Returns:
        Decoder stack -> (L, B, h' * w', C') normed tokens of each of its blocks.
    """
    inputs = jnp.concatenate([latents, sketch_mask, reference_mask], axis=-1)
    stacks = [name for name in encoder.stacks() if name.startswith("output_blocks")]
    _, features = encoder.apply(
        {"params": params},
        inputs,
        jnp.zeros(inputs.shape[0]),
        vector=vector,
        collect=tuple((name, NORMED) for name in stacks),
    )
    return {name: features[name, NORMED] for name in stacks}


def crop_embedding(crop: Array, channels: int) -> Array:
    """Embed what a picture shows of its background: the sinusoid of each number, side by side.

    Args:
        crop: (B, 4) top, left, height, width, as shares of the background's sides.
        channels: of the embedding.

    Returns:
        (B, channels) float32.
    """
    return sinusoid(crop, channels // CROP_NUMBERS).reshape(crop.shape[0], -1)


def unreached(encoder: UNet, prefix: str = "") -> Iterator[str]:
    """Yield rules (regular expressions) for paths of parameters behind the encoder's last norm.

    Nothing that is computed depends on them: they have no gradient, and files carry them.
    """
    last, depth = list(encoder.stacks().items())[-1]
    names = [stage.name for stage in encoder.plan()]
    yield rf"^{prefix}{last}/(proj_out/|transformer_blocks_{depth - 1}/(?!{NORMED}/))"
    for name in names[names.index(last) + 1 :]:
        yield f"^{prefix}{name}/"
