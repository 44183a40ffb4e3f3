"""The foreground encoder: the UNet's input blocks alone, with one 1x1 convolution a block."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from colorize_jax.models.unet_stages import encoder_stages, make_module
from colorize_jax.nn.layers import Conv, Dense, near_zero_init, sinusoid
from colorize_jax.types import Array


class ForegroundEncoder(nn.Module):
    """Turns a foreground latent into features for the skips of the UNet's decoder.

    Attributes:
        model_channels: channels of the first level; a multiple of 32.
        channel_mult: multiple of them at each level.
        num_res_blocks: res blocks a level.
        vector_channels: width of the size embedding; 0 leaves it out, as published.
        in_channels: channels of the latent.
        dtype: of products and activations.
    """

    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4)
    num_res_blocks: int = 2
    vector_channels: int = 0
    in_channels: int = 4
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, latents: Array, timesteps: Array | None = None, vector: Array | None = None
    ) -> tuple[Array, ...]:
        """(B, h, w, in_channels) -> one (B, N_i, C_i) a decoder skip, in the decoder's order.

        Args:
            latents: clean foreground latents.
            timesteps: (B,); 0 by default, as the published encoder is used.
            vector: (B, vector_channels), where there is a size embedding.
        """
        width = 4 * self.model_channels
        timesteps = jnp.zeros(latents.shape[:1]) if timesteps is None else timesteps
        embedding = Dense(width, name="time_embed_0")(sinusoid(timesteps, self.model_channels))
        embedding = Dense(width, name="time_embed_2")(nn.silu(embedding))
        if self.vector_channels:
            hidden = nn.silu(Dense(width, name="label_emb_0_0")(vector))
            embedding = embedding + Dense(width, name="label_emb_0_2")(hidden)
        x, features = latents.astype(self.dtype), []
        no_transformers = (0,) * len(self.channel_mult)
        stages = encoder_stages(
            self.model_channels, self.channel_mult, self.num_res_blocks, no_transformers
        )
        for index, stage in enumerate(stages):
            module = make_module(stage, dtype=self.dtype)
            x = module(x, embedding) if stage.kind == "res" else module(x)
            zero = Conv(
                stage.channels,
                1,
                kernel_init=near_zero_init,
                dtype=self.dtype,
                name=f"zero_layers_{index}",
            )
            features.append(zero(x).reshape(x.shape[0], -1, stage.channels))
        return tuple(reversed(features))
