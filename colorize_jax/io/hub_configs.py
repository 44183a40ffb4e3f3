"""What the config.json beside a CLIP or a tagger says that tensor shapes do not."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from colorize_jax.errors import UserError
from colorize_jax.io.architectures import Config

# Our field -> transformers' CLIPVisionConfig field and its default.
CLIP_FIELDS: Mapping[str, tuple[str, int]] = {
    "hidden_size": ("hidden_size", 768),
    "intermediate_size": ("intermediate_size", 3072),
    "num_layers": ("num_hidden_layers", 12),
    "num_heads": ("num_attention_heads", 12),
    "image_size": ("image_size", 224),
    "patch_size": ("patch_size", 32),
}
CLIP_FIXED = {"hidden_act": ("gelu", "quick_gelu"), "layer_norm_eps": (1e-5, 1e-5)}
TIMM_FIELDS = {"image_size": "img_size", "window_size": "window_size"}


def config_beside(path: Path, component: str) -> Config:
    """Return the fields that a config.json in or beside `path` says of a network; often none.

    Raises:
        UserError: the config is damaged, or of a network that ours cannot be.
    """
    file = (path if path.is_dir() else path.parent) / "config.json"
    readers = {"clip_vision": _clip, "tagger": _tagger}
    if component not in readers or not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text())
        return readers[component](content, file)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"got {file} that cannot be read ({error}), expected the JSON that belongs to the "
            "weights; get it again"
        ) from error


def clip_json(config: Config) -> dict[str, Any]:
    """The config.json with which CLIPVisionModelWithProjection is our vision tower."""
    fixed = {name: ours for name, (ours, _) in CLIP_FIXED.items()}
    fields = {theirs: config[ours] for ours, (theirs, _) in CLIP_FIELDS.items()}
    return {
        "architectures": ["CLIPVisionModelWithProjection"],
        "model_type": "clip_vision_model",
        "projection_dim": config["projection_dim"],
        **fields,
        **fixed,
    }


def _clip(content: Mapping[str, Any], file: Path) -> Config:
    """CLIPConfig or CLIPVisionConfig -> our fields."""
    if content.get("model_type") not in ("clip", "clip_vision_model"):
        return {}
    vision = content.get("vision_config", content)
    for name, (ours, default) in CLIP_FIXED.items():
        if vision.get(name, default) != ours:
            raise UserError(
                f"got {file} with {name} {vision.get(name, default)!r}, expected {ours!r} as in "
                "CLIP ViT-bigG-14 of LAION; name another model"
            )
    return {ours: vision.get(theirs, default) for ours, (theirs, default) in CLIP_FIELDS.items()}


def _tagger(content: Mapping[str, Any], _: Path) -> Config:
    """timm's config.json -> our fields, as far as it says them."""
    arguments = content.get("model_args") or {}
    return {ours: arguments[theirs] for ours, theirs in TIMM_FIELDS.items() if theirs in arguments}
