"""The WD tagger: a Swin Transformer V2 (Liu et al. 2022) trained to tag illustrations."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.errors import UserError
from colorize_jax.nn.layers import MLP, Conv, Dense, LayerNorm
from colorize_jax.nn.resize import resize_antialiased
from colorize_jax.types import Array

MAX_LOG_SCALE = math.log(100.0)  # of the cosine attention's logits
MAX_POSITION_BIAS = 16.0
MASKED = -100.0  # added to logits across the seams of a shifted picture, as published


@flax.struct.dataclass
class TaggerOutput:
    """The tagger's outputs.

    Attributes:
        tokens: (B, S, C) after the final norm, row-major grid.
        logits: (B, num_classes) of the tags of the whole picture.
    """

    tokens: Array
    logits: Array


def preprocess_tagger(images: Array, size: int) -> Array:
    """Resize images for the tagger and turn RGB into BGR; the aspect is not kept.

    Args:
        images: (B, H, W, 3) RGB in [-1, 1].
        size: side of the result in pixels.

    Returns:
        (B, size, size, 3) float32.
    """
    return resize_antialiased(images.astype(jnp.float32), size, size)[..., ::-1]


class Tagger(nn.Module):
    """SwinV2 with a head for tags; wd-v1-4-swinv2-tagger-v2 by default.

    Attributes:
        image_size: side of the preprocessed image in pixels.
        patch_size: side of a patch in pixels.
        window_size: side of an attention window in patches.
        embed_dim: C of the first stage; every further stage doubles it and halves the grid.
        depths: blocks of each stage.
        num_heads: K of each stage.
        num_classes: number of tags.
        dtype: of the products; norms, logits and softmax stay in float32.
    """

    image_size: int = 448
    patch_size: int = 4
    window_size: int = 14
    embed_dim: int = 128
    depths: Sequence[int] = (2, 2, 18, 2)
    num_heads: Sequence[int] = (4, 8, 16, 32)
    num_classes: int = 9083
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        if len(self.depths) != len(self.num_heads):
            raise UserError(
                f"got {len(self.depths)} depths and {len(self.num_heads)} numbers of heads, "
                "expected one each a stage; correct num_heads"
            )
        step = self.patch_size * 2 ** (len(self.depths) - 1)
        if self.image_size % step:
            raise UserError(
                f"got image_size {self.image_size}, expected a multiple of {step}: the patch's "
                "side, doubled by every further stage; change image_size"
            )
        for i, heads in enumerate(self.num_heads):
            if self.embed_dim * 2**i % heads:
                raise UserError(
                    f"got {heads} heads for the {self.embed_dim * 2**i} channels of stage {i}, "
                    "expected a divisor; change num_heads"
                )
        super().__post_init__()

    def setup(self) -> None:
        self.patch_embed = PatchEmbedding(self.embed_dim, self.patch_size, self.dtype)
        self.layers = [
            Stage(
                self.embed_dim * 2**i,
                depth,
                heads,
                self.window_size,
                merge=i > 0,
                dtype=self.dtype,
            )
            for i, (depth, heads) in enumerate(zip(self.depths, self.num_heads, strict=True))
        ]
        self.norm = LayerNorm(self.dtype)
        self.head = Head(self.num_classes, self.dtype)

    def __call__(self, images: Array) -> TaggerOutput:
        """Encode images (B, image_size, image_size, 3) of `preprocess_tagger`."""
        x = self.patch_embed(images)
        for stage in self.layers:
            x = stage(x)
        tokens = self.norm(x).reshape(x.shape[0], -1, x.shape[-1])
        return TaggerOutput(tokens, self.classify(jnp.mean(tokens, axis=1)))

    def classify(self, tokens: Array) -> Array:
        """Tag logits (..., num_classes) of tokens (..., C), pooled or one by one."""
        return self.head(tokens)

    def tokens(self, images: Array) -> Array:
        """Tokens of images (B, H, W, 3) in [-1, 1] of any size."""
        return self(preprocess_tagger(images, self.image_size)).tokens


class PatchEmbedding(nn.Module):
    """A linear map of every patch, and a norm: (B, H, W, 3) -> (B, h, w, C)."""

    features: int
    patch_size: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Array) -> Array:
        proj = Conv(
            self.features,
            self.patch_size,
            stride=self.patch_size,
            padding=(0, 0),
            dtype=self.dtype,
            name="proj",
        )
        return LayerNorm(self.dtype, name="norm")(proj(images))


class Stage(nn.Module):
    """Blocks on one grid, every second of which shifts its windows by half of their side.

    Attributes:
        channels: C.
        depth: number of blocks.
        num_heads: K.
        window_size: side of a window in tokens.
        merge: whether the stage begins by merging 2x2 tokens.
        dtype: of the products.
    """

    channels: int
    depth: int
    num_heads: int
    window_size: int
    merge: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if self.merge:
            x = PatchMerging(self.channels, self.dtype, name="downsample")(x)
        for i in range(self.depth):
            shift = 0 if i % 2 == 0 else self.window_size // 2
            x = Block(self.num_heads, self.window_size, shift, self.dtype, name=f"blocks_{i}")(x)
        return x


class PatchMerging(nn.Module):
    """(B, h, w, C/2) -> (B, h/2, w/2, C): four neighbours side by side, reduced, normed."""

    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
        # A token's four parts run down the columns first.
        x = jnp.einsum("bhpwqc->bhwqpc", x).reshape(batch, height // 2, width // 2, 4 * channels)
        x = Dense(self.channels, use_bias=False, dtype=self.dtype, name="reduction")(x)
        return LayerNorm(self.dtype, name="norm")(x)


class Block(nn.Module):
    """x += LN(window attention(x)); x += LN(MLP(x)): norms are at the end of each branch.

    Attributes:
        num_heads: K.
        window_size: side of a window; one window without a shift where the grid is not larger.
        shift: by how much the picture is rolled before it is cut into windows.
        dtype: of the products.
    """

    num_heads: int
    window_size: int
    shift: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        side = min(x.shape[1], self.window_size)
        shift = 0 if x.shape[1] <= self.window_size else self.shift
        attend = WindowAttention(self.num_heads, self.dtype, name="attn")
        padding = -x.shape[1] % side
        rolled = jnp.roll(x, (-shift, -shift), axis=(1, 2)) if shift else x
        rolled = jnp.pad(rolled, ((0, 0), (0, padding), (0, padding), (0, 0)))
        mask = seam_mask(rolled.shape[1], side, shift) if shift else None
        y = from_windows(attend(to_windows(rolled, side), mask))[:, : x.shape[1], : x.shape[2]]
        y = jnp.roll(y, (shift, shift), axis=(1, 2)) if shift else y
        x = x + LayerNorm(self.dtype, name="norm1")(y)
        return x + LayerNorm(self.dtype, name="norm2")(
            MLP(4 * x.shape[-1], self.dtype, name="mlp")(x)
        )


def to_windows(x: Array, side: int) -> Array:
    """Cut a grid (B, h, w, C) into windows (B, h/side, w/side, side^2, C)."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // side, side, width // side, side, channels)
    x = jnp.einsum("bipjqc->bijpqc", x)
    return x.reshape(batch, height // side, width // side, side * side, channels)


def from_windows(x: Array) -> Array:
    """Join windows (B, i, j, side^2, C) to a grid (B, i side, j side, C)."""
    batch, rows, columns, area, channels = x.shape
    side = math.isqrt(area)
    x = x.reshape(batch, rows, columns, side, side, channels)
    x = jnp.einsum("bijpqc->bipjqc", x)
    return x.reshape(batch, rows * side, columns * side, channels)


@lru_cache(maxsize=32)
def seam_mask(grid: int, side: int, shift: int) -> np.ndarray:
    """What to add to the logits of a rolled picture: (windows a side, the same, side^2, side^2).

    Rolling places strips from the far border next to the near one; tokens on different sides of
    such a seam must not attend to each other.
    """
    strip = np.zeros(grid, int)
    strip[-side:] = 1
    strip[-shift:] = 2
    regions = (3 * strip[:, None] + strip[None, :])[None, :, :, None]
    windows = np.asarray(regions).reshape(grid // side, side, grid // side, side)
    windows = windows.transpose(0, 2, 1, 3).reshape(grid // side, grid // side, side * side)
    differ = windows[..., :, None] != windows[..., None, :]
    return np.where(differ, MASKED, 0.0).astype(np.float32)


class WindowAttention(nn.Module):
    """Cosine attention inside windows, with a bias that an MLP computes from relative positions.

    Not `nn.attention`: its kernels take no bias for each head and pair of positions, and with at
    most a few hundred tokens a window the logits fit in memory.
    """

    num_heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, mask: np.ndarray | None) -> Array:
        """Args: x (B, i, j, N, C) windows; mask (i, j, N, N) added to every head's logits."""
        channels = x.shape[-1]
        scale = self.param(
            "logit_scale", nn.initializers.constant(math.log(10)), (self.num_heads, 1, 1)
        )
        q_bias = self.param("q_bias", nn.initializers.zeros, (channels,))
        v_bias = self.param("v_bias", nn.initializers.zeros, (channels,))
        bias = self._position_bias(math.isqrt(x.shape[-2]))

        qkv = Dense(3 * channels, use_bias=False, dtype=self.dtype, name="qkv")(x)
        q, k, v = jnp.split(qkv, 3, axis=-1)
        q, v = q + q_bias.astype(self.dtype), v + v_bias.astype(self.dtype)
        q, k, v = (y.reshape(*y.shape[:-1], self.num_heads, -1) for y in (q, k, v))
        logits = jnp.einsum(
            "bijnkd,bijmkd->bijknm",
            _unit(q),
            _unit(k),
            preferred_element_type=jnp.float32,
        )
        scale = jnp.exp(jnp.minimum(scale.astype(jnp.float32), MAX_LOG_SCALE))
        logits = logits * scale + bias
        if mask is not None:
            logits = logits + mask[:, :, None]
        weights = jax.nn.softmax(logits, axis=-1).astype(self.dtype)
        y = jnp.einsum("bijknm,bijmkd->bijnkd", weights, v).reshape(x.shape)
        return Dense(channels, dtype=self.dtype, name="proj")(y)

    def _position_bias(self, side: int) -> Array:
        """(K, N, N) float32: 16 sigmoid(MLP(log-spaced relative position))."""
        table, index = relative_positions(side)
        table = nn.relu(Dense(512, name="cpb_mlp_0")(jnp.asarray(table)))
        table = Dense(self.num_heads, use_bias=False, name="cpb_mlp_2")(table)
        return MAX_POSITION_BIAS * jnp.einsum("nmk->knm", nn.sigmoid(table)[index])


@lru_cache(maxsize=32)
def relative_positions(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Log-spaced offsets between tokens of a window, and which offset each pair of tokens has.

    Returns:
        ((2 side - 1)^2, 2) float32, about [-1, 1], and (side^2, side^2) indices into it.
    """
    offsets = np.arange(-(side - 1), side) / max(side - 1, 1) * 8
    offsets = np.sign(offsets) * np.log2(np.abs(offsets) + 1) / np.log2(8)
    table = np.stack(np.meshgrid(offsets, offsets, indexing="ij"), axis=-1).reshape(-1, 2)
    rows, columns = (axis.reshape(-1) for axis in np.mgrid[:side, :side])
    row_steps = rows[:, None] - rows[None, :] + side - 1
    column_steps = columns[:, None] - columns[None, :] + side - 1
    return table.astype(np.float32), row_steps * (2 * side - 1) + column_steps


def _unit(x: Array) -> Array:
    """Scale the last axis to length 1, in float32; matches the input's dtype."""
    x32 = x.astype(jnp.float32)
    length = jnp.sqrt(jnp.sum(jnp.square(x32), axis=-1, keepdims=True))
    return (x32 / jnp.maximum(length, 1e-12)).astype(x.dtype)


class Head(nn.Module):
    """Linear to tag logits, in float32."""

    num_classes: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        logits = Dense(self.num_classes, dtype=self.dtype, name="fc")(tokens)
        return logits.astype(jnp.float32)
