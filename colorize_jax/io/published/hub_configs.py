"""Fields of CLIP's and the tagger's config.json that tensor shapes do not tell."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from colorize_jax.errors import UserError
from colorize_jax.models.architectures import NetworkConfig

# Tower -> our field -> transformers' CLIPVisionConfig or CLIPTextConfig field and its default.
CLIP_FIELDS: Mapping[str, Mapping[str, tuple[str, int]]] = {
    "clip_vision": {
        "hidden_size": ("hidden_size", 768),
        "intermediate_size": ("intermediate_size", 3072),
        "num_layers": ("num_hidden_layers", 12),
        "num_heads": ("num_attention_heads", 12),
        "image_size": ("image_size", 224),
        "patch_size": ("patch_size", 32),
    },
    "clip_text": {
        "hidden_size": ("hidden_size", 512),
        "intermediate_size": ("intermediate_size", 2048),
        "num_layers": ("num_hidden_layers", 12),
        "num_heads": ("num_attention_heads", 8),
        "vocab_size": ("vocab_size", 49408),
        "context_length": ("max_position_embeddings", 77),
    },
}
# Tower -> the name of its config alone, its section in a whole CLIP's, and its architecture.
CLIP_NAMES = {
    "clip_vision": ("clip_vision_model", "vision_config", "CLIPVisionModelWithProjection"),
    "clip_text": ("clip_text_model", "text_config", "CLIPTextModelWithProjection"),
}
CLIP_FIXED = {"hidden_act": ("gelu", "quick_gelu"), "layer_norm_eps": (1e-5, 1e-5)}
TIMM_FIELDS = {"image_size": "img_size", "window_size": "window_size"}


def config_beside(path: Path, component: str) -> NetworkConfig:
    """Return the fields that a config.json in or beside `path` says of a network; often none.

    Raises:
        UserError: the config is damaged, or of a network that ours cannot be.
    """
    file = (path if path.is_dir() else path.parent) / "config.json"
    if component not in (*CLIP_FIELDS, "tagger") or not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text())
        return _tagger(content) if component == "tagger" else _clip(content, file, component)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"got {file} that cannot be read ({error}), expected the JSON that belongs to the "
            "weights; get it again"
        ) from error


def clip_json(configs: Mapping[str, NetworkConfig]) -> dict[str, Any]:
    """The config.json with which transformers' CLIP is our towers: both, or the one that is there.

    Args:
        configs: tower ("clip_vision", "clip_text") -> its configuration.
    """
    sections = {tower: _section(tower, config) for tower, config in configs.items()}
    if len(sections) > 1:
        # The projections of both towers have the same width.
        content = {CLIP_NAMES[tower][1]: section for tower, section in sections.items()}
        widths = {"projection_dim": configs["clip_vision"]["projection_dim"]}
        return {"architectures": ["CLIPModel"], "model_type": "clip", **widths, **content}
    ((tower, section),) = sections.items()
    return {"architectures": [CLIP_NAMES[tower][2]], **section}


def _section(tower: str, config: NetworkConfig) -> dict[str, Any]:
    """One tower's part of a config.json."""
    fixed: dict[str, Any] = {name: ours for name, (ours, _) in CLIP_FIXED.items()}
    if tower == "clip_text":
        end = config["vocab_size"] - 1
        fixed |= {"bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
    return {
        "model_type": CLIP_NAMES[tower][0],
        "projection_dim": config["projection_dim"],
        **{theirs: config[ours] for ours, (theirs, _) in CLIP_FIELDS[tower].items()},
        **fixed,
    }


def _clip(content: Mapping[str, Any], file: Path, tower: str) -> NetworkConfig:
    """CLIPConfig, or the config of one tower alone -> our fields."""
    alone, section, _ = CLIP_NAMES[tower]
    if content.get("model_type") not in ("clip", alone):
        return {}
    said = content.get(section, content)
    for name, (ours, default) in CLIP_FIXED.items():
        if said.get(name, default) != ours:
            raise UserError(
                f"got {file} with {name} {said.get(name, default)!r}, expected {ours!r} as in "
                "CLIP ViT-bigG-14 of LAION; name another model"
            )
    fields = CLIP_FIELDS[tower]
    return {ours: said.get(theirs, default) for ours, (theirs, default) in fields.items()}


def _tagger(content: Mapping[str, Any]) -> NetworkConfig:
    """timm's config.json -> our fields, as far as it says them."""
    arguments = content.get("model_args") or {}
    return {ours: arguments[theirs] for ours, theirs in TIMM_FIELDS.items() if theirs in arguments}
