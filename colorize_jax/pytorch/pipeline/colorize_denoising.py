"""The sampling loop and the guided denoiser."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from .colorize_conditioning import Conditions
from .colorize_options import Options

PLUGIN_LORA = "background"  # label of the plugin's low-rank additions

# (stream, number of the draw) -> (B, C, h, w) standard normal, for the streams "initial" (what
# denoising starts from), "step" (what samplers add), "injection" and "background".
Noise = Callable[[str, int], Tensor]


class Denoising:
    """The pipeline's part that turns noise into latents."""

    def denoise(
        self,
        conditions: Conditions,
        options: Options,
        noise: Noise,
        callback: Callable[..., dict] | None = None,
        generator: Any = None,
    ) -> Tensor:
        """Scaled latents (B, C, h, w) float32 of conditioned pictures.

        Args:
            conditions: of `condition`.
            options: the controls.
            noise: all noise but that of another scheduler than the folder's.
            callback: as `callback_on_step_end` of a call.
            generator: of another scheduler's noise.
        """
        scheduler, device = self.scheduler, self._execution_device
        own = hasattr(scheduler, "level")
        if not own and (options.sampler or options.schedule or options.background_latent_copy):
            raise ValueError(
                f"got sampler, schedule or background_latent_copy with {type(scheduler).__name__}, "
                "expected them with this folder's own scheduler; leave them out"
            )
        plan = {"sampler": options.sampler, "schedule": options.schedule} if own else {}
        scheduler.set_timesteps(options.steps, device=device, **plan)
        predict = self._predictor(conditions, options, noise)
        latents = noise("initial", 0).to(device, torch.float32) * scheduler.init_noise_sigma
        draw: dict[str, Any] = {}
        if own:
            draw["noise"] = lambda number: noise("step", number)
        elif "generator" in inspect.signature(scheduler.step).parameters:
            draw["generator"] = generator
        inside = None
        if conditions.kept is not None:
            inside = conditions.mask > options.sketch_mask_threshold
        for number, t in enumerate(self.progress_bar(scheduler.timesteps)):
            noisy = scheduler.scale_model_input(latents, t)
            step = scheduler.step_index if own else number
            latents = scheduler.step(predict(noisy, t), t, latents, **draw).prev_sample
            if inside is not None and scheduler.level is not None:
                known = conditions.kept + scheduler.level * noise("background", step).to(latents)
                latents = torch.where(inside, latents, known)
            if callback is not None:
                changes = callback(self, number, t, {"latents": latents})
                latents = changes.pop("latents", latents)
        return latents if inside is None else torch.where(inside, latents, conditions.kept)

    def _predictor(
        self, conditions: Conditions, options: Options, noise: Noise
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """The guided denoiser: (noisy latents, timestep) -> prediction.

        Rows of one forward, for B pictures: B under all conditions; B without a sketch, where it
        guides; B without a reference (zero tokens), where that guides.
        """
        unet, batch = self.unet, len(conditions.size)
        guides_sketch = conditions.blank_hints is not None
        guides_reference = conditions.context is not None and options.reference_guidance > 1
        groups = 1 + guides_sketch + guides_reference
        controls = self.controls(conditions, options, groups)
        blank = [conditions.blank_hints] if guides_sketch else []
        order = [conditions.hints, *blank, *([conditions.hints] if guides_reference else [])]
        hints = [torch.cat(levels).to(unet.dtype) for levels in zip(*order, strict=True)]
        size = conditions.size.repeat(groups, 1)
        foreground = conditions.foreground
        if foreground is not None:
            foreground = foreground.to(unet.dtype).repeat(groups, 1, 1, 1)
        last = self.scheduler.config.num_train_timesteps - 1
        # Rows without a guide see injected tokens in part.
        shares = torch.full((groups * batch,), options.injection_fidelity, device=size.device)
        shares[:batch] = 0
        if conditions.context is None:
            context = torch.zeros(batch, 1, unet.config.cross_attention_dim, device=size.device)
        else:
            context = conditions.context

        def predict(noisy: Tensor, t: Tensor) -> Tensor:
            progress = min(max(1 - float(t) / last, 0.0), 1.0)
            tokens = context if options.is_active(progress) else torch.zeros_like(context)
            rows = [tokens] * (1 + guides_sketch)
            rows += [torch.zeros_like(context)] if guides_reference else []
            steered = controls
            if conditions.injected is not None:
                record = self._read_injected(conditions, context, controls, t, noise)
                steered = controls.with_injected(record, shares)
            outputs = self._evaluate(
                noisy.repeat(groups, 1, 1, 1),
                t,
                torch.cat(rows),
                size,
                hints=hints,
                foreground=foreground,
                cross_attention_kwargs={"controls": steered},
            ).chunk(groups)
            push = torch.zeros_like(outputs[0])
            if guides_reference:
                push += (options.reference_guidance - 1) * (outputs[0] - outputs[-1])
            if guides_sketch:
                push += (options.sketch_guidance - 1) * (outputs[0] - outputs[1])
            return outputs[0] + push / max(groups - 1, 1)

        return predict

    def _evaluate(self, noisy: Tensor, t: Tensor, tokens: Tensor, size: Tensor, **inputs) -> Tensor:
        """One forward of the UNet in its own dtype; float32."""
        dtype = self.unet.dtype
        given = {"time_ids": size, "text_embeds": size.new_zeros(len(size), 0)}
        return self.unet(
            noisy.to(dtype), t, tokens.to(dtype), added_cond_kwargs=given, **inputs
        ).sample.float()

    def _read_injected(
        self, conditions: Conditions, context: Tensor, controls: Any, t: Tensor, noise: Noise
    ) -> dict[str, Tensor]:
        """What self-attention reads of the reference, as noisy as the picture is now."""
        record: dict[str, Tensor] = {}
        sigma = self._sigma(t)
        noisy = conditions.injected + sigma * noise("injection", 0).to(conditions.injected)
        reading = self.unet.controls(lora_scales=controls.lora_scales, record=record)
        self._evaluate(
            noisy / math.sqrt(1 + sigma**2),
            t,
            context,
            conditions.size,
            cross_attention_kwargs={"controls": reading},
        )
        return record

    def controls(self, conditions: Conditions, options: Options, groups: int = 1) -> Any:
        """The UNet's controls for `groups` times as many rows as there are pictures."""
        mask = conditions.mask
        labels = [label for label, _ in self.unet.config.loras]
        scales = dict.fromkeys(labels, 1.0)
        if PLUGIN_LORA in scales and not options.background_plugin:
            scales[PLUGIN_LORA] = 0.0
        return self.unet.controls(
            strengths=options.block_scales(self.unet.block_levels()),
            mask=None if mask is None else mask.repeat(groups, 1, 1, 1),
            # A UNet with low-rank additions was trained to blend by the mask itself.
            threshold=None if labels else options.sketch_mask_threshold,
            split=options.splits_context,
            foreground_strength=options.foreground_strength,
            background_strength=options.background_strength,
            merge=options.merge,
            lora_scales=scales | dict(options.lora_scales),
            banks=conditions.banks,
        )

    def _sigma(self, t: Tensor) -> float:
        """The noise level at a fractional timestep: linear in its logarithm."""
        shares = self.scheduler.alphas_cumprod.cpu().double().clamp(min=2.0**-24)
        logs = 0.5 * torch.log((1 - shares) / shares)
        low = min(int(t), len(logs) - 2)
        return float(torch.lerp(logs[low], logs[low + 1], float(t) - low).exp())

    def _noise_of(self, generator: Any, conditions: Conditions, latents: Tensor | None) -> Noise:
        """All noise from one generator, drawn as it is needed; injection's is drawn once."""
        height, width = (side // self.cell for side in conditions.sketches[0].tensor.shape[1:])
        shape = (len(conditions.size), self.unet.config.in_channels, height, width)
        if latents is not None and tuple(latents.shape) != shape:
            raise ValueError(f"got latents of {tuple(latents.shape)}, expected {shape}")
        kept: dict[str, Tensor] = {} if latents is None else {"initial": latents}

        def noise(stream: str, number: int) -> Tensor:
            if stream in kept:
                return kept[stream]
            drawn = randn_tensor(shape, generator=generator, device=self._execution_device)
            if stream == "injection":
                kept[stream] = drawn
            return drawn

        return noise
