"""SDXL's UNet of diffusers with the sketch's hints, and attention that can be steered.

`ColorizeUNet` is `UNet2DConditionModel`: its modules, names and options. What it adds is in the
arguments of a forward, `hints`, `foreground` and the controls of attention, and in the parameters
that a plugin brings along. Without these arguments it is the plain UNet.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor, nn

from .colorize_quantized import quantize_linears

# What a mask is compared with where self-attention reads a background's tokens.
BANK_THRESHOLD = 0.05


@dataclass(frozen=True)
class Controls:
    """What steers the attention of one forward, made by `ColorizeUNet.controls`.

    Masks and factors are stored by the number N of queries that they belong to, which tells the
    levels of the UNet apart. R is the number of rows of the forward, B that of pictures.

    Attributes:
        strengths: factor of every block's cross-attention, in order of execution.
        shares: N -> (2, R, N, 1) factors of the answers of the context's halves.
        lora_scales: label -> scale of low-rank additions, 1 where a label is not named.
        banks: block -> (B, M, C) tokens of a background, read by queries outside the mask.
        inside: N -> (R, 1, N, 1), whether a query is inside the mask.
        injected: block -> (B, M, C) tokens that all queries read beside their own.
        plain_shares: (R,) share of the attention without injected tokens.
        record: a dictionary that gets block -> (R, N, C), what self-attention reads.
    """

    strengths: tuple[float, ...] | None = None
    shares: Mapping[int, Tensor] | None = None
    lora_scales: Mapping[str, float] | None = None
    banks: Mapping[str, Tensor] | None = None
    inside: Mapping[int, Tensor] | None = None
    injected: Mapping[str, Tensor] | None = None
    plain_shares: Tensor | None = None
    record: dict[str, Tensor] | None = None

    def with_injected(self, tokens: Mapping[str, Tensor], plain_shares: Tensor) -> "Controls":
        """These controls with tokens that all queries read; see the attributes."""
        return replace(self, injected=tokens, plain_shares=plain_shares)


class LowRank(nn.Module):
    """A low-rank addition to a linear map: up(down(x))."""

    def __init__(self, rank: int, in_features: int, out_features: int):
        super().__init__()
        self.down = nn.Linear(in_features, rank, bias=False)
        self.up = nn.Linear(rank, out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        return self.up(self.down(x))


class SteeredAttention(nn.Module):
    """An attention processor of diffusers that obeys `Controls`.

    Attributes:
        block: name of the transformer block that it is in.
        index: that block's number in order of execution.
    """

    def __init__(self, block: str, index: int):
        super().__init__()
        self.block, self.index = block, index
        self.loras = nn.ModuleDict()  # label -> to_q, to_k, to_v

    def add_lora(self, attn: nn.Module, label: str, rank: int) -> None:
        """Add low-rank additions to queries, keys and values."""
        sizes = {name: getattr(attn, name) for name in ("to_q", "to_k", "to_v")}
        self.loras[label] = nn.ModuleDict(
            {
                n: LowRank(rank, linear.in_features, linear.out_features)
                for n, linear in sizes.items()
            }
        )

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        controls: Controls | None = None,
    ) -> Tensor:
        """Attention as diffusers calls it, (R, N, C) -> (R, N, C)."""
        return self.forward(attn, hidden_states, encoder_hidden_states, attention_mask, controls)

    def forward(
        self,
        attn: nn.Module,
        x: Tensor,
        context: Tensor | None,
        attention_mask: Tensor | None,
        controls: Controls | None,
    ) -> Tensor:
        """As `__call__`, without the argument that is not used."""
        controls = controls or Controls()
        if attention_mask is not None:
            attention_mask = attn.prepare_attention_mask(
                attention_mask, (x if context is None else context).shape[1], len(x)
            ).view(len(x), attn.heads, -1, attention_mask.shape[-1])
        if context is None:
            heads = self._attend_self(attn, x, attention_mask, controls)
        else:
            heads = self._attend_context(attn, x, context, attention_mask, controls)
        y = attn.to_out[1](attn.to_out[0](heads.transpose(1, 2).flatten(2)))
        return y / attn.rescale_output_factor

    def _project(self, attn: nn.Module, name: str, x: Tensor, controls: Controls) -> Tensor:
        """(R, N, C') -> (R, heads, N, D)."""
        y = getattr(attn, name)(x)
        for label, lora in self.loras.items():
            scale = (controls.lora_scales or {}).get(label, 1.0)
            if scale:
                y = y + scale * lora[name](x)
        return y.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

    def _keys_values(self, attn: nn.Module, x: Tensor, controls: Controls) -> tuple[Tensor, Tensor]:
        return tuple(self._project(attn, name, x, controls) for name in ("to_k", "to_v"))

    def _attend_self(
        self, attn: nn.Module, x: Tensor, mask: Tensor | None, controls: Controls
    ) -> Tensor:
        if controls.record is not None:
            controls.record[self.block] = x
        q = self._project(attn, "to_q", x, controls)
        k, v = self._keys_values(attn, x, controls)
        bank = (controls.banks or {}).get(self.block)
        injected = (controls.injected or {}).get(self.block)
        if bank is None and injected is None:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        own = F.scaled_dot_product_attention(q, k, v)
        foreign = self._keys_values(attn, (bank if bank is not None else injected), controls)
        foreign_k, foreign_v = (y.repeat(len(x) // len(y), 1, 1, 1) for y in foreign)
        if bank is not None:
            outside = F.scaled_dot_product_attention(q, foreign_k, foreign_v)
            return torch.where(controls.inside[x.shape[1]], own, outside)
        both = F.scaled_dot_product_attention(
            q, torch.cat([k, foreign_k], dim=2), torch.cat([v, foreign_v], dim=2)
        )
        share = controls.plain_shares.to(both.dtype)[:, None, None, None]
        return share * own + (1 - share) * both

    def _attend_context(
        self,
        attn: nn.Module,
        x: Tensor,
        context: Tensor,
        mask: Tensor | None,
        controls: Controls,
    ) -> Tensor:
        q = self._project(attn, "to_q", x, controls)
        k, v = self._keys_values(attn, context, controls)
        if controls.shares is None:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        else:
            shares = controls.shares[x.shape[1]][:, :, None].to(q.dtype)
            halves = zip(shares, k.chunk(2, dim=2), v.chunk(2, dim=2), strict=True)
            y = sum(share * F.scaled_dot_product_attention(q, k, v) for share, k, v in halves)
        return y if controls.strengths is None else y * controls.strengths[self.index]


class ColorizeUNet(UNet2DConditionModel):
    """The denoiser; see the module.

    Beside the options of `UNet2DConditionModel`:
        loras: (label, rank) of the low-rank additions of every cross-attention.
        foreground_channels: channels of the latent that `conv_fg` takes; 0: there is none.
        quantization: how the weights of linear layers are stored, see `quantize_linears`.
    """

    def __init__(
        self,
        *args,
        loras: Sequence[tuple[str, int]] = (),
        foreground_channels: int = 0,
        quantization: dict | None = None,
        **options,
    ):
        super().__init__(*args, **options)
        self.register_to_config(
            loras=[list(lora) for lora in loras],
            foreground_channels=foreground_channels,
            quantization=quantization,
        )
        if foreground_channels:
            self.conv_fg = nn.Conv2d(
                foreground_channels, self.config.block_out_channels[0], 3, padding=1
            )
            nn.init.zeros_(self.conv_fg.weight)
            nn.init.zeros_(self.conv_fg.bias)
        for index, block in enumerate(self.transformer_blocks()):
            for name in ("attn1", "attn2"):
                attn = getattr(self.get_submodule(block), name)
                attn.set_processor(SteeredAttention(block, index))
                for label, rank in loras if name == "attn2" else ():
                    attn.processor.add_lora(attn, label, rank)
        quantize_linears(self, quantization)

    def transformer_blocks(self) -> list[str]:
        """Names of all transformer blocks in order of execution."""
        found = [
            name[: -len(".attn2")] for name, _ in self.named_modules() if name.endswith(".attn2")
        ]
        order = ("down_blocks", "mid_block", "up_blocks")
        return sorted(found, key=lambda name: order.index(name.split(".")[0]))

    def block_levels(self) -> list[str]:
        """Level of every transformer block, as the option `level_strengths` counts them.

        "bottom" is the middle of the UNet, "low" its deepest level on either side, "high" the rest.
        """
        deepest = (f"down_blocks.{len(self.down_blocks) - 1}.", "up_blocks.0.")

        def level(block: str) -> str:
            if block.startswith("mid_block"):
                return "bottom"
            return "low" if block.startswith(deepest) else "high"

        return [level(block) for block in self.transformer_blocks()]

    def is_steerable(self) -> bool:
        """Whether all attention processors are those that obey `Controls`."""
        return all(
            type(p).__name__ == SteeredAttention.__name__ for p in self.attn_processors.values()
        )

    def controls(
        self,
        *,
        strengths: Sequence[float] | None = None,
        mask: Tensor | None = None,
        threshold: float | None = None,
        split: bool = False,
        foreground_strength: float = 1.0,
        background_strength: float = 1.0,
        merge: float = 0.0,
        lora_scales: Mapping[str, float] | None = None,
        banks: Mapping[str, Tensor] | None = None,
        record: dict[str, Tensor] | None = None,
    ) -> Controls:
        """Make the controls of a forward.

        Args:
            strengths: factor of cross-attention, one for each transformer block.
            mask: (R, 1, h, w) foreground at the latents' resolution, for `split` and `banks`.
            threshold: what the mask is compared with; None blends by the mask itself, as a UNet
                with low-rank additions was trained to.
            split: whether the context is a half of foreground and a half of background tokens.
            foreground_strength, background_strength: factors of the halves' answers.
            merge: share of the background's answer in the foreground.
            lora_scales, banks, record: see `Controls`.
        """
        shares, inside = None, None
        if mask is not None:
            masks = self._masks(mask.float())
            inside = {n: (m > BANK_THRESHOLD)[:, None] for n, m in masks.items()}
        if split:
            shares = {}
            for n, m in masks.items():
                if threshold is not None:
                    # The two rules differ in who owns a query exactly at the threshold.
                    m = (m >= threshold if merge > 0 else m > threshold).float()
                own = m * (1 - merge)
                shares[n] = torch.stack(
                    [own * foreground_strength, (1 - own) * background_strength]
                )
        return Controls(
            None if strengths is None else tuple(strengths),
            shares,
            lora_scales,
            banks,
            inside,
            record=record,
        )

    def _masks(self, mask: Tensor) -> dict[int, Tensor]:
        """Number of queries -> (R, N, 1) mask, of every level that has transformers."""
        found = {}
        for level in range(len(self.down_blocks)):
            size = tuple(-(-side // 2**level) for side in mask.shape[-2:])
            resized = F.interpolate(mask, size, mode="bicubic", align_corners=False)
            found[size[0] * size[1]] = resized.flatten(2).transpose(1, 2)
        return found

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        encoder_hidden_states: Tensor,
        *args,
        hints: Sequence[Tensor] | None = None,
        foreground: Tensor | None = None,
        added_cond_kwargs: Mapping[str, Tensor] | None = None,
        cross_attention_kwargs: Mapping | None = None,
        return_dict: bool = True,
        **options,
    ):
        """The UNet's forward; positional and further arguments are those of `UNet2DConditionModel`.

        Args:
            sample: (R, C, h, w) noisy latents.
            timestep: (), (R,): 0..999, may be fractional.
            encoder_hidden_states: (R, S, C) tokens of the reference; all zero: no reference.
            hints: features of the sketch, finest first: added to the first convolution's output
                and to that of every level of the encoder.
            foreground: (R, C, h, w) latent that `conv_fg` adds after the first convolution.
            added_cond_kwargs: "time_ids" (R, 2): size in px and aesthetic score; "text_embeds": no
                channels, (R, 0).
            cross_attention_kwargs: {"controls": of `controls`}.
        """
        if hints is None and foreground is None:
            return super().forward(
                sample,
                timestep,
                encoder_hidden_states,
                *args,
                added_cond_kwargs=added_cond_kwargs,
                cross_attention_kwargs=cross_attention_kwargs,
                return_dict=return_dict,
                **options,
            )
        if args or any(value is not None for value in options.values()):
            raise ValueError(
                "got hints or a foreground with further arguments of UNet2DConditionModel, "
                "expected timestep, encoder_hidden_states, added_cond_kwargs and "
                "cross_attention_kwargs alone; leave the others out"
            )
        emb = self.time_embedding(self.get_time_embed(sample, timestep))
        emb = emb + self.get_aug_embed(emb, encoder_hidden_states, added_cond_kwargs)
        x = self.conv_in(sample)
        if foreground is not None:
            x = x + self.conv_fg(foreground)
        across = {
            "encoder_hidden_states": encoder_hidden_states,
            "cross_attention_kwargs": cross_attention_kwargs,
        }
        x = self._run_blocks(x, emb, hints, across)
        x = self.conv_out(self.conv_act(self.conv_norm_out(x)))
        return UNet2DConditionOutput(sample=x) if return_dict else (x,)

    def _run_blocks(
        self,
        x: Tensor,
        emb: Tensor,
        hints: Sequence[Tensor] | None,
        across: Mapping,
    ) -> Tensor:
        """Encoder, middle and decoder; `across` goes to blocks with cross-attention."""

        def run(block: nn.Module, x: Tensor, **inputs):
            crosses = across if getattr(block, "has_cross_attention", False) else {}
            return block(x, temb=emb, **inputs, **crosses)

        x = self._with_hint(x, hints, 0)
        skips = (x,)
        for level, block in enumerate(self.down_blocks):
            x, outputs = run(block, x)
            x = self._with_hint(x, hints, level + 1)
            skips += (*outputs[:-1], x)
        x = run(self.mid_block, x)
        for level, block in enumerate(self.up_blocks):
            own, skips = skips[-len(block.resnets) :], skips[: -len(block.resnets)]
            last = level == len(self.up_blocks) - 1
            size = None if last else skips[-1].shape[2:]
            x = run(block, x, res_hidden_states_tuple=own, upsample_size=size)
        return x

    def _with_hint(self, x: Tensor, hints: Sequence[Tensor] | None, index: int) -> Tensor:
        if hints is None:
            return x
        if hints[index].shape[1:] != x.shape[1:]:
            raise ValueError(
                f"got a hint of {tuple(hints[index].shape[1:])} for level {index}, expected "
                f"{tuple(x.shape[1:])}; give latents of the sketch's size over the autoencoder's"
            )
        return x + hints[index].to(x.dtype)


def _with_options_of(parent: type, child: type) -> inspect.Signature:
    """The signature of a child's `__init__` with its parent's options, for configs from files."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    own = [p for p in inspect.signature(child.__init__).parameters.values() if p.kind == keyword]
    theirs = list(inspect.signature(parent.__init__).parameters.values())
    return inspect.Signature(theirs + own)


ColorizeUNet.__init__.__signature__ = _with_options_of(UNet2DConditionModel, ColorizeUNet)
