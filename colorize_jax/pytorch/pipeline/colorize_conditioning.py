"""Everything that runs once a picture: from pictures to what the denoiser takes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .colorize_options import Options
from .colorize_pictures import (
    PAPER,
    Reference,
    Sketch,
    crop_shares,
    dilate,
    on_canvas,
    on_paper,
    open_picture,
    paint_out,
    place_mask,
    prepare_sketch,
    read_mask,
    resize_mask,
    stretch,
    to_tensor,
)


@dataclass
class Conditions:
    """What B pictures are made from.

    Attributes:
        sketches: as they lie on their canvases.
        size: (B, 2) size in px and aesthetic score.
        hints: of the sketches, finest first, scaled by their strengths.
        blank_hints: of a sheet without lines, where the sketch guides.
        context: (B, S, C) tokens of the references; None: colour without.
        mask: (B, 1, h, w) foreground of the sketches at the latents' resolution.
        banks: transformer block -> tokens of the background, for the plugin.
        foreground, kept, injected: (B, C, h, w) latents of the reference, for the controls that
            take them.
    """

    sketches: list[Sketch]
    size: Tensor
    hints: list[Tensor]
    blank_hints: list[Tensor] | None = None
    context: Tensor | None = None
    mask: Tensor | None = None
    banks: dict[str, Tensor] | None = None
    foreground: Tensor | None = None
    kept: Tensor | None = None
    injected: Tensor | None = None


class Conditioning:
    """The pipeline's part that reads pictures and encodes them."""

    def condition(
        self,
        sketch,
        reference,
        options: Options,
        sketch_mask=None,
        reference_mask=None,
        background=None,
    ) -> Conditions:
        """Read pictures and run all networks but the denoiser; arguments as in a call."""
        self._check(reference, background, options)
        references: list[Reference] = []
        if not options.unconditional:
            many = _paired(_sequence(reference), reference_mask, "reference_mask")
            references = [self._read_reference(r, m, background, options) for r, m in many]
        sketches, masks = [], []
        for one, mask in _paired(_sequence(sketch), sketch_mask, "sketch_mask"):
            picture = open_picture(one)
            size = options.size((picture.height, picture.width), self.limits)
            multiple = self.cell * 2 ** (len(self.unet.config.block_out_channels) - 1)
            sketches.append(prepare_sketch(picture, *size, options.preprocessor, multiple))
            if options.needs_sketch_mask:
                found = read_mask(mask, picture, "sketch")
                masks.append(place_mask(found, sketches[-1]))
        count = max(len(sketches), len(references))
        if not {len(sketches), len(references or sketches)} <= {1, count}:
            raise ValueError(
                f"got {len(sketches)} sketches and {len(references)} references, expected as many "
                "of both, or one of either"
            )
        if len({s.tensor.shape for s in sketches}) > 1:
            raise ValueError("got sketches whose pictures differ in size, expected one size a call")
        sketches = sketches * (count // len(sketches))
        return self._encode(sketches, masks, references, options)

    def _encode(
        self,
        sketches: list[Sketch],
        masks: list[Tensor],
        references: list[Reference],
        options: Options,
    ) -> Conditions:
        device, batch = self._execution_device, len(sketches)
        frame = sketches[0].frame
        size = torch.tensor([math.sqrt(frame.height * frame.width), options.aesthetic_score])
        tensors = torch.stack([s.tensor for s in sketches])
        conditions = Conditions(
            sketches, size.expand(batch, 2).to(device), self._hints(tensors, options)
        )
        if options.sketch_guidance > 1:
            blank = self._hints(torch.full_like(tensors[:1], PAPER), options)
            conditions.blank_hints = [hint.expand(batch, -1, -1, -1) for hint in blank]
        if masks:
            conditions.mask = _rows(self._latent_mask(torch.stack(masks)), batch)
        if not references:
            return conditions
        context = self.encode_reference([r.image for r in references])
        if options.splits_context:
            behind = self.encode_reference([r.background[0] for r in references])
            context = torch.cat([context, behind], dim=1)
        conditions.context = _rows(context, batch)
        canvas = tensors.shape[-2:]
        if options.attention_injection or options.background_latent_copy:
            images = [on_canvas(r.image, *canvas) for r in references]
            latents = _rows(self.encode(torch.stack(images)), batch)
            conditions.injected = latents if options.attention_injection else None
            conditions.kept = latents if options.background_latent_copy else None
        if options.foreground_latent:
            threshold = options.reference_mask_threshold
            images = [
                on_canvas(paint_out(r.image, r.mask, threshold, "background"), *canvas)
                for r in references
            ]
            conditions.foreground = _rows(self.encode(torch.stack(images)), batch)
        if options.background_plugin:
            conditions.banks = self._encode_background(references, conditions.mask, canvas)
        return conditions

    def encode_reference(self, images: Sequence[Tensor]) -> Tensor:
        """Context tokens (B, S, C) of references (3, h, w) in [-1, 1] of any sizes."""
        device, clip = self._execution_device, self.image_encoder
        pixels = self.feature_extractor(images).to(device, clip.dtype)
        hidden = clip(pixels).last_hidden_state
        tokens = clip.visual_projection(clip.vision_model.post_layernorm(hidden))
        pixels = self.tagger_feature_extractor(images).to(device, self.tagger.dtype)
        projection = self.reference_projection
        return projection(tokens.to(projection.dtype), self.tagger(pixels)[0])

    def encode(self, images: Tensor) -> Tensor:
        """Scaled latents (B, C, h, w) of images (B, 3, H, W) in [-1, 1]: the posterior's mean."""
        with Widened(self.vae):
            images = images.to(self._execution_device, self.vae.dtype)
            latents = self.vae.encode(images).latent_dist.mode()
        return latents.float() * self.vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W) float32 of scaled latents; not clamped."""
        latents = latents / self.vae.config.scaling_factor
        with Widened(self.vae):
            return self.vae.decode(latents.to(self.vae.dtype)).sample.float()

    def _hints(self, sketches: Tensor, options: Options) -> list[Tensor]:
        hints = self.sketch_encoder(sketches.to(self._execution_device, self.sketch_encoder.dtype))
        return [
            hint * options.sketch_strength * strength
            for hint, strength in zip(hints, options.sketch_strengths, strict=False)
        ]

    def _latent_mask(self, masks: Tensor) -> Tensor:
        """(B, H, W) -> (B, 1, h, w): every cell takes its first pixel."""
        return masks[:, None, :: self.cell, :: self.cell].to(self._execution_device)

    def _encode_background(
        self, references: list[Reference], mask: Tensor, canvas: Sequence[int]
    ) -> dict[str, Tensor]:
        images, masks = zip(*(r.background for r in references), strict=True)
        stretched = torch.stack([stretch(m[None], *canvas)[0] for m in masks])
        latents = self.encode(torch.stack([stretch(i, *canvas) for i in images]))
        shares = torch.stack([crop_shares(i, *canvas) for i in images])
        batch = len(mask)
        return self.background_encoder(
            _rows(latents, batch),
            mask,
            _rows(self._latent_mask(stretched), batch),
            _rows(shares.to(mask.device), batch),
        )

    def _read_reference(self, source, mask, background, options: Options) -> Reference:
        picture = open_picture(source)
        image = to_tensor(on_paper(picture, 255))
        if not options.needs_reference_mask:
            return Reference(image)
        found = read_mask(mask, picture, "reference")
        found = resize_mask(found, *image.shape[1:])
        if options.background_plugin:
            found = dilate(found, options.reference_mask_dilation)
        threshold = options.reference_mask_threshold
        if options.remove_foreground or options.remove_background:
            what = "foreground" if options.remove_foreground else "background"
            image = paint_out(image, found, threshold, what)
        if not options.splits_context:
            return Reference(image, found)
        behind, figure = image, found
        if background is not None:
            sheet = on_paper(open_picture(background), 255)
            behind = to_tensor(sheet)
            figure = torch.zeros(behind.shape[1:])
        if options.white_background:
            behind = torch.ones_like(behind)
        else:
            behind = paint_out(behind, figure, threshold, "foreground")
        return Reference(image, found, (behind, figure))

    def _check(self, reference, background, options: Options) -> None:
        if reference is None and not options.unconditional:
            raise ValueError(
                "got no reference, expected one; to colour without: unconditional=True"
            )
        taking = ("split_attention", "background_plugin", "foreground_latent")
        taking += ("background_latent_copy", "attention_injection")
        needing = [name for name in taking if getattr(options, name)]
        if needing and options.unconditional:
            raise ValueError(f"got {', '.join(needing)} with unconditional, expected a reference")
        if background is not None and not options.splits_context:
            raise ValueError("got a background, expected background_plugin or split_attention too")
        if options.background_plugin and self.background_encoder is None:
            raise ValueError("got background_plugin, expected a folder of the plugin model")
        if options.foreground_latent and not self.unet.config.foreground_channels:
            raise ValueError("got foreground_latent, expected a folder of the plugin model")
        labels = [label for label, _ in self.unet.config.loras]
        unknown = [label for label in options.lora_scales if label not in labels]
        if unknown:
            raise ValueError(f"got lora_scales of {unknown}, expected some of {labels}")
        if not self.unet.is_steerable():
            raise ValueError(
                "got a UNet with other attention processors, expected its own: strengths and "
                "regions are theirs; load the folder again"
            )


class Widened:
    """A context in which an autoencoder that overflows in float16 has float32."""

    def __init__(self, vae):
        self._vae = vae
        self._widens = vae.dtype == torch.float16 and vae.config.force_upcast

    def __enter__(self) -> None:
        if self._widens:
            self._vae.to(torch.float32)

    def __exit__(self, *exception: object) -> None:
        if self._widens:
            self._vae.to(torch.float16)


def _sequence(source: Any) -> list[Any]:
    return list(source) if isinstance(source, list | tuple) else [source]


def _paired(sources: list[Any], masks: Any, what: str) -> list[tuple[Any, Any]]:
    masks = [None] * len(sources) if masks is None else _sequence(masks)
    if len(masks) != len(sources):
        raise ValueError(
            f"got {len(masks)} of {what} for {len(sources)} pictures, expected one each"
        )
    return list(zip(sources, masks, strict=True))


def _rows(x: Tensor, batch: int) -> Tensor:
    """One picture's tensor for a whole batch."""
    return x.expand(batch, *x.shape[1:])
