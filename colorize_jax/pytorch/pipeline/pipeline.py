"""Colour a sketch by a reference: the pipeline of this folder.

    pipe = DiffusionPipeline.from_pretrained(FOLDER, custom_pipeline=FOLDER, trust_remote_code=True)
    picture = pipe("sketch.png", "reference.png", seed=0).images[0]

A call reads pictures, conditions (everything that runs once a picture), denoises and decodes; each
part is a method of its own.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.loaders import StableDiffusionXLLoraLoaderMixin
from diffusers.pipelines.pipeline_utils import StableDiffusionMixin
from torch import Tensor

from .colorize_conditioning import Conditioning
from .colorize_denoising import Denoising, Noise
from .colorize_options import Limits, read_options
from .colorize_pictures import to_pictures

FORMAT = 1  # of the folder


class ColorizePipeline(
    Conditioning,
    Denoising,
    DiffusionPipeline,
    StableDiffusionMixin,
    StableDiffusionXLLoraLoaderMixin,
):
    """Colours sketches; see the module."""

    model_cpu_offload_seq = (
        "image_encoder->tagger->reference_projection->sketch_encoder->background_encoder->unet->vae"
    )
    _optional_components = ["background_encoder"]  # noqa: RUF012 - diffusers' own names
    _callback_tensor_inputs = ["latents"]  # noqa: RUF012
    _lora_loadable_modules = ["unet"]  # noqa: RUF012
    text_encoder = text_encoder_2 = None  # that loaders of LoRAs look for

    def __init__(
        self,
        vae,
        unet,
        sketch_encoder,
        reference_projection,
        image_encoder,
        tagger,
        scheduler,
        feature_extractor,
        tagger_feature_extractor,
        background_encoder=None,
        default_size: int = 1024,
        minimum_size: int = 256,
        size_multiple: int = 8,
        autofit_multiple: int = 32,
        defaults: dict[str, Any] | None = None,
        folder_format: int = 0,
    ):
        super().__init__()
        if folder_format != FORMAT:
            raise ValueError(
                f"got a folder of format {folder_format}, expected {FORMAT}: its code is of "
                "another version than its model_index.json; export it again"
            )
        self.register_modules(
            vae=vae,
            unet=unet,
            sketch_encoder=sketch_encoder,
            reference_projection=reference_projection,
            image_encoder=image_encoder,
            tagger=tagger,
            scheduler=scheduler,
            feature_extractor=feature_extractor,
            tagger_feature_extractor=tagger_feature_extractor,
            background_encoder=background_encoder,
        )
        self.limits = Limits(default_size, minimum_size, size_multiple, autofit_multiple)
        self.register_to_config(
            default_size=default_size,
            minimum_size=minimum_size,
            size_multiple=size_multiple,
            autofit_multiple=autofit_multiple,
            defaults=defaults or {},
            folder_format=folder_format,
        )
        self.cell = 2 ** (len(vae.config.block_out_channels) - 1)  # pixels on a latent's side

    @torch.no_grad()
    def __call__(
        self,
        sketch,
        reference=None,
        *,
        sketch_mask=None,
        reference_mask=None,
        background=None,
        seed: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        noise: Noise | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict] | None = None,
        **options,
    ):
        """Colour sketches.

        Args:
            sketch: a path, PIL picture or array, or a list of them.
            reference: likewise, one for all or one for each.
            sketch_mask, reference_mask: pictures whose white is foreground, where options need
                them; a picture's transparency takes the place of one that is not given.
            background: a picture in the place of the reference's own background.
            seed: of the noise; or a `generator`.
            latents: (B, C, h, w) standard normal, to start from.
            noise: in the place of all noise, see `Noise`.
            output_type: "pil", "pt" for (B, 3, H, W) in [-1, 1], or "latent".
            return_dict: whether to return an `ImagePipelineOutput`, or else a tuple.
            callback_on_step_end: of diffusers: (pipeline, step, timestep, {"latents"}) -> changes.
            options: every control, see `Options`; by default what the model was sampled with.

        Raises:
            ValueError: bad input.
        """
        controls = read_options({**self.config.defaults, **options})
        if seed is not None and generator is None:
            generator = torch.Generator(device="cpu").manual_seed(seed)
        conditions = self.condition(
            sketch, reference, controls, sketch_mask, reference_mask, background
        )
        noise = noise or self._noise_of(generator, conditions, latents)
        latents = self.denoise(conditions, controls, noise, callback_on_step_end, generator)
        if output_type == "latent":
            images: Any = latents
        else:
            images = self.decode(latents)
            if output_type == "pil":
                cut = controls.crop_to_sketch
                boxes = [s.box if cut else s.frame for s in conditions.sketches]
                images = [
                    to_pictures(box.crop(image)[None])[0]
                    for box, image in zip(boxes, images, strict=True)
                ]
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    # -------------------------------------------------------------------------------------- memory

    def enable_vae_tiling(self) -> None:
        """Decode in tiles, for large pictures."""
        self.vae.enable_tiling()

    def disable_vae_tiling(self) -> None:
        """Decode in one."""
        self.vae.disable_tiling()

    # -------------------------------------------------------------------------------------- saving

    def save_pretrained(self, save_directory, *args, **options) -> None:
        """As diffusers does, and with the code that the folder needs."""
        super().save_pretrained(save_directory, *args, **options)
        target, code = Path(save_directory), Path(__file__).parent
        index = target / "model_index.json"
        content = json.loads(index.read_text())
        for name, value in content.items():
            if isinstance(value, list) and value and str(value[0]).startswith("diffusers_modules"):
                module = value[0].rsplit(".", 1)[-1]
                content[name] = [module, value[1]]
                _copy_code(code / f"{module}.py", target / name)
        _copy_code(code / "pipeline.py", target)
        index.write_text(json.dumps(content, indent=2) + "\n")


def _copy_code(file: Path, folder: Path) -> None:
    """Copy a module, and those beside it that it imports."""
    shutil.copyfile(file, folder / file.name)
    for needed in re.findall(r"^from \.(\w+) import", file.read_text(), re.MULTILINE):
        _copy_code(file.with_name(f"{needed}.py"), folder)
