"""Detect a network's configuration from the names and shapes of its tensors.

Where several tensors determine a number, the majority decides, so that a single misshapen tensor is
reported as such and not as another architecture. What shapes cannot tell (how a width splits into
heads) takes its published value if the widths are the published ones; else the user must say it.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from colorize_jax.errors import UserError
from colorize_jax.models.architectures import NetworkConfig, check_config, published_config

Shapes = Mapping[str, tuple[int, ...]]

# CLIP's towers by width: hidden size -> heads.
CLIP_HEADS = {
    "clip_vision": {768: 12, 1024: 16, 1280: 16, 1408: 16, 1664: 16},
    "clip_text": {512: 8, 768: 12, 1024: 16, 1280: 20},
}

# Network -> fields that shapes do not tell, and the fields that must have published values for them
# to take theirs.
UNSEEN = {
    "unet": (("head_dim",), ("model_channels",)),
    "background_encoder": (("head_dim",), ("model_channels",)),
    "sketch_encoder": (("head_dim",), ("model_channels", "channel_mult", "stem_channels")),
    "reference_projection": (("head_dim", "num_tokens"), ("clip_channels",)),
    "tagger": (("image_size", "window_size"), ("embed_dim", "depths", "num_classes")),
    "clip_vision": (("num_heads",), ("hidden_size",)),
    "clip_text": (("num_heads",), ("hidden_size",)),
}


def detect_config(
    component: str,
    shapes: Shapes,
    prefix: str = "",
    given: Mapping[str, Any] | None = None,
) -> NetworkConfig:
    """Find the configuration of one network in a file.

    Args:
        component: a key of `architectures.PUBLISHED`.
        shapes: name -> shape, PyTorch layout; everything in the file.
        prefix: what the network's names begin with.
        given: fields that the user gives; they take precedence over what is found.

    Returns:
        A complete configuration.

    Raises:
        UserError: `given` is wrong, or lacks a field that shapes cannot tell.
    """
    given = dict(given or {})
    check_config(component, given)
    own = {
        name.removeprefix(prefix): tuple(shape)
        for name, shape in shapes.items()
        if name.startswith(prefix)
    }
    published = published_config(component)
    found = {
        field: value for field, value in DETECTORS[component](own).items() if value is not None
    }
    config = published | found | given
    unseen, vouching = UNSEEN.get(component, ((), ()))
    heads = CLIP_HEADS.get(component, {}).get(config.get("hidden_size"))
    if heads:
        return config | {"num_heads": heads} | given
    unsaid = [field for field in unseen if field not in given]
    strange = [field for field in vouching if config[field] != published[field]]
    if unsaid and strange:
        told = ", ".join(f"{field} {config[field]}" for field in strange)
        raise UserError(
            f"got a {component} of {told}, whose {' and '.join(unsaid)} cannot be seen in the file,"
            f" expected a published size or a config that says them; pass --config with "
            f'{{"{component}": {{"{unsaid[0]}": ...}}}}'
        )
    return config


def _vote(candidates: Iterable[Any]) -> Any:
    """The most frequent candidate other than None, the first of equally frequent; else None."""
    counts = Counter(candidate for candidate in candidates if candidate is not None)
    return counts.most_common(1)[0][0] if counts else None


def _axis(shapes: Shapes, name: str, axis: int) -> int | None:
    shape = shapes.get(name, ())
    return shape[axis] if len(shape) > axis else None


def _matches(shapes: Shapes, pattern: str) -> list[tuple[re.Match[str], tuple[int, ...]]]:
    regex = re.compile(pattern)
    found = ((regex.fullmatch(name), shape) for name, shape in shapes.items())
    return [(match, shape) for match, shape in found if match]


def _count(shapes: Shapes, pattern: str) -> int:
    """One more than the largest number in the pattern's first group; 0 without a match."""
    return max((int(match[1]) + 1 for match, _ in _matches(shapes, pattern)), default=0)


def _multiples(channels: list[int | None], base: int | None) -> list[int] | None:
    """Channels of the levels in multiples of `base`, or None where that cannot be."""
    if not base or not channels or any(not c or c % base for c in channels):
        return None
    return [c // base for c in channels]


def _unet_trunk(shapes: Shapes) -> NetworkConfig:
    """What UNet, background and foreground encoder have in common."""
    channels = _vote(
        [
            _axis(shapes, "input_blocks.0.0.weight", 0),
            _axis(shapes, "time_embed.0.weight", 1),
            _axis(shapes, "input_blocks.0.0.bias", 0),
        ]
    )
    downs = sorted({int(m[1]) for m, _ in _matches(shapes, r"input_blocks\.(\d+)\.0\.op\..*")})
    gaps = [after - before for before, after in zip([0, *downs], downs, strict=False)]
    stride = _vote(gaps)
    found: NetworkConfig = {
        "model_channels": channels,
        "in_channels": _axis(shapes, "input_blocks.0.0.weight", 1),
        "num_res_blocks": stride - 1 if stride else None,
        "vector_channels": _axis(shapes, "label_emb.0.0.weight", 1) or 0,
    }
    if not stride:
        return found
    num_levels = -(-_count(shapes, r"input_blocks\.(\d+)\..*") // stride)
    levels = [range(1 + level * stride, (level + 1) * stride) for level in range(num_levels)]
    widths = [
        _vote(
            _axis(shapes, f"input_blocks.{block}.0.{name}", 0)
            for block in blocks
            for name in ("in_layers.2.weight", "out_layers.3.weight", "out_layers.0.weight")
        )
        for blocks in levels
    ]
    found["channel_mult"] = _multiples(widths, channels)
    found["transformer_depth"] = [
        _vote(
            _count(shapes, rf"input_blocks\.{block}\.1\.transformer_blocks\.(\d+)\..*")
            for block in blocks
        )
        for blocks in levels
    ]
    return found


def _hint_blocks(shapes: Shapes) -> list[int] | None:
    """The first input block, those that halve the picture, and the last one, as published."""
    downs = {int(m[1]) for m, _ in _matches(shapes, r"input_blocks\.(\d+)\.0\.op\..*")}
    last = _count(shapes, r"input_blocks\.(\d+)\..*") - 1
    return sorted({0, last} | downs) if last > 0 else None


def _detect_unet(shapes: Shapes) -> NetworkConfig:
    keys = _matches(shapes, r".*\.transformer_blocks\.\d+\.attn2\.to_k\.weight")
    downs = _matches(shapes, r".*\.lora_down_(\w+)\.weight")
    labels = sorted({match[1] for match, _ in downs})
    return _unet_trunk(shapes) | {
        "hint_blocks": _hint_blocks(shapes),
        "context_channels": _vote(shape[-1] for _, shape in keys),
        "out_channels": _vote(
            [
                _axis(shapes, "out.2.weight", 0),
                _axis(shapes, "out.2.bias", 0),
                _axis(shapes, "input_blocks.0.0.weight", 1),
            ]
        ),
        "loras": [
            [label, _vote(shape[0] for match, shape in downs if match[1] == label)]
            for label in labels
        ],
        "foreground_channels": _axis(shapes, "conv_fg.weight", 1) or 0,
        "map_modules": any(name.startswith("map_modules.") for name in shapes),
        "warp_modules": any(name.startswith("warp_modules.") for name in shapes),
    }


def _detect_foreground_encoder(shapes: Shapes) -> NetworkConfig:
    return {k: v for k, v in _unet_trunk(shapes).items() if k != "transformer_depth"}


def _detect_background_encoder(shapes: Shapes) -> NetworkConfig:
    num_output_blocks = _count(shapes, r"output_blocks\.(\d+)\..*") or None
    return _unet_trunk(shapes) | {"num_output_blocks": num_output_blocks}


def _detect_sketch_encoder(shapes: Shapes) -> NetworkConfig:
    base = _vote(
        _axis(shapes, name, 0) for name in ("model.14.weight", "model.14.bias", "proj_outs.0.bias")
    )
    widths = [
        _vote(
            [
                _axis(shapes, f"downsample_layers.{i}.1.weight", 0),
                _axis(shapes, f"downsample_layers.{i}.1.bias", 0),
                _axis(shapes, f"proj_outs.{i + 1}.bias", 0),
            ]
        )
        for i in range(_count(shapes, r"downsample_layers\.(\d+)\..*"))
    ]
    stem = [
        _vote(_axis(shapes, f"model.{i}.{leaf}", 0) for leaf in ("weight", "bias"))
        for i in range(0, 14, 2)
    ]
    return {
        "model_channels": base,
        "channel_mult": _multiples(widths, base),
        "stem_channels": stem if all(stem) else None,
        "color_hints": "color_hints.weight" in shapes,
    }


def _detect_reference_projection(shapes: Shapes) -> NetworkConfig:
    clip = _vote([_axis(shapes, "norm.weight", 0), _axis(shapes, "attn.to_q.weight", 1)])
    both = _axis(shapes, "proj.0.weight", 1)
    return {
        "context_channels": _vote(
            [_axis(shapes, "proj.3.weight", 0), _axis(shapes, "proj.2.weight", 0)]
        ),
        "clip_channels": clip,
        "tagger_channels": both - clip if both and clip and both > clip else None,
    }


def _detect_vae(shapes: Shapes) -> NetworkConfig:
    base = _vote(
        _axis(shapes, name, 0)
        for name in ("encoder.conv_in.weight", "encoder.conv_in.bias", "decoder.norm_out.bias")
    )
    level = r"encoder\.down\.(\d+)\.block\."
    widths = [
        _vote(_axis(shapes, f"encoder.down.{i}.block.0.conv{c}.weight", 0) for c in (1, 2))
        for i in range(_count(shapes, level + r".*"))
    ]
    return {
        "channels": base,
        "channel_mult": _multiples(widths, base),
        "num_res_blocks": _count(shapes, r"encoder\.down\.\d+\.block\.(\d+)\..*") or None,
        "latent_channels": _vote(
            [_axis(shapes, "decoder.conv_in.weight", 1), _axis(shapes, "post_quant_conv.bias", 0)]
        ),
    }


def _detect_clip_vision(shapes: Shapes) -> NetworkConfig:
    embeddings = "vision_model.embeddings."
    patch = _axis(shapes, embeddings + "patch_embedding.weight", 2)
    tokens = _axis(shapes, embeddings + "position_embedding.weight", 0)
    side = round((tokens - 1) ** 0.5) if tokens else 0
    square = patch and side and side * side == tokens - 1
    widths = [
        _axis(shapes, embeddings + "class_embedding", 0),
        _axis(shapes, "vision_model.post_layernorm.weight", 0),
    ]
    return _clip_tower(shapes, "vision_model", widths, "visual_projection.weight") | {
        "image_size": side * patch if square else None,
        "patch_size": patch,
    }


def _detect_clip_text(shapes: Shapes) -> NetworkConfig:
    embeddings = "text_model.embeddings."
    widths = [
        _axis(shapes, embeddings + "token_embedding.weight", 1),
        _axis(shapes, "text_model.final_layer_norm.weight", 0),
    ]
    return _clip_tower(shapes, "text_model", widths, "text_projection.weight") | {
        "vocab_size": _axis(shapes, embeddings + "token_embedding.weight", 0),
        "context_length": _axis(shapes, embeddings + "position_embedding.weight", 0),
    }


def _clip_tower(
    shapes: Shapes, tower: str, widths: list[int | None], projection: str
) -> NetworkConfig:
    """What both towers of CLIP have: layers of one width, and a projection."""
    return {
        "hidden_size": _vote([*widths, _axis(shapes, projection, 1)]),
        "intermediate_size": _axis(shapes, f"{tower}.encoder.layers.0.mlp.fc1.weight", 0),
        "num_layers": _count(shapes, rf"{tower}\.encoder\.layers\.(\d+)\..*") or None,
        "projection_dim": _axis(shapes, projection, 0),
    }


def _detect_tagger(shapes: Shapes) -> NetworkConfig:
    num_levels = _count(shapes, r"layers\.(\d+)\..*")
    depths = [_count(shapes, rf"layers\.{level}\.blocks\.(\d+)\..*") for level in range(num_levels)]
    heads = [
        _vote(shape[0] for _, shape in _matches(shapes, rf"layers\.{i}\.blocks\..*\.logit_scale"))
        for i in range(num_levels)
    ]
    return {
        "patch_size": _axis(shapes, "patch_embed.proj.weight", 2),
        "embed_dim": _vote(
            [_axis(shapes, "patch_embed.norm.weight", 0), _axis(shapes, "patch_embed.proj.bias", 0)]
        ),
        "depths": depths or None,
        "num_heads": heads if heads and all(heads) else None,
        "num_classes": _vote(_axis(shapes, f"head.fc.{leaf}", 0) for leaf in ("weight", "bias")),
    }


def _detect_inception(shapes: Shapes) -> NetworkConfig:
    return {
        "width": _axis(shapes, "Conv2d_1a_3x3.conv.weight", 0),
        "num_classes": _vote(_axis(shapes, f"fc.{leaf}", 0) for leaf in ("weight", "bias")),
    }


def _detect_lpips(shapes: Shapes) -> NetworkConfig:
    channels = [_axis(shapes, f"lin{depth}.model.1.weight", 1) for depth in range(5)]
    return {
        "vgg": "features.2.weight" in shapes,  # where AlexNet has a pool
        "channels": channels if all(channels) else None,
    }


DETECTORS: Mapping[str, Callable[[Shapes], NetworkConfig]] = {
    "unet": _detect_unet,
    "background_encoder": _detect_background_encoder,
    "foreground_encoder": _detect_foreground_encoder,
    "sketch_encoder": _detect_sketch_encoder,
    "reference_projection": _detect_reference_projection,
    "vae": _detect_vae,
    "clip_vision": _detect_clip_vision,
    "clip_text": _detect_clip_text,
    "tagger": _detect_tagger,
    "inception": _detect_inception,
    "lpips": _detect_lpips,
}
