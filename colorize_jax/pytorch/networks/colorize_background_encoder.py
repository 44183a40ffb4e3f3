"""The plugin's background encoder: a UNet without cross-attention, read at its decoder's norms."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.models.embeddings import TimestepEmbedding, get_timestep_embedding
from diffusers.models.unets.unet_2d_blocks import (
    CrossAttnDownBlock2D,
    CrossAttnUpBlock2D,
    DownBlock2D,
    UNetMidBlock2DCrossAttn,
    UpBlock2D,
)
from torch import Tensor, nn

from .colorize_quantized import quantize_linears

SINUSOIDS = 4  # of the embedding: top, left, height and width of the view


class ReadAttention(AttnProcessor2_0):
    """Self-attention that notes what it reads.

    Attributes:
        block: name of the transformer block that it is in.
    """

    def __init__(self, block: str):
        super().__init__()
        self.block = block

    def __call__(self, attn, hidden_states: Tensor, *args, record: dict, **options) -> Tensor:
        """Attention as diffusers calls it; `record` gets block -> (B, N, C)."""
        record[self.block] = hidden_states
        return super().__call__(attn, hidden_states, *args, **options)


class ColorizeBackgroundEncoder(ModelMixin, ConfigMixin):
    """Turns a background into the tokens that the UNet's decoder reads outside the figure.

    Modules have the names of `UNet2DConditionModel`; the decoder ends with block
    `num_output_blocks`, and what follows its last transformer is never run.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 6,
        block_out_channels: Sequence[int] = (320, 640, 1280),
        layers_per_block: int = 2,
        transformer_layers_per_block: Sequence[int] = (0, 2, 10),
        head_dim: int = 64,
        norm_num_groups: int = 32,
        embedding_channels: int = 1024,
        num_output_blocks: int = 7,
        quantization: dict | None = None,
    ):
        super().__init__()
        channels, width = list(block_out_channels), 4 * block_out_channels[0]
        self.conv_in = nn.Conv2d(in_channels, channels[0], 3, padding=1)
        self.time_embedding = TimestepEmbedding(channels[0], width)
        self.add_embedding = TimestepEmbedding(embedding_channels, width)
        levels = range(len(channels))
        self.down_blocks = nn.ModuleList(map(self._down_block, levels))
        self.mid_block = UNetMidBlock2DCrossAttn(
            in_channels=channels[-1], **self._common(), **self._transformers(levels[-1])
        )
        self.up_blocks, left = nn.ModuleList(), num_output_blocks
        for level in reversed(levels):
            if left > 0:
                self.up_blocks.append(self._up_block(level, left))
            left -= layers_per_block + 1
        for name, module in self.named_modules():
            if name.endswith(".attn1"):
                module.set_processor(ReadAttention(name[: -len(".attn1")]))
        quantize_linears(self, quantization)

    def _common(self) -> dict[str, Any]:
        return {
            "temb_channels": 4 * self.config.block_out_channels[0],
            "resnet_eps": 1e-5,
            "resnet_act_fn": "silu",
            "resnet_groups": self.config.norm_num_groups,
        }

    def _transformers(self, level: int) -> dict[str, Any]:
        """Options of a level's transformers; none where it has none."""
        depth = self.config.transformer_layers_per_block[level]
        if not depth:
            return {}
        return {
            "transformer_layers_per_block": depth,
            "num_attention_heads": self.config.block_out_channels[level] // self.config.head_dim,
            "cross_attention_dim": None,
            "use_linear_projection": True,
        }

    def _down_block(self, level: int) -> nn.Module:
        channels, own = self.config.block_out_channels, self._transformers(level)
        return (CrossAttnDownBlock2D if own else DownBlock2D)(
            num_layers=self.config.layers_per_block,
            in_channels=channels[max(level - 1, 0)],
            out_channels=channels[level],
            add_downsample=level < len(channels) - 1,
            **self._common(),
            **own,
        )

    def _up_block(self, level: int, left: int) -> nn.Module:
        """The decoder's blocks of a level, of which at most `left` exist."""
        channels, own = self.config.block_out_channels, self._transformers(level)
        layers = self.config.layers_per_block + 1
        block = (CrossAttnUpBlock2D if own else UpBlock2D)(
            num_layers=layers,
            in_channels=channels[max(level - 1, 0)],
            prev_output_channel=channels[min(level + 1, len(channels) - 1)],
            out_channels=channels[level],
            add_upsample=level > 0,
            **self._common(),
            **own,
        )
        if left < layers:
            block.resnets, block.upsamplers = block.resnets[:left], None
            if own:
                block.attentions = block.attentions[:left]
        return block

    def forward(
        self, latents: Tensor, sketch_mask: Tensor, reference_mask: Tensor, crop: Tensor
    ) -> dict[str, Tensor]:
        """Run the encoder once a picture.

        Args:
            latents: (B, C, h, w) of the background, stretched to the picture's size.
            sketch_mask, reference_mask: (B, 1, h, w) foregrounds.
            crop: (B, 4) top, left, height and width of what is seen of the background, as shares.

        Returns:
            Transformer block of the decoder -> (B, N, C) tokens.
        """
        config, dtype = self.config, self.conv_in.weight.dtype
        x = self.conv_in(torch.cat([latents, sketch_mask, reference_mask], dim=1).to(dtype))
        zeros = latents.new_zeros(len(latents))
        emb = self.time_embedding(self._sinusoid(zeros, config.block_out_channels[0]).to(dtype))
        numbers = self._sinusoid(crop.flatten(), config.embedding_channels // SINUSOIDS)
        emb = emb + self.add_embedding(numbers.view(len(latents), -1).to(dtype))
        record: dict[str, Tensor] = {}
        reads = {"cross_attention_kwargs": {"record": record}}

        def run(block: nn.Module, x: Tensor, **inputs):
            attends = getattr(block, "has_cross_attention", False)
            return block(x, temb=emb, **inputs, **(reads if attends else {}))

        skips = (x,)
        for block in self.down_blocks:
            x, outputs = run(block, x)
            skips += outputs
        x = run(self.mid_block, x)
        for block in self.up_blocks:
            if not getattr(block, "has_cross_attention", False):
                break
            own, skips = skips[-len(block.resnets) :], skips[: -len(block.resnets)]
            size = skips[-1].shape[2:] if skips else None
            x = run(block, x, res_hidden_states_tuple=own, upsample_size=size)
        return {name: tokens for name, tokens in record.items() if name.startswith("up_blocks")}

    @staticmethod
    def _sinusoid(values: Tensor, channels: int) -> Tensor:
        return get_timestep_embedding(
            values.float(), channels, flip_sin_to_cos=True, downscale_freq_shift=0
        )
