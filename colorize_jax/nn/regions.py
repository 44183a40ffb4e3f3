"""Attention by regions of the picture: which queries read which tokens.

Masks have the latents' resolution. Every stack of blocks resizes them to its own, bicubically and
without clipping, before they are compared with a threshold.
"""

import flax.struct
import jax.numpy as jnp

from colorize_jax.nn.resize import resize_bicubic
from colorize_jax.types import Array

KeysValues = tuple[Array, Array]

# Threshold of a bank's mask: in the published system it depends neither on samples nor on users.
BANK_THRESHOLD = 0.05


@flax.struct.dataclass
class Regions:
    """Split cross-attention: a context of foreground and background tokens, halves of one length.

    Attributes:
        mask: (B, h, w, 1) foreground at the latents' resolution.
        threshold: () or (B,) what the mask is compared with; None blends both answers by the mask
            itself, as a UNet with low-rank additions was trained to.
        foreground_scale: () factor of the attention over foreground tokens.
        background_scale: () factor of the attention over background tokens.
        merge: () share of the background's attention in the foreground; 0 separates them.
    """

    mask: Array
    threshold: Array | float | None = None
    foreground_scale: Array | float = 1.0
    background_scale: Array | float = 1.0
    merge: Array | float = 0.0

    def shares(self, height: int, width: int) -> Array:
        """(2, B, height * width, 1) float32 factors of the parts' answers: `split_attention`'s."""
        inside = to_tokens(self.mask, height, width)
        if self.threshold is not None:
            threshold = jnp.reshape(jnp.asarray(self.threshold, jnp.float32), (-1, 1, 1))
            # The two published forms differ in who owns a query exactly at the threshold.
            merges = jnp.asarray(self.merge) > 0
            inside = jnp.where(merges, inside >= threshold, inside > threshold)
            inside = inside.astype(jnp.float32)
        # m ((1 - merge) fg + merge bg) + (1 - m) bg, sorted by fg and bg
        foreground = inside * (1 - self.merge)
        return jnp.stack(
            [foreground * self.foreground_scale, (1 - foreground) * self.background_scale]
        )


@flax.struct.dataclass
class Bank:
    """Tokens of another picture that self-attention reads beside its own.

    Attributes:
        keys_values: K and V of every block, each (L, B, M, K, D); inside a block without L.
        mask: (B, h, w, 1) at the latents' resolution, inside a block (B, N, 1); queries inside see
            their own tokens only, others the bank only. Without it all queries see both.
        plain_weight: (B,) share of attention without the bank in the result, 0 by default.
    """

    keys_values: KeysValues
    mask: Array | None = None
    plain_weight: Array | None = None

    def at(self, height: int, width: int) -> "Bank":
        """The same for the queries of a stack."""
        return self if self.mask is None else self.replace(mask=to_tokens(self.mask, height, width))


def to_tokens(mask: Array, height: int, width: int) -> Array:
    """(B, h, w, 1) -> (B, height * width, 1) float32, unclipped."""
    resized = resize_bicubic(mask.astype(jnp.float32), height, width)
    return resized.reshape(mask.shape[0], height * width, 1)
