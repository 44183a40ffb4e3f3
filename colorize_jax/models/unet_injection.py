"""Injected features: the decoder's skips attend to features of a foreground or a background."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax.numpy as jnp

from colorize_jax.nn.attention_layer import Attention
from colorize_jax.nn.layers import Dense
from colorize_jax.nn.regions import to_tokens
from colorize_jax.types import Array


@flax.struct.dataclass
class Injection:
    """Features that the decoder's skips attend to.

    Attributes:
        foreground: one (B, N_i, C_i) a decoder block, for pixels inside the mask; or None.
        background: the same for pixels outside; or None.
        mask: (B, h, w, 1) at the latents' resolution.
        threshold: () or (B,) what the mask is compared with.
    """

    foreground: tuple[Array, ...] | None
    background: tuple[Array, ...] | None
    mask: Array
    threshold: Array | float = 0.05


class SkipInjector(nn.Module):
    """The attention layers of all skips; `UNet` shares its scope, so the names are published ones.

    Attributes:
        skip_channels: C_i of every skip, in the order in which the decoder takes them.
        head_dim: D of the attention heads.
        foreground: whether there are layers that read foreground features.
        background: whether there are layers that read background features.
        dtype: of products and activations.
        implementation: of attention, see `nn.attention`.
    """

    skip_channels: tuple[int, ...]
    head_dim: int
    foreground: bool
    background: bool
    dtype: Any = jnp.float32
    implementation: str = "auto"

    def setup(self) -> None:
        self.foreground_readers = self._readers("map_modules") if self.foreground else ()
        self.background_readers = self._readers("warp_modules") if self.background else ()

    def _readers(self, name: str) -> tuple[tuple[Attention, Dense], ...]:
        return tuple(
            (
                Attention(
                    channels,
                    self.head_dim,
                    dtype=self.dtype,
                    implementation=self.implementation,
                    name=f"{name}_{i}_0",
                ),
                Dense(channels, dtype=self.dtype, name=f"{name}_{i}_1"),
            )
            for i, channels in enumerate(self.skip_channels)
        )

    def __call__(self, skip: Array, block: int, embedding: Array, injection: Injection) -> Array:
        """Let a skip attend to foreground features inside the mask, to background ones outside.

        Args:
            skip: (B, h', w', C_i).
            block: i, the number of the decoder block that takes it.
            embedding: (B, E) of timestep and size.
            injection: the features; where there are none, the skip stays as it is.
        """
        batch, height, width, channels = skip.shape
        tokens = foreground = background = skip.reshape(batch, height * width, channels)
        if injection.foreground is not None:
            features = injection.foreground[block]
            foreground = self._read(self.foreground_readers[block], tokens, features, embedding)
        if injection.background is not None:
            features = injection.background[block]
            background = self._read(self.background_readers[block], tokens, features, embedding)
        mask = to_tokens(injection.mask, height, width)
        threshold = jnp.reshape(jnp.asarray(injection.threshold, mask.dtype), (-1, 1, 1))
        return jnp.where(mask > threshold, foreground, background).reshape(skip.shape)

    def _read(
        self, reader: tuple[Attention, Dense], tokens: Array, features: Array, embedding: Array
    ) -> Array:
        attention, shift = reader
        return tokens + attention(
            tokens, features.astype(self.dtype) + shift(embedding)[:, None, :]
        )

    def initialize(self, embedding: Array) -> None:
        """Create the parameters, for `init` alone: an ordinary forward does not use them."""
        for reader in (*self.foreground_readers, *self.background_readers):
            tokens = jnp.zeros((1, 1, reader[0].channels), self.dtype)
            self._read(reader, tokens, tokens, embedding)
