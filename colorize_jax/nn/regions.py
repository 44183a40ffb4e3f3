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

LEAST_WEIGHT = 1e-4  # of a reference outside of its mask


@flax.struct.dataclass
class Regions:
    """Cross-attention in parts: a context of parts of one length, blended at every query.

    The parts are the references' tokens, one after another, and behind them the background's where
    there is a mask: sum_p share_p * attention(q, part p). Split attention (one reference and its
    background) and several references by regions are both of this form.

    Attributes:
        mask: (B, h, w, 1) foreground at the latents' resolution; None: there is no background part.
        threshold: () or (B,) what the mask is compared with; None blends both answers by the mask
            itself, as a UNet with low-rank additions was trained to.
        foreground_scale: () factor of the attention over foreground tokens.
        background_scale: () factor of the attention over background tokens.
        merge: () share of the background's attention in the foreground; 0 separates them.
        weights: (P, B, h, w, 1) how far each of P references counts, not below 0; their shares are
            normalized at every query. None: there is one.
        strengths: (P, B) factors of the references' attentions; with `weights`. Below 0: a picture
            has no such reference, and its tokens are never read.
    """

    mask: Array | None = None
    threshold: Array | float | None = None
    foreground_scale: Array | float = 1.0
    background_scale: Array | float = 1.0
    merge: Array | float = 0.0
    weights: Array | None = None
    strengths: Array | None = None

    def shares(self, height: int, width: int) -> Array:
        """Factors of the parts' answers: (parts, B, height * width, 1) float32."""
        if self.mask is None:
            return self._reference_shares(height, width)
        foreground, background = self._split(height, width)
        if self.weights is not None:
            foreground = foreground * self._reference_shares(height, width)
        return jnp.concatenate([foreground, background])

    def _reference_shares(self, height: int, width: int) -> Array:
        count, batch = self.weights.shape[:2]
        flat = self.weights.reshape(count * batch, *self.weights.shape[2:])
        tokens = to_tokens(flat, height, width).reshape(count, batch, height * width, 1)
        strengths = self.strengths[:, :, None, None]
        # Where none counts, all do that are there.
        tokens = jnp.where(strengths < 0, 0, jnp.maximum(tokens, 0) + LEAST_WEIGHT)
        return tokens / tokens.sum(axis=0) * jnp.maximum(strengths, 0)

    def _split(self, height: int, width: int) -> tuple[Array, Array]:
        """Factors of figure and background, each (1, B, height * width, 1)."""
        inside = to_tokens(self.mask, height, width)
        if self.threshold is not None:
            threshold = jnp.reshape(jnp.asarray(self.threshold, jnp.float32), (-1, 1, 1))
            # The two published forms differ in who owns a query exactly at the threshold.
            merges = jnp.asarray(self.merge) > 0
            inside = jnp.where(merges, inside >= threshold, inside > threshold)
            inside = inside.astype(jnp.float32)
        # m ((1 - merge) fg + merge bg) + (1 - m) bg, sorted by fg and bg
        foreground = inside * (1 - self.merge)
        return (
            (foreground * self.foreground_scale)[None],
            ((1 - foreground) * self.background_scale)[None],
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
