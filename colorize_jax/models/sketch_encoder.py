"""Sketch -> hints: a convolutional pyramid with scale-causal attention between its levels.

    level   resolution   channels   tokens at 1024 px     (published sizes)
      0        H/8          320         16,384
      1        H/16         320          4,096
      2        H/32         640          1,024
      3        H/32       1,280          1,024 and one global token

Tokens are ordered coarse to fine, [global, level 3, ..., level 0]: a level attends to itself and
all coarser levels, which are a prefix of that order, so that one call a level needs no mask.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from colorize_jax.errors import UserError
from colorize_jax.nn.attention import attention
from colorize_jax.nn.layers import Conv, Dense, RMSNorm, near_zero_init
from colorize_jax.types import Array

# Makes up for SiLU, which leaves a third of the variance: eleven layers would fade the sketch.
silu_init = nn.initializers.variance_scaling(3.0, "fan_in", "truncated_normal")
# Initial scale of hints in a network trained from scratch: twice that of the features they join.
loud_init = nn.initializers.variance_scaling(4.0, "fan_in", "truncated_normal")
# Share of the random kernel in the channels that are initialized as pixels.
PIXEL_NOISE = 0.02
COLOR_HINT_CHANNELS = 4  # a colour, times how far a place is hinted at, and that itself


def pixel_init(stride: int) -> nn.initializers.Initializer:
    """Initialize half of the channels as space to depth, the other half at random.

    A stack of random convolutions blurs lines before they reach the latents' resolution. Since
    silu(x) - silu(-x) = x, a pair of channels holding x and -x passes a pixel through the stem
    unchanged; each pixel of a patch gets such a pair.

    Args:
        stride: of the convolution; s^2 pixels of its input go to one of its output.
    """

    def init(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        size, _, num_inputs, features = shape
        pixels, center = np.zeros(shape, np.float32), size // 2
        for pair in range(features // 4):
            source, place = divmod(pair, stride**2)
            row, column = divmod(place, stride)
            if num_inputs == 3:
                value = np.full(3, (source == 0) / 3)
            else:
                value = np.zeros(num_inputs)
                value[2 * source : 2 * source + 2] = (1, -1)[: max(0, num_inputs - 2 * source)]
            tap = pixels[center + row, center + column]
            tap[:, 2 * pair], tap[:, 2 * pair + 1] = value, -value
        begins_as_pixels = np.arange(features) < 2 * (features // 4)
        return silu_init(key, shape, dtype) * np.where(begins_as_pixels, PIXEL_NOISE, 1.0) + pixels

    return init


class SketchEncoder(nn.Module):
    """The published multi-scale attention encoder.

    Attributes:
        model_channels: width of level 0.
        channel_mult: widths of the following levels over `model_channels`; the attention is as wide
            as the last one.
        head_dim: D, a multiple of 4.
        strides: of the stem's three striding convolutions; their product is pixels per latent.
        stem_channels: widths of the stem's seven convolutions, the third, fifth and seventh of
            which stride.
        near_zero_hints: whether hints are initialized near zero, for a pretrained UNet.
        color_hints: whether the first convolution also takes hints of colour. Their part of its
            kernel is a module of its own, "color_hints", which starts at zero.
        dtype: of convolutions and products; norms and softmax stay in float32.
        implementation: see `nn.attention`.
    """

    model_channels: int = 320
    channel_mult: Sequence[int] = (1, 2, 4)
    head_dim: int = 128
    strides: Sequence[int] = (2, 2, 2)
    stem_channels: Sequence[int] = (16, 16, 32, 32, 96, 96, 256)
    near_zero_hints: bool = True
    color_hints: bool = False
    dtype: Any = jnp.float32
    implementation: str = "auto"

    def __post_init__(self) -> None:
        width = self.model_channels * self.channel_mult[-1]
        if self.head_dim % 4 or width % self.head_dim:
            raise UserError(
                f"got head_dim {self.head_dim} for an attention of {width} channels, expected a "
                "multiple of 4 that divides them; change head_dim"
            )
        if len(self.strides) != 3:
            raise UserError(f"got strides {self.strides}, expected three numbers; give 1 or 2 each")
        if len(self.stem_channels) != 7:
            raise UserError(
                f"got stem_channels {self.stem_channels}, expected seven widths; give one a "
                "convolution"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, sketch: Array, color_hints: Array | None = None) -> tuple[Array, ...]:
        """Encode a sketch.

        Args:
            sketch: (B, H, W, 3) in [-1, 1], line = +1, paper = -1.
            color_hints: (B, H, W, 4) colours in [-1, 1] times the mask, and the mask, 0..1, of the
                places that are hinted at; None, like zeros, hints at nothing.

        Returns:
            Hints, finest first: len(channel_mult) + 1 arrays (B, h_i, w_i, C_i).

        Raises:
            UserError: there are hints of colour and the encoder takes none.
        """
        levels = self._pyramid(sketch, color_hints)
        width = self.model_channels * self.channel_mult[-1]
        tokens = [
            Conv(width, 1, dtype=self.dtype, name=f"proj_ins_{i}")(level)
            for i, level in enumerate(levels)
        ]
        mean = jnp.mean(levels[-1], axis=(1, 2), keepdims=True, dtype=jnp.float32)
        everywhere = Conv(width, 1, dtype=self.dtype, name=f"proj_ins_{len(levels)}")(mean)
        tokens = ScaleCausalAttention(
            self.head_dim, self.dtype, self.implementation, name="attn_layer"
        )(tokens, everywhere)
        hint_init = near_zero_init if self.near_zero_hints else loud_init
        return tuple(
            Conv(
                level.shape[-1],
                1,
                kernel_init=hint_init,
                dtype=self.dtype,
                name=f"proj_outs_{i}",
            )(x)
            for i, (level, x) in enumerate(zip(levels, tokens, strict=True))
        )

    def _pyramid(self, sketch: Array, color_hints: Array | None) -> list[Array]:
        """(B, H, W, 3) -> feature maps of every level, finest first."""
        if color_hints is not None and not self.color_hints:
            raise UserError(
                "got hints of colour for a sketch encoder that takes none, expected one of a run "
                "with model.hints=true; leave them out"
            )
        if self.color_hints and self.is_initializing():
            color_hints = jnp.zeros((*sketch.shape[:3], COLOR_HINT_CHANNELS))

        def conv(x: Array, features: int, stride: int, name: str) -> Array:
            init = pixel_init(stride) if name.startswith("model") else silu_init
            return Conv(features, stride=stride, kernel_init=init, dtype=self.dtype, name=name)(x)

        s = self.strides
        chain = tuple(zip(self.stem_channels, (1, 1, s[0], 1, s[1], 1, s[2]), strict=True))
        x = sketch
        for i, (features, stride) in enumerate(chain):
            x = conv(x, features, stride, f"model_{2 * i}")
            if i == 0 and color_hints is not None:
                # Apart, the sum's order is that of a network without hints: zeros change no bit.
                x += Conv(
                    features,
                    use_bias=False,
                    kernel_init=nn.initializers.zeros,
                    dtype=self.dtype,
                    name="color_hints",
                )(color_hints)
            x = nn.silu(x)
        levels = [conv(x, self.model_channels, 1, f"model_{2 * len(chain)}")]
        for i, mult in enumerate(self.channel_mult):
            stride = 1 if i == len(self.channel_mult) - 1 else 2
            x = nn.silu(levels[-1])
            features = self.model_channels * mult
            levels.append(conv(x, features, stride, f"downsample_layers_{i}_1"))
        return levels


class ScaleCausalAttention(nn.Module):
    """Attention in which a level sees itself and every coarser level, with a residual.

    Attributes:
        head_dim: D.
        dtype: of the products.
        implementation: see `nn.attention`.
    """

    head_dim: int
    dtype: Any = jnp.float32
    implementation: str = "auto"

    @nn.compact
    def __call__(self, levels: list[Array], everywhere: Array) -> list[Array]:
        """Attend.

        Args:
            levels: feature maps (B, h_i, w_i, C), finest first.
            everywhere: (B, 1, 1, C) the global token, which gets no rotary position.

        Returns:
            Feature maps like `levels`; the global token is only read.
        """
        channels = everywhere.shape[-1]
        maps = [everywhere, *reversed(levels)]
        tokens = jnp.concatenate([x.reshape(x.shape[0], -1, channels) for x in maps], axis=1)
        angles = [np.zeros((1, self.head_dim // 2)), *(self._angles(x) for x in reversed(levels))]
        angles = jnp.asarray(np.concatenate(angles), jnp.float32)

        def dense(name: str) -> Array:
            return Dense(channels, use_bias=False, dtype=self.dtype, name=name)(tokens)

        def heads(x: Array) -> Array:
            return x.reshape(*x.shape[:2], -1, self.head_dim)

        # The norms run over all heads at once, before the split.
        q = rotate(heads(RMSNorm(self.dtype, name="q_norm")(dense("to_q"))), angles)
        k = rotate(heads(RMSNorm(self.dtype, name="k_norm")(dense("to_k"))), angles)
        v = heads(dense("to_v"))
        out = Dense(channels, dtype=self.dtype, name="to_out_0")

        results, start = [], 1
        for level in reversed(levels):
            end = start + level.shape[1] * level.shape[2]
            own = attention(
                q[:, start:end], k[:, :end], v[:, :end], implementation=self.implementation
            )
            results.append(level + out(own.reshape(level.shape)))
            start = end
        return results[::-1]

    def _angles(self, level: Array) -> np.ndarray:
        """(h w, D/2) rotary angles of a map's positions: half of them by row, half by column."""
        rows, columns = np.mgrid[: level.shape[1], : level.shape[2]]
        quarter = self.head_dim // 4
        frequencies = 10_000.0 ** (-np.arange(quarter) / quarter)
        turns = np.stack([rows, columns], axis=-1)[..., None] * frequencies
        return turns.reshape(-1, 2 * quarter)


def rotate(x: Array, angles: Array) -> Array:
    """Turn adjacent channel pairs, as complex numbers, by their angles (Su et al. 2021).

    Args:
        x: (B, N, K, D).
        angles: (N, D/2) radians.

    Returns:
        (B, N, K, D) in the dtype of `x`, computed in float32.
    """
    real, imaginary = jnp.moveaxis(
        x.astype(jnp.float32).reshape(*x.shape[:-1], x.shape[-1] // 2, 2), -1, 0
    )
    cos, sin = jnp.cos(angles)[:, None, :], jnp.sin(angles)[:, None, :]
    turned = jnp.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)
