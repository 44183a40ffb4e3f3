"""CLIP and tagger tokens of a reference -> the context that the UNet attends to."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from colorize_jax.errors import UserError
from colorize_jax.nn.attention_layer import Attention
from colorize_jax.nn.layers import Dense, LayerNorm
from colorize_jax.types import Array


class ReferenceProjection(nn.Module):
    """Self-attention over CLIP's tokens, then both encoders' tokens side by side, projected.

    Attributes:
        num_tokens: S, tokens of the tagger; as many are kept of CLIP's.
        context_channels: C of the context.
        head_dim: D of the self-attention over CLIP tokens.
        dtype: of the products; norms and softmax stay in float32.
        implementation: see `nn.attention`.
    """

    num_tokens: int = 196
    context_channels: int = 2048
    head_dim: int = 128
    dtype: Any = jnp.float32
    implementation: str = "auto"

    @nn.compact
    def __call__(self, clip_tokens: Array, tagger_tokens: Array) -> Array:
        """Project.

        Args:
            clip_tokens: (B, S1, C1), S1 at least `num_tokens`, class token first.
            tagger_tokens: (B, num_tokens, C2).

        Returns:
            (B, num_tokens, context_channels).
        """
        self._check(clip_tokens, tagger_tokens)
        clip = Attention(
            clip_tokens.shape[-1],
            self.head_dim,
            dtype=self.dtype,
            implementation=self.implementation,
            name="attn",
        )(clip_tokens, clip_tokens)
        clip = LayerNorm(self.dtype, name="norm")(clip[:, : self.num_tokens])
        tokens = jnp.concatenate([clip, tagger_tokens.astype(self.dtype)], axis=-1)
        tokens = Dense(self.context_channels, dtype=self.dtype, name="proj_0")(tokens)
        tokens = nn.silu(tokens)
        tokens = Dense(self.context_channels, dtype=self.dtype, name="proj_2")(tokens)
        return LayerNorm(self.dtype, name="proj_3")(tokens)

    def _check(self, clip_tokens: Array, tagger_tokens: Array) -> None:
        found = (clip_tokens.shape[1], tagger_tokens.shape[1])
        if found[0] < self.num_tokens or found[1] != self.num_tokens:
            raise UserError(
                f"got {found[0]} CLIP and {found[1]} tagger tokens, expected at least and exactly "
                f"{self.num_tokens}; set num_tokens to the number of tagger tokens"
            )
        if clip_tokens.shape[-1] % self.head_dim:
            raise UserError(
                f"got CLIP tokens of {clip_tokens.shape[-1]} channels, expected a multiple of "
                f"head_dim {self.head_dim}; change head_dim"
            )
