"""Folders in the diffusers layout: a UNet and an autoencoder with their config.json.

    DIR/unet/config.json, diffusion_pytorch_model.safetensors (or shards)     UNet2DConditionModel
    DIR/vae/...                                                               AutoencoderKL
    DIR/scheduler/scheduler_config.json                                       the prediction type

A folder of one model alone (`DIR` is `unet` or `vae` itself) is read as well.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from colorize_jax.errors import UserError
from colorize_jax.io.formats.readers import open_checkpoint
from colorize_jax.io.formats.tensors import LazyTensor
from colorize_jax.io.published import diffusers_names, noise_schedules, torch_names
from colorize_jax.models.architectures import NetworkConfig, abstract_params, check_config

CLASSES = {"UNet2DConditionModel": "unet", "AutoencoderKL": "vae"}
STEM = "diffusion_pytorch_model"
KIND = "a diffusers folder"
CELL = 8  # pixels on a side of one latent of SDXL's autoencoder

# Options of the diffusers classes: what ours are fixed to. Left out, they have the class's default.
UNET_FIXED: Mapping[str, Any] = {
    "act_fn": "silu",
    "addition_embed_type": "text_time",
    "center_input_sample": False,
    "class_embed_type": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "norm_eps": 1e-5,
    "only_cross_attention": False,
    "resnet_time_scale_shift": "default",
    "reverse_transformer_layers_per_block": None,
    "time_embedding_type": "positional",
    "use_linear_projection": True,
}
UNET_DEFAULTS = {
    **UNET_FIXED,
    "addition_embed_type": None,
    "norm_num_groups": 32,
    "use_linear_projection": False,
}
VAE_FIXED: Mapping[str, Any] = {
    "act_fn": "silu",
    "in_channels": 3,
    "mid_block_add_attention": True,
    "norm_num_groups": 32,
    "out_channels": 3,
    "shift_factor": None,
    "use_post_quant_conv": True,
    "use_quant_conv": True,
}


@dataclass(frozen=True)
class DiffusersFolder:
    """What a folder in the diffusers layout holds, under published names.

    Attributes:
        form: the container, in words.
        tensors: published name (or, where there is none, the file's own) -> lazily read tensor.
        file_names: published name -> the file's own, of every tensor that is expected.
        configs: "unet", "vae" -> configuration.
        prediction_type: as the scheduler's config spells it, or None.
        scaling_factor: of the latents, as the autoencoder's config says, or None.
        schedule: of the noise, as the scheduler's config says, or None.
        metadata: of the UNet's safetensors file.
        sample_size: height and width of the UNet's pictures in px, as its config says, or None.
    """

    form: str
    tensors: dict[str, LazyTensor]
    file_names: dict[str, str]
    configs: dict[str, NetworkConfig] = field(default_factory=dict)
    prediction_type: str | None = None
    scaling_factor: float | None = None
    schedule: dict[str, Any] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    sample_size: list[Any] | None = None


def read(path: str | Path) -> DiffusersFolder | None:
    """Read the table of contents of a folder in the diffusers layout; None where it is none.

    Raises:
        UserError: a model of the folder is damaged, or not of the SDXL family.
    """
    path = Path(path)
    if not path.is_dir():
        return None
    parts: dict[str, Path] = {}
    for folder in (path, path / "unet", path / "vae"):
        name = _read_json(folder / "config.json").get("_class_name")
        if name in CLASSES:
            parts[CLASSES[name]] = folder
    if not parts:
        return None
    tensors: dict[str, LazyTensor] = {}
    file_names: dict[str, str] = {}
    configs: dict[str, NetworkConfig] = {}
    metadata: Mapping[str, str] = {}
    scaling_factor, sample_size = None, None
    for component, folder in parts.items():
        content = _read_json(folder / "config.json")
        if component == "unet":
            configs[component] = unet_config(folder, content)
            metadata, sample_size = open_checkpoint(folder).metadata, content.get("sample_size")
        else:
            configs[component] = vae_config(folder, content)
            scaling_factor = content.get("scaling_factor", 0.18215)  # the class's default
        shown = "" if folder == path else f"{component}/"
        renamed, names = _rename(component, configs[component], folder, shown)
        tensors |= renamed
        file_names |= names
    scheduler_file = path / "scheduler" / "scheduler_config.json"
    scheduler = _read_json(scheduler_file)
    return DiffusersFolder(
        f"diffusers folder with {' and '.join(parts)}",
        tensors,
        file_names,
        configs,
        scheduler.get("prediction_type"),
        None if scaling_factor is None else float(scaling_factor),
        noise_schedules.from_scheduler(scheduler, scheduler_file),
        metadata,
        _pixels(sample_size, configs.get("vae")),
    )


def _pixels(sample_size: Any, vae: NetworkConfig | None) -> list[Any] | None:
    """A UNet's `sample_size`, of latents, in px; whatever is no number stays as it is."""
    if sample_size is None:
        return None
    sides = sample_size if isinstance(sample_size, list) else [sample_size] * 2
    cell = CELL if vae is None else cell_of(vae)
    return [side * cell if isinstance(side, int) else side for side in sides]


def cell_of(vae: NetworkConfig) -> int:
    """Pixels on a side of one latent."""
    return 2 ** (len(vae["channel_mult"]) - 1)


def original_to_diffusers(component: str, config: NetworkConfig) -> dict[str, str]:
    """Published name -> diffusers name, both without prefix; our extras have none."""
    names = [slot.name for slot in torch_names.slots(component, abstract_params(component, config))]
    if component == "unet":
        return diffusers_names.unet_names(names, config["num_res_blocks"])
    return diffusers_names.vae_names(names, len(config["channel_mult"]))


def to_diffusers(
    component: str, tensors: Mapping[str, LazyTensor], config: NetworkConfig
) -> list[LazyTensor]:
    """Rename published tensors (without prefix) to the diffusers layout, leaving out our extras."""
    renamed = []
    for original, name in original_to_diffusers(component, config).items():
        tensor = tensors[original]
        if component == "vae" and diffusers_names.is_vae_attention_kernel(name):
            tensor = _reshaped(tensor, tensor.shape[:2])
        renamed.append(dataclasses.replace(tensor, name=name))
    return renamed


def unet_json(
    config: NetworkConfig, size: Sequence[int] | None = None, vae: NetworkConfig | None = None
) -> dict[str, Any]:
    """The config.json with which UNet2DConditionModel is our UNet without hints and extras.

    The size embedding takes the place of SDXL's: pass `added_cond_kwargs` with `time_ids`
    (B, 2) = [size, score] and `text_embeds` of no channels, (B, 0).

    Args:
        config: of the UNet.
        size: height and width of the pictures that it was trained on, px, where they are known.
        vae: configuration of the autoencoder that the folder holds too.

    Raises:
        UserError: it has no size embedding, or no transformers at the coarsest level.
    """
    if not (config["vector_channels"] and config["transformer_depth"][-1]):
        raise UserError(
            "got a UNet without a size embedding or without transformers at its coarsest level, "
            "expected both: diffusers has no such SDXL UNet; export it as safetensors"
        )
    levels = list(zip(config["channel_mult"], config["transformer_depth"], strict=True))
    channels = [mult * config["model_channels"] for mult, _ in levels]
    crossed = [bool(depth) for _, depth in levels]
    down = ["CrossAttnDownBlock2D" if cross else "DownBlock2D" for cross in crossed]
    up = ["CrossAttnUpBlock2D" if cross else "UpBlock2D" for cross in reversed(crossed)]
    return {
        "_class_name": "UNet2DConditionModel",
        **UNET_FIXED,
        "addition_time_embed_dim": config["vector_channels"] // 2,
        # diffusers calls the number of heads so.
        "attention_head_dim": [c // config["head_dim"] for c in channels],
        "block_out_channels": channels,
        "cross_attention_dim": config["context_channels"],
        "down_block_types": down,
        "in_channels": config["in_channels"],
        "layers_per_block": config["num_res_blocks"],
        "norm_num_groups": config["norm_groups"],
        "out_channels": config["out_channels"],
        "projection_class_embeddings_input_dim": config["vector_channels"],
        **_sample_size(size, CELL if vae is None else cell_of(vae)),
        "transformer_layers_per_block": [max(depth, 1) for _, depth in levels],
        "up_block_types": up,
    }


def _sample_size(size: Sequence[int] | None, cell: int) -> dict[str, Any]:
    """The option of this name, where latents have a size; squares are one number."""
    if not size or any(side % cell for side in size):
        return {}
    height, width = (side // cell for side in size)
    return {"sample_size": height if height == width else [height, width]}


def vae_json(config: NetworkConfig, scaling_factor: float) -> dict[str, Any]:
    """The config.json with which AutoencoderKL is our autoencoder."""
    channels = [mult * config["channels"] for mult in config["channel_mult"]]
    return {
        "_class_name": "AutoencoderKL",
        **VAE_FIXED,
        "block_out_channels": channels,
        "down_block_types": ["DownEncoderBlock2D"] * len(channels),
        "force_upcast": True,
        "latent_channels": config["latent_channels"],
        "layers_per_block": config["num_res_blocks"],
        "sample_size": 1024,
        "scaling_factor": scaling_factor,
        "up_block_types": ["UpDecoderBlock2D"] * len(channels),
    }


def _rename(
    component: str, config: NetworkConfig, folder: Path, shown: str
) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    """Bring one model's tensors under published names; unknown ones keep theirs."""
    prefix = torch_names.PREFIXES[component]
    table = original_to_diffusers(component, config)
    originals = {diffusers: prefix + original for original, diffusers in table.items()}
    tensors = {}
    for name, tensor in open_checkpoint(folder).tensors.items():
        modern = diffusers_names.modern_vae_name(name) if component == "vae" else name
        if component == "vae" and diffusers_names.is_vae_attention_kernel(modern):
            tensor = _reshaped(tensor, (*tensor.shape[:2], 1, 1))
        tensors[originals.get(modern, shown + name)] = tensor
    return tensors, {original: shown + name for name, original in originals.items()}


def _reshaped(tensor: LazyTensor, shape: tuple[int, ...]) -> LazyTensor:
    return dataclasses.replace(tensor, shape=shape, load=lambda: np.asarray(tensor).reshape(shape))


def unet_config(folder: Path, content: Mapping[str, Any]) -> NetworkConfig:
    """Read the config.json of UNet2DConditionModel as our fields.

    Raises:
        UserError: it is no UNet of the SDXL family.
    """
    content = UNET_DEFAULTS | dict(content)
    _check_fixed(folder, content, UNET_FIXED)
    try:
        channels = list(content["block_out_channels"])
        down, up = content["down_block_types"], content["up_block_types"]
        crossed = [kind == "CrossAttnDownBlock2D" for kind in down]
        mirrored = [kind == "CrossAttnUpBlock2D" for kind in reversed(up)]
        plain = {"DownBlock2D", "UpBlock2D", "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"}
        depth = _per_level(content.get("transformer_layers_per_block", 1), len(channels))
        heads = _per_level(
            content.get("num_attention_heads") or content["attention_head_dim"], len(channels)
        )
        crossing = [(c, k) for c, k, cross in zip(channels, heads, crossed, strict=True) if cross]
        sizes = {c // k for c, k in crossing if c % k == 0}
        even = len(sizes) == 1 and all(c % k == 0 for c, k in crossing)
        symmetric = crossed == mirrored and crossed[-1] and {*down, *up} <= plain
        multiples = all(c % channels[0] == 0 for c in channels)
        if not (symmetric and multiples and even):
            raise ValueError("levels, heads or blocks that are not SDXL's kind")
        config = {
            "model_channels": channels[0],
            "channel_mult": [c // channels[0] for c in channels],
            "num_res_blocks": content["layers_per_block"],
            "transformer_depth": [
                d if cross else 0 for d, cross in zip(depth, crossed, strict=True)
            ],
            "norm_groups": content["norm_num_groups"],
            "head_dim": sizes.pop(),
            "context_channels": content["cross_attention_dim"],
            "vector_channels": content["projection_class_embeddings_input_dim"],
            "in_channels": content["in_channels"],
            "out_channels": content["out_channels"],
        }
        stride = config["num_res_blocks"] + 1
        blocks = range(stride, stride * len(channels), stride)
        config["hint_blocks"] = [0, *blocks, stride * len(channels) - 1]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(
            f"got {folder / 'config.json'} that is no SDXL UNet ({type(error).__name__}: {error}), "
            "expected a UNet2DConditionModel of that family; name another folder"
        ) from error
    return check_config("unet", config)


def vae_config(folder: Path, content: Mapping[str, Any]) -> NetworkConfig:
    """Read the config.json of AutoencoderKL as our fields.

    Raises:
        UserError: it is no autoencoder of ours.
    """
    _check_fixed(folder, VAE_FIXED | dict(content), VAE_FIXED)
    try:
        channels = list(content["block_out_channels"])
        config = {
            "channels": channels[0],
            "channel_mult": [c // channels[0] for c in channels],
            "num_res_blocks": content["layers_per_block"],
            "latent_channels": content["latent_channels"],
        }
    except (KeyError, TypeError, IndexError, ZeroDivisionError) as error:
        raise UserError(
            f"got {folder / 'config.json'} that is no autoencoder of ours "
            f"({type(error).__name__}: {error}), expected SDXL's AutoencoderKL; name another folder"
        ) from error
    return check_config("vae", config)


def _check_fixed(folder: Path, content: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    wrong = [
        f"{name} {content[name]!r} (ours: {value!r})"
        for name, value in fixed.items()
        if content[name] != value
    ]
    if wrong:
        raise UserError(
            f"got {folder / 'config.json'} with {', '.join(wrong)}, expected a model of the SDXL "
            "family (Stable Diffusion 1 and 2 are not); name another folder"
        )


def _per_level(value: int | list[int], num_levels: int) -> list[int]:
    return [value] * num_levels if isinstance(value, int) else list(value)


def _read_json(path: Path) -> dict[str, Any]:
    """Read a JSON dictionary; empty where there is no such file."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(
            f"got {path} that cannot be read ({error}), expected JSON; get it again"
        ) from error
    return content if isinstance(content, dict) else {}
