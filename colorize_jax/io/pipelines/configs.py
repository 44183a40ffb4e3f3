"""Every config.json of the folder: with which options its modules are our networks."""

from collections.abc import Mapping, Sequence
from typing import Any

from colorize_jax.errors import UserError
from colorize_jax.io.published import diffusers_folder, noise_schedules
from colorize_jax.io.published.hub_configs import clip_json
from colorize_jax.models.architectures import NetworkConfig
from colorize_jax.models.frozen.clip_vision import MEAN, STD

FORMAT = 1  # of the folder, as its pipeline.py knows it

# Component -> the file that defines its class, and the class.
CLASSES: Mapping[str, tuple[str, str]] = {
    "unet": ("colorize_unet", "ColorizeUNet"),
    "vae": ("diffusers", "AutoencoderKL"),
    "sketch_encoder": ("colorize_sketch_encoder", "ColorizeSketchEncoder"),
    "reference_projection": ("colorize_reference_projection", "ColorizeReferenceProjection"),
    "image_encoder": ("transformers", "CLIPVisionModelWithProjection"),
    "tagger": ("colorize_tagger", "ColorizeTagger"),
    "background_encoder": ("colorize_background_encoder", "ColorizeBackgroundEncoder"),
    "scheduler": ("colorize_scheduler", "ColorizeScheduler"),
    "feature_extractor": ("colorize_reference_processor", "ColorizeReferenceProcessor"),
    "tagger_feature_extractor": ("colorize_reference_processor", "ColorizeReferenceProcessor"),
}
# Networks whose options there have the names of our fields.
OWN = ("sketch_encoder", "reference_projection", "tagger")
# Background encoder: our field -> option; channels are written out there.
BACKGROUND_FIELDS: Mapping[str, str] = {
    "in_channels": "in_channels",
    "num_res_blocks": "layers_per_block",
    "transformer_depth": "transformer_layers_per_block",
    "head_dim": "head_dim",
    "norm_groups": "norm_num_groups",
    "vector_channels": "embedding_channels",
    "num_output_blocks": "num_output_blocks",
}
UNET_EXTRAS = ("loras", "foreground_channels")


def check_unet(config: NetworkConfig) -> None:
    """Refuse a UNet that the folder's cannot be.

    Raises:
        UserError: features for its skips, which nothing reads at inference, or unusual hints.
    """
    skips = [name for name in ("map_modules", "warp_modules") if config[name]]
    if skips:
        raise UserError(
            f"got a UNet with {' and '.join(skips)}, expected one without: no control of a picture "
            "reads them; export it as safetensors"
        )
    expected = level_ends(config)
    if config["hint_blocks"] != expected:
        raise UserError(
            f"got a UNet with hint_blocks {config['hint_blocks']}, expected {expected}, the first "
            "block and the last one of every level; export it as safetensors"
        )


def level_ends(config: NetworkConfig) -> list[int]:
    """Input blocks to which the published system adds hints: the first, and each level's last."""
    stride, levels = config["num_res_blocks"] + 1, len(config["channel_mult"])
    return [0, *range(stride, stride * levels, stride), stride * levels - 1]


def network_json(
    component: str,
    config: NetworkConfig,
    *,
    size: Sequence[int] | None,
    vae: NetworkConfig,
    scaling_factor: float,
    quantization: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The config.json of a network.

    Args:
        component: which.
        config: its configuration.
        size: height and width of the pictures that it was trained on, px, where they are known.
        vae: configuration of the autoencoder.
        scaling_factor: of its latents.
        quantization: how the weights of linear layers are stored, where that is possible.
    """
    if component == "vae":
        return diffusers_folder.vae_json(config, scaling_factor)
    if component == "clip_vision":
        return clip_json({"clip_vision": config})
    content: dict[str, Any] = {"_class_name": CLASSES[component][1]}
    if component == "unet":
        content = diffusers_folder.unet_json(config, size, vae) | content
        content |= {name: config[name] for name in UNET_EXTRAS}
    elif component == "background_encoder":
        content |= {theirs: config[ours] for ours, theirs in BACKGROUND_FIELDS.items()}
        channels = [mult * config["model_channels"] for mult in config["channel_mult"]]
        content |= {"block_out_channels": channels}
    else:
        content |= config
    return content | {"quantization": None if quantization is None else dict(quantization)}


def scheduler_json(
    prediction_type: str, schedule: noise_schedules.Record | None, sampling: Mapping[str, Any]
) -> dict[str, Any]:
    """The scheduler's config; `sampling` has "sampler" and "schedule" where a run says them."""
    known = noise_schedules.to_scheduler(prediction_type, schedule)
    kept = ("beta_end", "beta_schedule", "beta_start", "num_train_timesteps", "prediction_type")
    kept += ("rescale_betas_zero_snr", "steps_offset", "timestep_spacing")
    own = {name: sampling[name] for name in ("sampler", "schedule") if name in sampling}
    return {"_class_name": CLASSES["scheduler"][1], **{name: known[name] for name in kept}, **own}


def processor_json(component: str, config: NetworkConfig) -> dict[str, Any]:
    """The preprocessor_config.json of CLIP's or the tagger's feature extractor."""
    own: dict[str, Any] = {"mean": list(MEAN), "std": list(STD), "reverse_channels": False}
    if component == "tagger":
        own = {"mean": None, "std": None, "reverse_channels": True}
    name = CLASSES["feature_extractor"][1]
    return {"image_processor_type": name, "size": config["image_size"], **own}


def model_index(
    components: Sequence[str], limits: Mapping[str, int], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """model_index.json.

    Args:
        components: that the folder has.
        limits: the sizes that the model draws.
        defaults: options of pictures that the model suggests.
    """
    listed = {name: list(CLASSES[name]) for name in CLASSES if name in components}
    if "background_encoder" not in listed:
        listed["background_encoder"] = [None, None]
    return {
        "_class_name": ["pipeline", "ColorizePipeline"],
        "_diffusers_version": "0.42.0",  # what it was written for
        **listed,
        **limits,
        "defaults": dict(defaults),
        "folder_format": FORMAT,
    }
