"""The UNet as a list of stages in order of execution, and the stages that are no transformers."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from colorize_jax.nn.layers import Conv, Dense, group_norm, near_zero_init
from colorize_jax.types import Array

# A network that is trained from random parameters should follow the hints before its noisy latents,
# which say nothing at high timesteps: the first convolution starts small.
small_init = nn.initializers.variance_scaling(0.01, "fan_in", "truncated_normal")


class Stage(NamedTuple):
    """One module of the UNet, and what the forward does before and after it.

    Attributes:
        name: of the module: its published name with '_' for '.'.
        kind: "conv", "res", "transformer", "down" or "up".
        channels: of the output.
        block: number of the input or output block that it belongs to, from 0.
        depth: number of transformer blocks.
        first_block: transformer blocks of the whole UNet that run before it.
        takes_skip: whether the newest skip is concatenated to the input.
        stores_skip: whether the output gets a hint and becomes a skip.
    """

    name: str
    kind: str
    channels: int
    block: int = 0
    depth: int = 0
    first_block: int = 0
    takes_skip: bool = False
    stores_skip: bool = False


@functools.cache
def unet_stages(
    model_channels: int,
    channel_mult: tuple[int, ...],
    num_res_blocks: int,
    transformer_depth: tuple[int, ...],
    num_output_blocks: int | None = None,
) -> tuple[Stage, ...]:
    """Encoder, middle and decoder; arguments as the fields of `UNet`."""
    stages = [
        *encoder_stages(model_channels, channel_mult, num_res_blocks, transformer_depth),
        *_middle_stages(channel_mult[-1] * model_channels, transformer_depth[-1]),
        *_decoder_stages(
            model_channels, channel_mult, num_res_blocks, transformer_depth, num_output_blocks
        ),
    ]
    first_block, numbered = 0, []
    for stage in stages:
        numbered.append(stage._replace(first_block=first_block))
        first_block += stage.depth
    return tuple(numbered)


def encoder_stages(
    model_channels: int,
    channel_mult: tuple[int, ...],
    num_res_blocks: int,
    transformer_depth: tuple[int, ...],
) -> list[Stage]:
    """The input blocks; the last stage of each stores a skip."""
    blocks = [[_stage("conv", model_channels)]]
    for level, mult in enumerate(channel_mult):
        channels = mult * model_channels
        blocks += [_res_block(channels, transformer_depth[level]) for _ in range(num_res_blocks)]
        if level < len(channel_mult) - 1:
            blocks.append([_stage("down", channels)])
    for block in blocks:
        block[-1] = block[-1]._replace(stores_skip=True)
    return _named("input_blocks", blocks)


def _middle_stages(channels: int, depth: int) -> list[Stage]:
    stages = [*_res_block(channels, depth), _stage("res", channels)]
    return [stage._replace(name=f"middle_block_{i}") for i, stage in enumerate(stages)]


def _decoder_stages(
    model_channels: int,
    channel_mult: tuple[int, ...],
    num_res_blocks: int,
    transformer_depth: tuple[int, ...],
    num_output_blocks: int | None,
) -> list[Stage]:
    """The output blocks, or as many as there are; the first stage of each takes a skip."""
    blocks = []
    for level in reversed(range(len(channel_mult))):
        channels, depth = channel_mult[level] * model_channels, transformer_depth[level]
        blocks += [_res_block(channels, depth) for _ in range(num_res_blocks + 1)]
        if level:
            blocks[-1].append(_stage("up", channels))
    for block in blocks:
        block[0] = block[0]._replace(takes_skip=True)
    return _named("output_blocks", blocks[:num_output_blocks])


def _stage(kind: str, channels: int, depth: int = 0) -> Stage:
    return Stage("", kind, channels, depth=depth)


def _res_block(channels: int, depth: int) -> list[Stage]:
    transformer = [_stage("transformer", channels, depth)] if depth else []
    return [_stage("res", channels), *transformer]


def _named(prefix: str, blocks: list[list[Stage]]) -> list[Stage]:
    return [
        stage._replace(name=f"{prefix}_{index}_{i}", block=index)
        for index, block in enumerate(blocks)
        for i, stage in enumerate(block)
    ]


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
) -> nn.Module:
    """Make the module of a stage that is no transformer, under the stage's name."""
    if stage.kind == "conv":
        return Conv(stage.channels, kernel_init=small_init, dtype=dtype, name=stage.name)
    if stage.kind == "res":
        block = ResBlock
        if remat is not None:
            # Outside of a loop XLA's common subexpression elimination would undo rematerialization.
            block = nn.remat(ResBlock, policy=remat, prevent_cse=True)
        return block(stage.channels, dtype, norm_groups, name=stage.name)
    resample = {"down": Downsample, "up": Upsample}[stage.kind]
    return resample(stage.channels, dtype, name=stage.name)
