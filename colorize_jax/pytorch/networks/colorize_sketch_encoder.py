"""Sketch -> hints: a convolutional pyramid with scale-causal attention between its levels."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from .colorize_quantized import quantize_linears


class ColorizeSketchEncoder(ModelMixin, ConfigMixin):
    """A stem of convolutions, further levels, and one attention layer over the tokens of all.

    Tokens are ordered coarse to fine after one global token: a level attends to itself and all
    coarser levels, which are a prefix of that order.
    """

    @register_to_config
    def __init__(
        self,
        model_channels: int = 320,
        channel_mult: Sequence[int] = (1, 2, 4),
        head_dim: int = 128,
        strides: Sequence[int] = (2, 2, 2),
        stem_channels: Sequence[int] = (16, 16, 32, 32, 96, 96, 256),
        color_hints: bool = False,
        quantization: dict | None = None,
    ):
        super().__init__()
        s = list(strides)
        layers: list[nn.Module] = []
        before = 3
        for channels, stride in zip(stem_channels, (1, 1, s[0], 1, s[1], 1, s[2]), strict=True):
            layers += [nn.Conv2d(before, channels, 3, stride, 1), nn.SiLU()]
            before = channels
        self.model = nn.Sequential(*layers, nn.Conv2d(before, model_channels, 3, 1, 1))
        widths = [model_channels, *(mult * model_channels for mult in channel_mult)]
        last = len(channel_mult) - 1
        self.downsample_layers = nn.ModuleList(
            nn.Sequential(
                nn.SiLU(), nn.Conv2d(widths[i], widths[i + 1], 3, 1 if i == last else 2, 1)
            )
            for i in range(last + 1)
        )
        if color_hints:
            kernel = nn.Conv2d(4, stem_channels[0], 3, 1, 1, bias=False)
            nn.init.zeros_(kernel.weight)
            self.color_hints = kernel
        width = widths[-1]
        self.proj_ins = nn.ModuleList(nn.Conv2d(c, width, 1) for c in [*widths, width])
        self.proj_outs = nn.ModuleList(nn.Conv2d(width, c, 1) for c in widths)
        self.attn_layer = ScaleCausalAttention(width, head_dim)
        quantize_linears(self, quantization)

    def forward(self, sketch: Tensor, color_hints: Tensor | None = None) -> tuple[Tensor, ...]:
        """Encode a sketch.

        Args:
            sketch: (B, 3, H, W) in [-1, 1], line = +1, paper = -1.
            color_hints: (B, 4, H, W) colours in [-1, 1] times the mask, and the mask, 0..1, of the
                places that are hinted at, for a network with `color_hints`.

        Returns:
            Hints, finest first, each (B, C_i, h_i, w_i).
        """
        first, dtype = self.model[0], self.model[0].weight.dtype
        x = first(sketch.to(dtype))
        if color_hints is not None:
            # As an attribute, diffusers gives the option of this name.
            x = x + self._modules["color_hints"](color_hints.to(dtype))
        levels = [self.model[1:](x)]
        for layer in self.downsample_layers:
            levels.append(layer(levels[-1]))
        mean = levels[-1].float().mean((2, 3), keepdim=True).to(levels[-1].dtype)
        maps = [proj(x) for proj, x in zip(self.proj_ins, [*levels, mean], strict=True)]
        attended = self.attn_layer(maps[:-1], maps[-1])
        return tuple(proj(x) for proj, x in zip(self.proj_outs, attended, strict=True))


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, in float32."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-6)
        return (y * self.weight.float()).to(x.dtype)


class ScaleCausalAttention(nn.Module):
    """Attention in which a level sees itself and every coarser level, with a residual."""

    def __init__(self, channels: int, head_dim: int):
        super().__init__()
        self.head_dim = head_dim
        self.to_q, self.to_k, self.to_v = (
            nn.Linear(channels, channels, bias=False) for _ in range(3)
        )
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])
        self.q_norm, self.k_norm = RMSNorm(channels), RMSNorm(channels)

    def forward(self, levels: Sequence[Tensor], everywhere: Tensor) -> list[Tensor]:
        """Maps (B, C, h_i, w_i), finest first, and the global token (B, C, 1, 1) -> such maps."""
        maps = [everywhere, *reversed(levels)]
        tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1)
        positions = [torch.zeros(1, self.head_dim // 2), *map(self._angles, maps[1:])]
        angles = torch.cat(positions).to(tokens.device)

        def heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

        q = rotate(heads(self.q_norm(self.to_q(tokens))), angles)
        k = rotate(heads(self.k_norm(self.to_k(tokens))), angles)
        v = heads(self.to_v(tokens))
        results, start = [], 1
        for x in maps[1:]:
            end = start + x.shape[2] * x.shape[3]
            own = F.scaled_dot_product_attention(q[:, :, start:end], k[:, :, :end], v[:, :, :end])
            own = self.to_out[0](own.transpose(1, 2).flatten(2))
            results.append(x + own.transpose(1, 2).reshape(x.shape))
            start = end
        return results[::-1]

    def _angles(self, level: Tensor) -> Tensor:
        """(h w, D/2) rotary angles of a map's positions: half of them by row, half by column."""
        height, width = level.shape[2:]
        quarter = self.head_dim // 4
        frequencies = torch.exp(
            -math.log(10_000.0) * torch.arange(quarter, dtype=torch.float64) / quarter
        )
        rows = torch.arange(height, dtype=torch.float64)[:, None, None] * frequencies
        columns = torch.arange(width, dtype=torch.float64)[None, :, None] * frequencies
        shape = (height, width, quarter)
        return torch.cat([rows.expand(shape), columns.expand(shape)], -1).flatten(0, 1).float()


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn adjacent channel pairs (B, K, N, D), as complex numbers, by angles (N, D/2)."""
    real, imaginary = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = angles.cos(), angles.sin()
    turned = torch.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], dim=-1)
    return turned.flatten(-2).to(x.dtype)
