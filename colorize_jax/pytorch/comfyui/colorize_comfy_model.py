"""The colorizer as ComfyUI's samplers, loaders of LoRAs and decoders know a model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.samplers
import comfy.supported_models_base
import torch
from diffusers import AutoencoderKL, ConfigMixin
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from .colorize_background_encoder import ColorizeBackgroundEncoder
from .colorize_conditioning import Conditioning
from .colorize_options import Limits
from .colorize_reference_processor import ColorizeReferenceProcessor
from .colorize_reference_projection import ColorizeReferenceProjection
from .colorize_scheduler import ColorizeScheduler
from .colorize_sketch_encoder import ColorizeSketchEncoder
from .colorize_tagger import ColorizeTagger
from .colorize_unet import ColorizeUNet

COND = "colorize"  # of a conditioning's dictionary


@dataclass(frozen=True)
class Steering:
    """Numbers that steer attention; conditionings of equal ones are evaluated together.

    Attributes:
        strengths: factor of every block's cross-attention.
        split: whether the context is a half of foreground and a half of background tokens.
        threshold: what the mask is compared with; None blends by the mask itself.
        foreground, background, merge: of split attention.
        lora_scales: (label, scale) of the low-rank additions.
    """

    strengths: tuple[float, ...]
    split: bool = False
    threshold: float | None = None
    foreground: float = 1.0
    background: float = 1.0
    merge: float = 0.0
    lora_scales: tuple[tuple[str, float], ...] = ()


@dataclass
class ComfyConditions:
    """What a conditioning carries beside the reference's tokens.

    Attributes:
        size: (B, 2) size in px and aesthetic score.
        hints: of the sketches, finest first.
        steering: numbers.
        mask: (B, 1, h, w) foreground of the sketches, or None.
        banks: transformer block -> tokens of the background, or None.
    """

    size: Tensor
    hints: list[Tensor]
    steering: Steering
    mask: Tensor | None = None
    banks: dict[str, Tensor] | None = None


class DenoisingUNet(ColorizeUNet):
    """The UNet with the arguments by which ComfyUI calls it; its parameters keep their names."""

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        context: Tensor,
        control: Any = None,
        transformer_options: Any = None,
        *,
        size: Tensor,
        hints: list[Tensor],
        steering: Steering,
        mask: Tensor | None = None,
        banks: list[Tensor] | None = None,
    ) -> Tensor:
        """(R, C, h, w) noisy latents and (R,) timesteps -> prediction."""
        named = None
        if banks is not None:
            blocks = [name for name in self.transformer_blocks() if name.startswith("up_blocks")]
            named = dict(zip(blocks, banks, strict=True))
        controls = self.controls(
            strengths=steering.strengths,
            mask=mask,
            threshold=steering.threshold,
            split=steering.split,
            foreground_strength=steering.foreground,
            background_strength=steering.background,
            merge=steering.merge,
            lora_scales=dict(steering.lora_scales),
            banks=named,
        )
        return super().forward(
            x,
            t,
            context,
            hints=hints,
            added_cond_kwargs={
                "time_ids": size.float(),
                "text_embeds": x.new_zeros(len(x), 0),
            },
            cross_attention_kwargs={"controls": controls},
            return_dict=False,
        )[0]


class FractionalTimesteps:
    """Levels as the colorizer was sampled with: fractional timesteps, noise scaled by sigma."""

    def timestep(self, sigma: Tensor) -> Tensor:
        """Timesteps between the trained ones, linear in log sigma."""
        logs = self.log_sigmas.to(sigma.device)
        value = sigma.log()
        high = torch.searchsorted(logs, value).clamp(1, len(logs) - 1)
        low = high - 1
        share = (value - logs[low]) / (logs[high] - logs[low])
        return (low + share).clamp(0, len(logs) - 1)

    def noise_scaling(
        self, sigma: Tensor, noise: Tensor, latent_image: Tensor, max_denoise: bool = False
    ) -> Tensor:
        """Latents at a level."""
        sigma = sigma.reshape(sigma.shape[:1] + (1,) * (noise.ndim - 1)) if sigma.ndim else sigma
        return noise * sigma + latent_image


class VSampling(
    FractionalTimesteps,
    comfy.model_sampling.ModelSamplingDiscrete,
    comfy.model_sampling.V_PREDICTION,
):
    """For models that predict velocity."""


class EpsSampling(
    FractionalTimesteps, comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS
):
    """For models that predict noise."""


class ColorizeConfig(comfy.supported_models_base.BASE):
    """The little that ComfyUI asks of a model's family."""

    latent_format = comfy.latent_formats.SDXL
    memory_usage_factor = 0.8


class ColorizeModel(comfy.model_base.BaseModel):
    """The denoiser in ComfyUI's harness."""

    def __init__(self, unet: DenoisingUNet, scheduler: ConfigMixin, scaling_factor: float):
        known = {"disable_unet_model_creation": True, "in_channels": unet.config.in_channels}
        config = ColorizeConfig(known)
        config.sampling_settings = {
            "beta_schedule": "linear",  # its name here for roots of beta that rise linearly
            "linear_start": scheduler.config.beta_start,
            "linear_end": scheduler.config.beta_end,
            "timesteps": scheduler.config.num_train_timesteps,
            "zsnr": scheduler.config.rescale_betas_zero_snr,
        }
        config.latent_format.scale_factor = scaling_factor
        kinds = comfy.model_base.ModelType
        predicts_v = scheduler.config.prediction_type == "v_prediction"
        super().__init__(config, kinds.V_PREDICTION if predicts_v else kinds.EPS)
        self.model_sampling = (VSampling if predicts_v else EpsSampling)(config)
        self.diffusion_model = unet

    def extra_conds(self, **given) -> dict[str, Any]:
        """What a conditioning gives the denoiser."""
        found: ComfyConditions | None = given.get(COND)
        if found is None:
            raise ValueError(
                "got a conditioning of another model, expected one of the node Colorize Condition"
            )
        conds = super().extra_conds(**given)
        conds["size"] = comfy.conds.CONDRegular(found.size)
        conds["hints"] = comfy.conds.CONDList(found.hints)
        conds["steering"] = comfy.conds.CONDConstant(found.steering)
        if found.mask is not None:
            conds["mask"] = comfy.conds.CONDRegular(found.mask)
        if found.banks is not None:
            conds["banks"] = comfy.conds.CONDList(list(found.banks.values()))
        return conds


class Guider(comfy.samplers.CFGGuider):
    """Guidance by the reference, by the sketch, or the mean of both.

    Attributes:
        scales: conditioning without a guide -> that guide's scale, off at 1 or less.
    """

    scales: dict[str, float]

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: Any = None, seed: int | None = None
    ) -> Tensor:
        """Clean latents at a level, as ComfyUI's samplers ask for them."""
        guides = [name for name, scale in self.scales.items() if scale > 1]
        conds = [self.conds[name] for name in ("positive", *guides)]
        full, *others = comfy.samplers.calc_cond_batch(
            self.inner_model, conds, x, timestep, model_options or {}
        )
        push = torch.zeros_like(full)
        for name, other in zip(guides, others, strict=True):
            push += (self.scales[name] - 1) * (full - other)
        return full + push / max(len(guides), 1)


class Encoders(Conditioning):
    """All networks but the denoiser; they are on the device while they work.

    Attributes:
        folder: of the model.
        background_encoder: of the plugin, or None.
    """

    def __init__(self, folder: Path, index: dict[str, Any], unet: ColorizeUNet, dtype: torch.dtype):
        def load(kind: Any, name: str) -> Any:
            return kind.from_pretrained(folder / name, torch_dtype=dtype).eval()

        self.folder, self.unet = folder, unet
        self.vae = load(AutoencoderKL, "vae")
        self.sketch_encoder = load(ColorizeSketchEncoder, "sketch_encoder")
        self.reference_projection = load(ColorizeReferenceProjection, "reference_projection")
        self.image_encoder = load(CLIPVisionModelWithProjection, "image_encoder")
        self.tagger = load(ColorizeTagger, "tagger")
        self.background_encoder = None
        if (folder / "background_encoder").is_dir():
            self.background_encoder = load(ColorizeBackgroundEncoder, "background_encoder")
        processor = ColorizeReferenceProcessor
        self.feature_extractor = processor.from_pretrained(folder / "feature_extractor")
        self.tagger_feature_extractor = processor.from_pretrained(
            folder / "tagger_feature_extractor"
        )
        names = ("default_size", "minimum_size", "size_multiple", "autofit_multiple")
        self.limits = Limits(*(index[name] for name in names))
        self.cell = 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def _execution_device(self) -> torch.device:
        return comfy.model_management.get_torch_device()

    def to(self, device: torch.device) -> None:
        """Move the networks."""
        for module in (
            self.vae,
            self.sketch_encoder,
            self.reference_projection,
            self.image_encoder,
            self.tagger,
            self.background_encoder,
        ):
            if module is not None:
                module.to(device)


class ComfyVae:
    """The autoencoder with the methods of ComfyUI's: pictures are (B, H, W, 3) in [0, 1]."""

    def __init__(self, encoders: Encoders):
        self._encoders = encoders
        self.latent_channels = encoders.vae.config.latent_channels

    @torch.no_grad()
    def decode(self, samples: Tensor, *args, **options) -> Tensor:
        """Unscaled latents (B, C, h, w) -> pictures."""
        encoders = self._encoders
        encoders.vae.to(encoders._execution_device)
        factor = encoders.vae.config.scaling_factor
        images = encoders.decode(samples.to(encoders._execution_device) * factor)
        return (images / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu()

    def decode_tiled(self, samples: Tensor, *args, **options) -> Tensor:
        """The same in tiles."""
        self._encoders.vae.enable_tiling()
        try:
            return self.decode(samples)
        finally:
            self._encoders.vae.disable_tiling()

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Pictures -> unscaled latents."""
        encoders = self._encoders
        encoders.vae.to(encoders._execution_device)
        images = pixels[..., :3].permute(0, 3, 1, 2) * 2 - 1
        return encoders.encode(images).cpu() / encoders.vae.config.scaling_factor

    def spacial_compression_decode(self) -> int:
        """Pixels on a latent's side."""
        return self._encoders.cell

    def temporal_compression_decode(self) -> None:
        """None: pictures have no time."""


def load_model(
    folder: Path, index: dict[str, Any], dtype: torch.dtype
) -> tuple[comfy.model_patcher.ModelPatcher, Encoders, ComfyVae]:
    """Load a pipeline folder: a model that is ready for samplers, encoders, the autoencoder."""
    unet = DenoisingUNet.from_pretrained(folder / "unet", torch_dtype=dtype).eval()
    unet.requires_grad_(False)
    scheduler = ColorizeScheduler.from_pretrained(folder / "scheduler")
    encoders = Encoders(folder, index, unet, dtype)
    factor = encoders.vae.config.scaling_factor
    management = comfy.model_management
    patcher = comfy.model_patcher.ModelPatcher(
        ColorizeModel(unet, scheduler, factor),
        load_device=management.get_torch_device(),
        offload_device=management.unet_offload_device(),
    )
    return patcher, encoders, ComfyVae(encoders)
