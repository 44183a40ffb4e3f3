"""Names of the folder's tensors, computed from the published ones.

UNet, autoencoder and background encoder have those of diffusers; the others the published ones.
"""

import re
from collections.abc import Mapping

from colorize_jax.io.published import diffusers_names, torch_names
from colorize_jax.models.architectures import NetworkConfig, abstract_params

# Network -> folder of the component.
FOLDERS: Mapping[str, str] = {
    "unet": "unet",
    "vae": "vae",
    "sketch_encoder": "sketch_encoder",
    "reference_projection": "reference_projection",
    "clip_vision": "image_encoder",
    "tagger": "tagger",
    "background_encoder": "background_encoder",
}
# The file's name, without its suffix, is that of the library which reads it.
STEMS: Mapping[str, str] = {"clip_vision": "model"}
DEFAULT_STEM = "diffusion_pytorch_model"

LORA = re.compile(r"(.*)\.(to_[qkv])\.lora_(down|up)_(\w+)\.weight")


def stem(component: str) -> str:
    """What the names of a component's weight files begin with."""
    return STEMS.get(component, DEFAULT_STEM)


def folder_names(component: str, config: NetworkConfig) -> dict[str, str]:
    """Published name (without a prefix) -> name in the folder, of every tensor of a network."""
    names = [slot.name for slot in torch_names.slots(component, abstract_params(component, config))]
    if component == "vae":
        return diffusers_names.vae_names(names, len(config["channel_mult"]))
    if component == "background_encoder":
        return diffusers_names.unet_names(names, config["num_res_blocks"])
    if component != "unet":
        return {name: name for name in names}
    found = diffusers_names.unet_names(names, config["num_res_blocks"])
    for name in names:
        if name not in found:
            found[name] = _extra(name, config)
    return found


def _extra(name: str, config: NetworkConfig) -> str:
    """The name of a tensor that SDXL's UNet does not have."""
    match = LORA.fullmatch(name)
    if match is None:
        return name
    attention, projection, direction, label = match.groups()
    beside = f"{attention}.{projection}.weight"
    own = diffusers_names.unet_names([beside], config["num_res_blocks"])[beside]
    own = own.removesuffix(f".{projection}.weight")
    return f"{own}.processor.loras.{label}.{projection}.{direction}.weight"
