"""The WD tagger: a Swin Transformer V2 (Liu et al. 2022) trained to tag illustrations.

Modules have the names of timm's `swin_transformer_v2`, whose weights load as they are.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from .colorize_quantized import quantize_linears

MAX_LOG_SCALE = math.log(100.0)  # of the cosine attention's logits
MAX_POSITION_BIAS = 16.0
MASKED = -100.0  # added to logits across the seams of a shifted picture


class ColorizeTagger(ModelMixin, ConfigMixin):
    """The tagger; wd-v1-4-swinv2-tagger-v2 by default."""

    @register_to_config
    def __init__(
        self,
        image_size: int = 448,
        patch_size: int = 4,
        window_size: int = 14,
        embed_dim: int = 128,
        depths: Sequence[int] = (2, 2, 18, 2),
        num_heads: Sequence[int] = (4, 8, 16, 32),
        num_classes: int = 9083,
        quantization: dict | None = None,
    ):
        super().__init__()
        self.patch_embed = nn.ModuleDict(
            {
                "proj": nn.Conv2d(3, embed_dim, patch_size, patch_size),
                "norm": nn.LayerNorm(embed_dim),
            }
        )
        self.layers = nn.ModuleList(
            Stage(embed_dim * 2**i, depth, heads, window_size, merge=i > 0)
            for i, (depth, heads) in enumerate(zip(depths, num_heads, strict=True))
        )
        channels = embed_dim * 2 ** (len(depths) - 1)
        self.norm = nn.LayerNorm(channels)
        self.head = nn.ModuleDict({"fc": nn.Linear(channels, num_classes)})
        quantize_linears(self, quantization)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Encode pictures.

        Args:
            images: (B, 3, image_size, image_size) in [-1, 1], channels in the order BGR.

        Returns:
            Tokens (B, S, C) of a row-major grid, and logits (B, num_classes) of the tags.
        """
        proj, norm = self.patch_embed["proj"], self.patch_embed["norm"]
        x = norm(proj(images.to(proj.weight.dtype)).permute(0, 2, 3, 1))
        for stage in self.layers:
            x = stage(x)
        tokens = self.norm(x).flatten(1, 2)
        return tokens, self.head["fc"](tokens.mean(1)).float()


class Stage(nn.Module):
    """Blocks on one grid, every second of which shifts its windows by half of their side."""

    def __init__(self, channels: int, depth: int, heads: int, window: int, *, merge: bool):
        super().__init__()
        self.downsample = PatchMerging(channels) if merge else nn.Identity()
        self.blocks = nn.ModuleList(
            Block(channels, heads, window, window // 2 if i % 2 else 0) for i in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C') -> (B, h', w', C)."""
        x = self.downsample(x)
        for block in self.blocks:
            x = block(x)
        return x


class PatchMerging(nn.Module):
    """(B, h, w, C/2) -> (B, h/2, w/2, C): four neighbours side by side, reduced, normed."""

    def __init__(self, channels: int):
        super().__init__()
        self.reduction = nn.Linear(2 * channels, channels, bias=False)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        batch, height, width, channels = x.shape
        x = x.view(batch, height // 2, 2, width // 2, 2, channels)
        # A token's four parts run down the columns first.
        x = x.permute(0, 1, 3, 4, 2, 5).reshape(batch, height // 2, width // 2, 4 * channels)
        return self.norm(self.reduction(x))


class Block(nn.Module):
    """x += LN(window attention(x)); x += LN(MLP(x)): norms are at the end of each branch."""

    def __init__(self, channels: int, heads: int, window: int, shift: int):
        super().__init__()
        self.window, self.shift = window, shift
        self.attn = WindowAttention(channels, heads)
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(channels, 4 * channels), "fc2": nn.Linear(4 * channels, channels)}
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) -> (B, h, w, C)."""
        height, width = x.shape[1:3]
        # A grid that is not larger than a window is one window, without a shift.
        side = min(height, self.window)
        shift = 0 if height <= self.window else self.shift
        y = torch.roll(x, (-shift, -shift), (1, 2)) if shift else x
        padding = -height % side
        y = F.pad(y, (0, 0, 0, padding, 0, padding))
        mask = seam_mask(y.shape[1], side, shift).to(x.device) if shift else None
        y = from_windows(self.attn(to_windows(y, side), mask), y.shape)[:, :height, :width]
        y = torch.roll(y, (shift, shift), (1, 2)) if shift else y
        x = x + self.norm1(y)
        return x + self.norm2(self.mlp["fc2"](F.gelu(self.mlp["fc1"](x))))


def to_windows(x: Tensor, side: int) -> Tensor:
    """Cut a grid (B, h, w, C) into windows (B, windows, side^2, C), row-major."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // side, side, width // side, side, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(batch, -1, side * side, channels)


def from_windows(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Join windows to a grid of the given shape (B, h, w, C)."""
    batch, height, width, channels = shape
    side = math.isqrt(x.shape[2])
    x = x.view(batch, height // side, width // side, side, side, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(batch, height, width, channels)


def seam_mask(grid: int, side: int, shift: int) -> Tensor:
    """What to add to the logits of a rolled picture: (windows, side^2, side^2).

    Rolling places strips from the far border next to the near one; tokens on different sides of
    such a seam must not attend to each other.
    """
    strip = torch.zeros(grid, dtype=torch.long)
    strip[-side:] = 1
    strip[-shift:] = 2
    regions = (3 * strip[:, None] + strip[None, :])[None, :, :, None]
    windows = to_windows(regions, side)[0, :, :, 0]
    return MASKED * (windows[:, :, None] != windows[:, None, :]).float()


class WindowAttention(nn.Module):
    """Cosine attention inside windows, with a bias that an MLP computes from relative positions."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.logit_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(10.0)))
        self.q_bias = nn.Parameter(torch.zeros(channels))
        self.v_bias = nn.Parameter(torch.zeros(channels))
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.cpb_mlp = nn.Sequential(
            nn.Linear(2, 512), nn.ReLU(), nn.Linear(512, heads, bias=False)
        )
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Windows (B, W, N, C), mask (W, N, N) or None -> (B, W, N, C)."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q, v = q + self.q_bias, v + self.v_bias
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(2, 3) for y in (q, k, v))
        q, k = (F.normalize(y.float(), dim=-1).to(x.dtype) for y in (q, k))
        scale = self.logit_scale.float().clamp(max=MAX_LOG_SCALE).exp()
        logits = (q @ k.transpose(-1, -2)).float() * scale
        logits = logits + self._position_bias(math.isqrt(x.shape[2]))
        if mask is not None:
            logits = logits + mask[:, None]
        y = logits.softmax(-1).to(x.dtype) @ v
        return self.proj(y.transpose(2, 3).flatten(3))

    def _position_bias(self, side: int) -> Tensor:
        """(heads, N, N): 16 sigmoid(MLP(log-spaced relative position))."""
        offsets = torch.arange(-(side - 1), side, dtype=torch.float64) / max(side - 1, 1) * 8
        offsets = offsets.sign() * torch.log2(offsets.abs() + 1) / 3  # log2(8)
        table = torch.stack(torch.meshgrid(offsets, offsets, indexing="ij"), -1).flatten(0, 1)
        weight = self.cpb_mlp[0].weight
        table = self.cpb_mlp(table.float().to(weight.device, weight.dtype)).float()
        places = torch.arange(side)
        rows, columns = (axis.flatten() for axis in torch.meshgrid(places, places, indexing="ij"))
        row_steps = rows[:, None] - rows[None, :] + side - 1
        column_steps = columns[:, None] - columns[None, :] + side - 1
        index = (row_steps * (2 * side - 1) + column_steps).to(weight.device)
        return MAX_POSITION_BIAS * table.sigmoid()[index].permute(2, 0, 1)
