"""What a UNet is made of: the list of its modules, and those that are no transformers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from colorize_jax.nn.layers import Conv, Dense, group_norm, near_zero_init
from colorize_jax.types import Array

# A network that starts at random shall hear what to draw, the hints, before its noisy latents:
# those say nothing at high timesteps.
quiet_init = nn.initializers.variance_scaling(0.01, "fan_in", "truncated_normal")


class Stage(NamedTuple):
    """One module of the UNet, in order of execution.

    Attributes:
        name: of the module: published name with '.' before a number as '_'.
        kind: "conv", "res", "transformer", "down" or "up".
        block: "input_blocks_4" and the like: the published block it belongs to.
        channels: of its output.
        depth: number of transformer blocks.
    """

    name: str
    kind: str
    block: str
    channels: int
    depth: int = 0


def encoder_stages(
    model_channels: int,
    channel_mult: tuple[int, ...],
    num_res_blocks: int,
    transformer_depth: tuple[int, ...],
) -> list[Stage]:
    """List the encoder's modules."""
    stages = [Stage("input_blocks_0_0", "conv", "input_blocks_0", model_channels)]
    index = 1
    for level, mult in enumerate(channel_mult):
        channels = mult * model_channels
        for _ in range(num_res_blocks):
            block = f"input_blocks_{index}"
            stages.append(Stage(f"{block}_0", "res", block, channels))
            if transformer_depth[level]:
                depth = transformer_depth[level]
                stages.append(Stage(f"{block}_1", "transformer", block, channels, depth))
            index += 1
        if level < len(channel_mult) - 1:
            block = f"input_blocks_{index}"
            stages.append(Stage(f"{block}_0", "down", block, channels))
            index += 1
    return stages


def middle_stages(channels: int, depth: int) -> list[Stage]:
    """List the modules between encoder and decoder."""
    kinds = [("res", 0), ("transformer", depth), ("res", 0)]
    if not depth:
        kinds = [("res", 0), ("res", 0)]
    return [
        Stage(f"middle_block_{i}", kind, "middle_block", channels, blocks)
        for i, (kind, blocks) in enumerate(kinds)
    ]


def decoder_stages(
    model_channels: int,
    channel_mult: tuple[int, ...],
    num_res_blocks: int,
    transformer_depth: tuple[int, ...],
) -> list[Stage]:
    """List the decoder's modules; every block begins by taking a skip."""
    stages, index = [], 0
    for level in reversed(range(len(channel_mult))):
        channels, depth = channel_mult[level] * model_channels, transformer_depth[level]
        for repeat in range(num_res_blocks + 1):
            block = f"output_blocks_{index}"
            kinds = [("res", 0)]
            if depth:
                kinds.append(("transformer", depth))
            if level and repeat == num_res_blocks:
                kinds.append(("up", 0))
            stages += [
                Stage(f"{block}_{i}", kind, block, channels, blocks)
                for i, (kind, blocks) in enumerate(kinds)
            ]
            index += 1
    return stages


class ResBlock(nn.Module):
    """GN-SiLU-conv, plus the embedding, GN-SiLU-conv, plus the input."""

    channels: int
    dtype: Any = jnp.float32
    norm_groups: int = 32

    @nn.compact
    def __call__(self, x: Array, embedding: Array) -> Array:
        """Args: x (B, h, w, C'), embedding (B, E) -> (B, h, w, C)."""
        h = nn.silu(group_norm(1e-5, self.dtype, self.norm_groups, name="in_layers_0")(x))
        h = Conv(self.channels, dtype=self.dtype, name="in_layers_2")(h)
        shift = Dense(self.channels, dtype=self.dtype, name="emb_layers_1")
        h = h + shift(nn.silu(embedding))[:, None, None, :]
        h = nn.silu(group_norm(1e-5, self.dtype, self.norm_groups, name="out_layers_0")(h))
        last = Conv(
            self.channels, kernel_init=near_zero_init, dtype=self.dtype, name="out_layers_3"
        )
        h = last(h)
        if x.shape[-1] != self.channels:
            x = Conv(self.channels, 1, dtype=self.dtype, name="skip_connection")(x)
        return x + h


class Downsample(nn.Module):
    """Convolution of stride 2, one pixel of padding on all sides."""

    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return Conv(self.channels, stride=2, dtype=self.dtype, name="op")(x)


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then a convolution."""

    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, height, width, channels = x.shape
        x = jnp.broadcast_to(
            x[:, :, None, :, None, :], (batch, height, 2, width, 2, channels)
        ).reshape(batch, 2 * height, 2 * width, channels)
        return Conv(self.channels, dtype=self.dtype, name="conv")(x)


def make_module(
    stage: Stage,
    remat: Callable[..., bool] | None = None,
    dtype: Any = jnp.float32,
    norm_groups: int = 32,
    **options: Any,
) -> nn.Module:
    """Make a module that is no transformer; `options` are those of every Flax module."""
    if stage.kind == "conv":
        return Conv(stage.channels, kernel_init=quiet_init, dtype=dtype, **options)
    if stage.kind == "res":
        block = ResBlock
        if remat is not None:
            # Outside of a loop XLA would merge what is computed again with what was computed once.
            block = nn.remat(ResBlock, policy=remat, prevent_cse=True)
        return block(stage.channels, dtype, norm_groups, **options)
    kinds = {"down": Downsample, "up": Upsample}
    return kinds[stage.kind](stage.channels, dtype, **options)
