"""CLIP and tagger tokens of a reference -> the context that the UNet attends to."""

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from .colorize_quantized import quantize_linears


class ColorizeReferenceProjection(ModelMixin, ConfigMixin):
    """Self-attention over CLIP's tokens, then both encoders' tokens side by side, projected."""

    @register_to_config
    def __init__(
        self,
        num_tokens: int = 196,
        context_channels: int = 2048,
        head_dim: int = 128,
        clip_channels: int = 1280,
        tagger_channels: int = 1024,
        quantization: dict | None = None,
    ):
        super().__init__()
        self.attn = Attention(clip_channels, head_dim)
        self.norm = nn.LayerNorm(clip_channels)
        self.proj = nn.Sequential(
            nn.Linear(clip_channels + tagger_channels, context_channels),
            nn.SiLU(),
            nn.Linear(context_channels, context_channels),
            nn.LayerNorm(context_channels),
        )
        quantize_linears(self, quantization)

    def forward(self, clip_tokens: Tensor, tagger_tokens: Tensor) -> Tensor:
        """Project.

        Args:
            clip_tokens: (B, S1, C1), S1 at least `num_tokens`, class token first.
            tagger_tokens: (B, num_tokens, C2).

        Returns:
            (B, num_tokens, context_channels).
        """
        clip = self.norm(self.attn(clip_tokens)[:, : self.config.num_tokens])
        return self.proj(torch.cat([clip, tagger_tokens.to(clip.dtype)], dim=-1))


class Attention(nn.Module):
    """Self-attention without a residual."""

    def __init__(self, channels: int, head_dim: int):
        super().__init__()
        self.head_dim = head_dim
        self.to_q, self.to_k, self.to_v = (
            nn.Linear(channels, channels, bias=False) for _ in range(3)
        )
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        q, k, v = (
            linear(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for linear in (self.to_q, self.to_k, self.to_v)
        )
        y = F.scaled_dot_product_attention(q, k, v)
        return self.to_out[0](y.transpose(1, 2).flatten(2))
