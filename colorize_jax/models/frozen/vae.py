"""SDXL's autoencoder under the published latent-diffusion names.

    encoder  image      (B, H,   W,   3) -> levels of width channels * mult, halved between them
             moments    (B, H/8, W/8, 2 latent_channels)
    decoder  latents    (B, H/8, W/8, latent_channels) -> the same levels backwards, doubled between
             image      (B, H,   W,   3)

Latents here are unscaled; `conditioning.FrozenEncoders` applies the scaling factor.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from colorize_jax.errors import UserError
from colorize_jax.nn.attention import attention
from colorize_jax.nn.layers import Conv, group_norm
from colorize_jax.types import Array

# Log variances are clamped as published, against underflow and overflow.
MIN_LOGVAR, MAX_LOGVAR = -30.0, 20.0


class Vae(nn.Module):
    """The autoencoder.

    Attributes:
        channels: width of the finest level, a multiple of 32.
        channel_mult: widths of the levels over `channels`, finest first.
        num_res_blocks: residual blocks a level of the encoder; the decoder has one more.
        latent_channels: C of the latents.
        dtype: of convolutions and products, float32 or bfloat16; norms and softmax stay in float32.
        implementation: see `nn.attention`.
    """

    channels: int = 128
    channel_mult: Sequence[int] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    latent_channels: int = 4
    dtype: Any = jnp.float32
    implementation: str = "auto"

    def __post_init__(self) -> None:
        if jnp.dtype(self.dtype) == jnp.float16:
            raise UserError(
                "got float16 for the VAE, whose activations overflow it, expected bfloat16 or "
                "float32; change its dtype"
            )
        super().__post_init__()

    def setup(self) -> None:
        widths = tuple(self.channels * mult for mult in self.channel_mult)
        shared = {"dtype": self.dtype, "implementation": self.implementation}
        moments = 2 * self.latent_channels
        self.encoder = Encoder(widths, self.num_res_blocks, moments, **shared)
        self.decoder = Decoder(widths, self.num_res_blocks + 1, **shared)
        self.quant_conv = Conv(moments, 1, dtype=self.dtype)
        self.post_quant_conv = Conv(self.latent_channels, 1, dtype=self.dtype)

    @property
    def pixels_per_latent(self) -> int:
        """Side of the square of pixels that one latent stands for."""
        return 2 ** (len(self.channel_mult) - 1)

    def encode(self, images: Array) -> tuple[Array, Array]:
        """Encode images.

        Args:
            images: (B, H, W, 3) in [-1, 1], sides multiples of `pixels_per_latent`.

        Returns:
            Mean and log variance of the posterior, each (B, h, w, latent_channels) float32.
        """
        step = self.pixels_per_latent
        if images.shape[1] % step or images.shape[2] % step:
            raise UserError(
                f"got images of {images.shape[1]}x{images.shape[2]} px, expected sides that are "
                f"multiples of {step}; pad or crop them"
            )
        moments = self.quant_conv(self.encoder(images)).astype(jnp.float32)
        mean, logvar = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(logvar, MIN_LOGVAR, MAX_LOGVAR)

    def decode(self, latents: Array) -> Array:
        """Decode unscaled latents (B, h, w, latent_channels) to images (B, H, W, 3), about [-1, 1].

        The result is float32 and not clamped.
        """
        return self.decoder(self.post_quant_conv(latents)).astype(jnp.float32)

    def __call__(self, images: Array) -> Array:
        """Encode to the mean and decode again: touches every parameter."""
        return self.decode(self.encode(images)[0])


class Encoder(nn.Module):
    """Images (B, H, W, 3) -> moments before `quant_conv`; fields as in `Vae`."""

    widths: Sequence[int]
    num_res_blocks: int
    out_channels: int
    dtype: Any = jnp.float32
    implementation: str = "auto"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = Conv(self.widths[0], dtype=self.dtype, name="conv_in")(x)
        for i, width in enumerate(self.widths):
            step = None if i == len(self.widths) - 1 else "down"
            x = Level(width, self.num_res_blocks, step, self.dtype, name=f"down_{i}")(x)
        x = Middle(self.dtype, self.implementation, name="mid")(x)
        x = nn.silu(group_norm(1e-6, self.dtype, name="norm_out")(x))
        return Conv(self.out_channels, dtype=self.dtype, name="conv_out")(x)


class Decoder(nn.Module):
    """Latents after `post_quant_conv` -> images (B, H, W, 3); fields as in `Vae`."""

    widths: Sequence[int]
    num_res_blocks: int
    dtype: Any = jnp.float32
    implementation: str = "auto"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = Conv(self.widths[-1], dtype=self.dtype, name="conv_in")(x)
        x = Middle(self.dtype, self.implementation, name="mid")(x)
        for i, width in reversed(list(enumerate(self.widths))):
            step = None if i == 0 else "up"
            x = Level(width, self.num_res_blocks, step, self.dtype, name=f"up_{i}")(x)
        x = nn.silu(group_norm(1e-6, self.dtype, name="norm_out")(x))
        return Conv(3, dtype=self.dtype, name="conv_out")(x)


class Level(nn.Module):
    """Residual blocks of one width, then a step to the next level.

    Attributes:
        width: C of the result.
        num_res_blocks: how many blocks.
        step: "down" halves the sides, "up" doubles them, None keeps them.
        dtype: of the convolutions.
    """

    width: int
    num_res_blocks: int
    step: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i in range(self.num_res_blocks):
            x = VaeResBlock(self.width, self.dtype, name=f"block_{i}")(x)
        if self.step == "down":
            return VaeDownsample(self.dtype, name="downsample")(x)
        return VaeUpsample(self.dtype, name="upsample")(x) if self.step == "up" else x


class Middle(nn.Module):
    """Residual block, attention, residual block at the coarsest level."""

    dtype: Any = jnp.float32
    implementation: str = "auto"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = VaeResBlock(x.shape[-1], self.dtype, name="block_1")(x)
        x = AttentionBlock(self.dtype, self.implementation, name="attn_1")(x)
        return VaeResBlock(x.shape[-1], self.dtype, name="block_2")(x)


class VaeResBlock(nn.Module):
    """GN-SiLU-conv, GN-SiLU-conv, and a skip that is a 1x1 convolution where widths differ."""

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        skip = x
        for i in (1, 2):
            x = nn.silu(group_norm(1e-6, self.dtype, name=f"norm{i}")(x))
            x = Conv(self.width, dtype=self.dtype, name=f"conv{i}")(x)
        if skip.shape[-1] != self.width:
            skip = Conv(self.width, 1, dtype=self.dtype, name="nin_shortcut")(skip)
        return skip + x


class AttentionBlock(nn.Module):
    """Self-attention over all pixels, one head as wide as the features, with a residual."""

    dtype: Any = jnp.float32
    implementation: str = "auto"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        normed = group_norm(1e-6, self.dtype, name="norm")(x)

        def tokens(name: str) -> Array:
            y = Conv(channels, 1, dtype=self.dtype, name=name)(normed)
            return y.reshape(x.shape[0], -1, 1, channels)

        y = attention(tokens("q"), tokens("k"), tokens("v"), implementation=self.implementation)
        return x + Conv(channels, 1, dtype=self.dtype, name="proj_out")(y.reshape(x.shape))


class VaeDownsample(nn.Module):
    """Halve the sides by a striding convolution that pads only on the right and at the bottom."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return Conv(x.shape[-1], stride=2, padding=(0, 1), dtype=self.dtype, name="conv")(x)


class VaeUpsample(nn.Module):
    """Double the sides by repeating pixels, then convolve."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
        return Conv(x.shape[-1], dtype=self.dtype, name="conv")(x)
