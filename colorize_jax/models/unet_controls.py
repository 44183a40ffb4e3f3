"""Controls of a forward of the UNet, and the hints of the sketch."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax.numpy as jnp

from colorize_jax.errors import UserError
from colorize_jax.models.unet_injection import Injection
from colorize_jax.models.unet_stages import Stage
from colorize_jax.nn.regions import Bank, Regions
from colorize_jax.types import Array


@flax.struct.dataclass
class Controls:
    """The controls of one forward; every part may be left out.

    Attributes:
        reference_strength: () or (number of transformer blocks,) factor of cross-attention.
        regions: split cross-attention; its mask is (B, h, w, 1) at the latents' resolution.
        banks: transformer stack -> foreign tokens of its self-attention; masks (B, h, w, 1).
        lora_scales: label -> scale, 1 where a label is not named.
        foreground: (B, h, w, C) latent that `conv_fg` adds after the first convolution.
        injection: features for the decoder's skips.
    """

    reference_strength: Array | None = None
    regions: Regions | None = None
    banks: Mapping[str, Bank] | None = None
    lora_scales: Mapping[str, Array] | None = None
    foreground: Array | None = None
    injection: Injection | None = None


def transformer_controls(
    controls: Controls, stage: Stage, num_blocks: int, height: int, width: int
) -> dict[str, Any]:
    """What one transformer gets of the controls, as arguments of `SpatialTransformer`.

    Args:
        controls: of the whole forward.
        stage: the transformer's.
        num_blocks: transformer blocks of the whole UNet.
        height, width: of its pixels, to which masks are resized.
    """

    strength = controls.reference_strength
    if strength is not None:
        strength = jnp.broadcast_to(strength, (num_blocks,))
        strength = strength[stage.first_block : stage.first_block + stage.depth]
    bank, regions = (controls.banks or {}).get(stage.name), controls.regions
    return {
        "strength": strength,
        "bank": None if bank is None else bank.at(height, width),
        "shares": None if regions is None else regions.shares(height, width),
        "lora_scales": controls.lora_scales,
    }


def add_hint(x: Array, hint: Array, block: int) -> Array:
    """Add a hint to the output (B, h', w', C) of an input block.

    Raises:
        UserError: its size or width is another one.
    """
    got, expected = hint.shape[1:], x.shape[1:]
    if got != expected:
        raise UserError(
            f"got a hint of {'x'.join(map(str, got))} for input block {block}, expected "
            f"{'x'.join(map(str, expected))}, what the block puts out; give hint_blocks blocks at "
            "which the sketch encoder's levels have the size and width of the UNet's"
        )
    return x + hint.astype(x.dtype)
