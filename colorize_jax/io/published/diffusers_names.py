"""Names of SDXL's networks in the diffusers layout, computed from those of the original layout.

`unet_names` and `vae_names` map original names (without a file's prefix) to diffusers names. Both
layouts hold the same tensors, except that the autoencoder's attention has 1x1 convolutions in the
original and linears in diffusers.
"""

import re
from collections.abc import Iterable, Mapping

# Inside a residual block of the UNet: original -> diffusers.
RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}

UNET_ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}

# Modules of our UNet that SDXL's does not have.
UNET_EXTRAS = re.compile(r"(conv_fg|map_modules|warp_modules)\..*|.*\.lora_(down|up)_\w+\.weight")

VAE_ATTENTION = {
    "norm": "group_norm",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "proj_out": "to_out.0",
}

# Older diffusers files call the autoencoder's attention differently.
VAE_ATTENTION_ALIASES = {
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "proj_attn": "to_out.0",
}


def unet_names(names: Iterable[str], num_res_blocks: int) -> dict[str, str]:
    """Map a UNet's original names to diffusers names; our extras are left out.

    Args:
        names: original tensor names, such as `input_blocks.4.1.proj_in.weight`.
        num_res_blocks: residual blocks a level, 2 in SDXL.
    """
    return {
        name: _unet_name(name, num_res_blocks) for name in names if not UNET_EXTRAS.fullmatch(name)
    }


def vae_names(names: Iterable[str], num_levels: int) -> dict[str, str]:
    """Map an autoencoder's original names to diffusers names.

    Args:
        names: original tensor names, such as `decoder.up.0.block.1.conv1.weight`.
        num_levels: resolution levels, 4 in SDXL.
    """
    return {name: _vae_name(name, num_levels) for name in names}


def is_vae_attention_kernel(diffusers_name: str) -> bool:
    """Whether this weight is a linear in diffusers and a 1x1 convolution in the original."""
    return bool(re.search(r"\.attentions\.0\.to_(q|k|v|out\.0)\.weight$", diffusers_name))


def modern_vae_name(diffusers_name: str) -> str:
    """Rename the attention of older diffusers autoencoders to today's names."""
    return re.sub(
        r"(?<=\.attentions\.0\.)(\w+)(?=\.(weight|bias)$)",
        lambda match: VAE_ATTENTION_ALIASES.get(match[1], match[1]),
        diffusers_name,
    )


def _unet_name(name: str, num_res_blocks: int) -> str:
    for original, diffusers in UNET_ENDS.items():
        if name.startswith(original + "."):
            return diffusers + name.removeprefix(original)
    side, *rest = name.split(".")
    if side == "middle_block":
        index, inner = rest[0], ".".join(rest[1:])
        if index == "1":
            return f"mid_block.attentions.0.{inner}"
        return f"mid_block.resnets.{int(index) // 2}.{_rename(inner, RESNET)}"
    block, index, inner = int(rest[0]), rest[1], ".".join(rest[2:])
    if side == "input_blocks":
        # Each level is num_res_blocks blocks and a downsampler; block 0 is conv_in.
        level, layer = divmod(block - 1, num_res_blocks + 1)
        stage = f"down_blocks.{level}"
        if inner.startswith("op."):
            return f"{stage}.downsamplers.0.conv.{inner.removeprefix('op.')}"
    else:
        level, layer = divmod(block, num_res_blocks + 1)
        stage = f"up_blocks.{level}"
        if inner.startswith("conv."):
            return f"{stage}.upsamplers.0.{inner}"
    if index == "0":
        return f"{stage}.resnets.{layer}.{_rename(inner, RESNET)}"
    return f"{stage}.attentions.{layer}.{inner}"


def _vae_name(name: str, num_levels: int) -> str:
    name = name.replace(".nin_shortcut.", ".conv_shortcut.")
    name = name.replace(".norm_out.", ".conv_norm_out.")
    name = re.sub(
        r"\.mid\.block_(\d)\.", lambda match: f".mid_block.resnets.{int(match[1]) - 1}.", name
    )
    name = re.sub(
        r"\.mid\.attn_1\.(\w+)\.",
        lambda match: f".mid_block.attentions.0.{VAE_ATTENTION[match[1]]}.",
        name,
    )
    name = re.sub(r"\.down\.(\d+)\.block\.", r".down_blocks.\1.resnets.", name)
    name = re.sub(r"\.down\.(\d+)\.downsample\.", r".down_blocks.\1.downsamplers.0.", name)

    def mirrored(match: re.Match[str]) -> str:
        # The original counts the decoder's levels from the finest, diffusers from the coarsest.
        part = "upsamplers.0" if match[2] == "upsample" else "resnets"
        return f".up_blocks.{num_levels - 1 - int(match[1])}.{part}."

    return re.sub(r"\.up\.(\d+)\.(block|upsample)\.", mirrored, name)


def _rename(inner: str, table: Mapping[str, str]) -> str:
    for original, diffusers in table.items():
        if inner.startswith(original + "."):
            return diffusers + inner.removeprefix(original)
    raise KeyError(f"no diffusers name for {inner}")
