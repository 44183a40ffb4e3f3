"""A small system of the published architecture, with the weights of the golden case "pipeline"."""

from pathlib import Path

import numpy as np
import small_models
from PIL import Image

from colorize_jax.commands import cli
from colorize_jax.io.published import torch_names
from colorize_jax.io.published.checkpoint import open_published
from colorize_jax.io.published.importing import import_weights
from colorize_jax.models import architectures
from colorize_jax.verify import golden

GOLDEN = Path(__file__).parent / "golden"
UNET = {
    "model_channels": 32,
    "channel_mult": [1, 2, 2],
    "transformer_depth": [0, 2, 10],
    "head_dim": 16,
    "context_channels": 48,
    "vector_channels": 32,
}
CONFIGS = {
    "unet": UNET,
    "sketch_encoder": {"model_channels": 32, "channel_mult": [1, 2, 2], "head_dim": 16},
    "reference_projection": {
        "num_tokens": 49,
        "context_channels": 48,
        "head_dim": 8,
        "clip_channels": 24,
        "tagger_channels": 128,
    },
    "vae": {"channels": 32, "channel_mult": [1, 1, 2, 2], "num_res_blocks": 1},
    "clip_vision": {
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_layers": 3,
        "num_heads": 4,
        "image_size": 112,
        "patch_size": 14,
        "projection_dim": 24,
    },
    "tagger": {
        "image_size": 112,
        "window_size": 7,
        "embed_dim": 32,
        "depths": [2, 2, 2],
        "num_heads": [2, 4, 8],
        "num_classes": 37,
    },
}
PLUGIN = {"loras": [["background", 4]], "foreground_channels": 4}
BACKGROUND = {
    **{k: v for k, v in UNET.items() if k != "context_channels"},
    "vector_channels": 64,
    "in_channels": 6,
    "num_output_blocks": 7,
}
SIDE = 64  # px, of its pictures


def tensors(*, plugin: bool = False) -> dict[str, np.ndarray]:
    """The golden case's tensors under their published names, float32; with a plugin's where asked.

    What a plugin adds is random.
    """
    found = golden.weights(golden.load_case(GOLDEN / "pipeline"))
    if not plugin:
        return found
    random = np.random.default_rng(0)
    for component, config in (("unet", UNET | PLUGIN), ("background_encoder", BACKGROUND)):
        abstract = architectures.abstract_params(component, config)
        prefix = torch_names.PREFIXES[component]
        for slot in torch_names.slots(component, abstract, prefix=prefix):
            fan_in = np.prod(slot.shape[1:]) if len(slot.shape) > 1 else 100
            drawn = random.standard_normal(slot.shape) * 0.7 / np.sqrt(fan_in)
            found.setdefault(slot.name, drawn.astype(np.float32))
    return found


def configs(*, plugin: bool = False) -> dict[str, dict]:
    """The configurations of its networks."""
    if not plugin:
        return CONFIGS
    return CONFIGS | {"unet": UNET | PLUGIN, "background_encoder": BACKGROUND}


def make_weights(folder: Path, *, plugin: bool = False) -> Path:
    """Write a folder of weights."""
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"prediction_type": "v", "colorize_jax.size": f"[{SIDE}, {SIDE}]"}
    file = small_models.save(folder / "model.safetensors", tensors(plugin=plugin), metadata)
    import_weights(open_published(file, configs(plugin=plugin)), folder / "weights")
    return folder / "weights"


def export(weights: Path, output: Path, *options: str) -> Path:
    """Export a pipeline folder by the command."""
    words = ["export", "--checkpoint", str(weights), "--format", "pipeline"]
    assert cli.main([*words, "--output", str(output), *options]) == 0
    return output


def make_pictures(folder: Path, seed: int = 0) -> dict[str, Path]:
    """Draw a sketch, a reference, both masks and a background, with sides of their own."""
    random, found = np.random.default_rng(seed), {}
    sizes = {"sketch": (80, 60), "reference": (72, 96), "background": (50, 70)}
    for name, (height, width) in sizes.items():
        colors = random.integers(0, 255, (2, 3))
        picture = np.empty((height, width, 3), np.uint8)
        picture[:] = 255 if name == "sketch" else colors[0]
        figure = np.s_[height // 4 : -height // 5, width // 4 : -width // 3]
        if name == "sketch":
            picture[figure][[0, -1]] = picture[figure][:, [0, -1]] = 0
        else:
            picture[figure] = colors[1]
            picture[: height // 6, ::3] //= 2
        found[name] = folder / f"{name}.png"
        Image.fromarray(picture).save(found[name])
        if name != "background":
            mask = np.zeros((height, width), np.uint8)
            mask[figure] = 255
            found[f"{name}_mask"] = folder / f"{name}_mask.png"
            Image.fromarray(mask).save(found[f"{name}_mask"])
    return found
