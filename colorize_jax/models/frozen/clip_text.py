"""CLIP's text tower (Radford et al. 2021): texts in the space of the vision tower's tokens."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from colorize_jax.models.frozen.clip_layers import Layers, check_heads
from colorize_jax.nn.layers import Dense, LayerNorm
from colorize_jax.types import Array


class ClipText(nn.Module):
    """The text tower with its projection; that of ViT-bigG/14 by default.

    Attributes:
        vocab_size: number of tokens; the last one ends a text.
        context_length: N, the most tokens of a text with those that begin and end it.
        projection_dim: C of the embedding.

    The others are those of `ClipVision`. Both towers are built alike, but apart: each has the
    published names of its own modules.
    """

    hidden_size: int = 1280
    intermediate_size: int = 5120
    num_layers: int = 32
    num_heads: int = 20
    vocab_size: int = 49408
    context_length: int = 77
    projection_dim: int = 1280
    dtype: Any = jnp.float32
    implementation: str = "auto"

    def __post_init__(self) -> None:
        check_heads(self.hidden_size, self.num_heads)
        super().__post_init__()

    @property
    def end_token(self) -> int:
        """The token that ends a text and stands for all of it."""
        return self.vocab_size - 1

    def setup(self) -> None:
        self.text_model = TextTower(
            self.hidden_size,
            self.intermediate_size,
            self.num_layers,
            self.num_heads,
            self.vocab_size,
            self.context_length,
            self.dtype,
            self.implementation,
        )
        self.text_projection = Dense(self.projection_dim, use_bias=False, dtype=self.dtype)

    def __call__(self, ids: Array) -> Array:
        """Embed texts.

        Args:
            ids: (B, N) int32 tokens, N at most `context_length`, each row with `end_token` in it;
                what follows the first one is not seen.

        Returns:
            (B, projection_dim), not normalized.
        """
        hidden = self.text_model(ids)
        end = jnp.argmax(ids == self.end_token, axis=-1)
        return self.text_projection(jnp.take_along_axis(hidden, end[:, None, None], axis=1)[:, 0])


class TextTower(nn.Module):
    """Tokens through the layers, (B, N) -> (B, N, C) normed; fields as in `ClipText`."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    vocab_size: int
    context_length: int
    dtype: Any = jnp.float32
    implementation: str = "auto"

    @nn.compact
    def __call__(self, ids: Array) -> Array:
        embeddings = TextEmbeddings(
            self.hidden_size, self.vocab_size, self.context_length, self.dtype, name="embeddings"
        )
        encoder = Layers(
            self.intermediate_size,
            self.num_layers,
            self.num_heads,
            self.dtype,
            self.implementation,
            causal=True,
            name="encoder",
        )
        return LayerNorm(self.dtype, name="final_layer_norm")(encoder(embeddings(ids)))


class TextEmbeddings(nn.Module):
    """Token and position embeddings: (B, N) -> (B, N, C)."""

    hidden_size: int
    vocab_size: int
    context_length: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, ids: Array) -> Array:
        def embed(count: int, name: str) -> nn.Embed:
            return nn.Embed(count, self.hidden_size, dtype=self.dtype, name=name)

        tokens = embed(self.vocab_size, "token_embedding")
        positions = embed(self.context_length, "position_embedding")
        return tokens(ids) + positions(jnp.arange(ids.shape[1]))
