"""Nodes of ComfyUI that colour sketches by references.

    Colorize Loader     a model, its encoders and its autoencoder
    Colorize Condition  sketch, reference and masks -> conditionings and an empty latent
    Colorize Guider     guidance by reference and sketch, for samplers that take a guider

What lies between them are ComfyUI's own nodes: a sampler, whose cfg is the guidance by the
reference, a decoder, loaders of LoRAs.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import numpy as np
import torch
from comfy_api.latest import ComfyExtension, io
from PIL import Image
from torch import Tensor

from .colorize_comfy_model import COND, ComfyConditions, Guider, Steering, load_model
from .colorize_options import Options

HERE = Path(__file__).parent
MODELS = "colorize"  # folder of ComfyUI's models
INDEX = "model_index.json"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ENCODERS = io.Custom("COLORIZE_ENCODERS")
PLUGIN_LORA = "background"

folder_paths.add_model_folder_path(MODELS, str(Path(folder_paths.models_dir) / MODELS))


def model_folders() -> dict[str, Path]:
    """Name -> pipeline folder, of those beside this file and in ComfyUI's models."""
    roots = [HERE, *map(Path, folder_paths.get_folder_paths(MODELS))]
    found = [path.parent for root in roots for path in sorted(root.glob(f"*/{INDEX}"))]
    return {folder.name: folder for folder in reversed(found)}


def to_pictures(images: Tensor | None) -> list[Image.Image] | None:
    """(B, H, W, C) or (B, H, W) in [0, 1] -> PIL pictures."""
    if images is None:
        return None
    levels = np.rint(255 * images.cpu().numpy()).clip(0, 255).astype(np.uint8)
    return [Image.fromarray(level) for level in levels]


class ColorizeLoader(io.ComfyNode):
    """Loads a pipeline folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the node takes and gives."""
        names = list(model_folders()) or ["model"]
        return io.Schema(
            node_id="ColorizeLoader",
            display_name="Colorize Loader",
            category="colorize",
            description="Load a colorizer: a pipeline folder beside this node's file or in "
            "models/colorize.",
            inputs=[
                io.Combo.Input("model_name", options=names, default=names[0]),
                io.Combo.Input("dtype", options=list(DTYPES), default="bfloat16"),
            ],
            outputs=[
                io.Model.Output(display_name="model"),
                ENCODERS.Output(display_name="encoders"),
                io.Vae.Output(display_name="vae"),
            ],
        )

    @classmethod
    def execute(cls, model_name: str, dtype: str) -> io.NodeOutput:
        """Load it."""
        folder = model_folders()[model_name]
        index = json.loads((folder / INDEX).read_text())
        return io.NodeOutput(*load_model(folder, index, DTYPES[dtype]))


class ColorizeCondition(io.ComfyNode):
    """Encodes sketch and reference."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the node takes and gives."""

        def strength(name: str, text: str) -> io.Float.Input:
            return io.Float.Input(name, default=1.0, min=0.0, max=10.0, step=0.05, tooltip=text)

        return io.Schema(
            node_id="ColorizeCondition",
            display_name="Colorize Condition",
            category="colorize",
            description="Encode a sketch and a reference. The sampler's cfg is the guidance by the "
            "reference.",
            inputs=[
                ENCODERS.Input("encoders"),
                io.Image.Input("sketch"),
                io.Image.Input("reference"),
                io.Int.Input("width", default=0, min=0, max=16384, step=8, tooltip="0: its own"),
                io.Int.Input("height", default=0, min=0, max=16384, step=8, tooltip="0: its own"),
                io.Combo.Input("preprocessor", options=["invert", "none"], default="invert"),
                strength("reference_strength", "factor of the reference"),
                strength("sketch_strength", "factor of the sketch"),
                io.Boolean.Input(
                    "split_attention",
                    default=False,
                    tooltip="foreground and background attend to the reference's own; needs masks",
                ),
                io.Boolean.Input(
                    "background_plugin",
                    default=False,
                    tooltip="transfer the reference's background by the plugin; needs masks",
                ),
                strength("foreground_strength", "factor of the reference's foreground"),
                strength("background_strength", "factor of the reference's background"),
                io.Float.Input(
                    "merge",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="share of the background mixed into the foreground",
                ),
                io.Float.Input("aesthetic_score", default=7.0, min=0.0, max=10.0, step=0.1),
                io.Mask.Input("sketch_mask", optional=True, tooltip="1 where the figure is"),
                io.Mask.Input("reference_mask", optional=True, tooltip="1 where the figure is"),
                io.Image.Input(
                    "background", optional=True, tooltip="in the place of the reference's own"
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive"),
                io.Conditioning.Output(display_name="negative"),
                io.Latent.Output(display_name="latent"),
                io.Conditioning.Output(display_name="without_sketch"),
            ],
        )

    @classmethod
    def execute(cls, encoders: Any, sketch: Tensor, reference: Tensor, **given) -> io.NodeOutput:
        """Encode."""
        masks = {
            name: to_pictures(given.pop(name, None)) for name in ("sketch_mask", "reference_mask")
        }
        background = to_pictures(given.pop("background", None))
        size = {name: given.pop(name) or None for name in ("width", "height")}
        # A blank sketch is encoded too, for the guider.
        options = Options(**given, **size, sketch_guidance=2.0)
        encoders.to(comfy.model_management.get_torch_device())
        try:
            with torch.no_grad():
                found = encoders.condition(
                    to_pictures(sketch),
                    to_pictures(reference),
                    options,
                    masks["sketch_mask"],
                    masks["reference_mask"],
                    background and background[0],
                )
        finally:
            encoders.to(comfy.model_management.unet_offload_device())
        labels = [label for label, _ in encoders.unet.config.loras]
        plain = 1.0 if options.background_plugin else 0.0
        steering = Steering(
            tuple(options.block_scales(encoders.unet.block_levels())),
            options.splits_context,
            None if labels else options.sketch_mask_threshold,
            options.foreground_strength,
            options.background_strength,
            options.merge,
            tuple((label, plain if label == PLUGIN_LORA else 1.0) for label in labels),
        )
        carried = ComfyConditions(found.size, found.hints, steering, found.mask, found.banks)
        blank = replace(carried, hints=found.blank_hints)
        height, width = found.sketches[0].tensor.shape[1:]
        channels = encoders.unet.config.in_channels
        cells = (height // encoders.cell, width // encoders.cell)
        latent = torch.zeros(len(found.sketches), channels, *cells)
        context = found.context
        return io.NodeOutput(
            [[context, {COND: carried}]],
            [[torch.zeros_like(context), {COND: carried}]],
            {"samples": latent},
            [[context, {COND: blank}]],
        )


class ColorizeGuider(io.ComfyNode):
    """Guides by the reference, by the sketch, or by both."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the node takes and gives."""

        def scale(name: str, default: float) -> io.Float.Input:
            text = "off at 1 or less"
            return io.Float.Input(name, default=default, min=0.0, max=100.0, step=0.1, tooltip=text)

        return io.Schema(
            node_id="ColorizeGuider",
            display_name="Colorize Guider",
            category="colorize",
            description="Guidance by the reference, by the sketch, or the mean of both; for "
            "SamplerCustomAdvanced.",
            inputs=[
                io.Model.Input("model"),
                io.Conditioning.Input("positive"),
                io.Conditioning.Input("negative"),
                io.Conditioning.Input("without_sketch"),
                scale("reference_guidance", 4.0),
                scale("sketch_guidance", 1.0),
            ],
            outputs=[io.Guider.Output(display_name="guider")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        without_sketch: Any,
        reference_guidance: float,
        sketch_guidance: float,
    ) -> io.NodeOutput:
        """Make the guider."""
        guider = Guider(model)
        guider.inner_set_conds(
            {"positive": positive, "negative": negative, "without_sketch": without_sketch}
        )
        guider.scales = {"negative": reference_guidance, "without_sketch": sketch_guidance}
        return io.NodeOutput(guider)


class ColorizeExtension(ComfyExtension):
    """The pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Its nodes."""
        return [ColorizeLoader, ColorizeCondition, ColorizeGuider]


async def comfy_entrypoint() -> ColorizeExtension:
    """What ComfyUI calls."""
    return ColorizeExtension()
