"""Small random models under published names, for tests of files and commands."""

import json

import numpy as np
import safetensors.numpy

from colorize_jax.io.published import torch_names
from colorize_jax.models import architectures

TRUNK = {
    "model_channels": 32,
    "channel_mult": [1, 2],
    "num_res_blocks": 1,
    "transformer_depth": [0, 2],
    "head_dim": 16,
}
CONFIGS = {
    "unet": TRUNK | {"context_channels": 24, "vector_channels": 32, "hint_blocks": [0, 2, 3]},
    "sketch_encoder": {"model_channels": 32, "channel_mult": [1, 2], "head_dim": 16},
    "reference_projection": {
        "num_tokens": 4,
        "context_channels": 24,
        "head_dim": 8,
        "clip_channels": 16,
        "tagger_channels": 32,
    },
    "vae": {"channels": 32, "channel_mult": [1, 2], "num_res_blocks": 1},
    "clip_vision": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_layers": 2,
        "num_heads": 4,
        "image_size": 28,
        "patch_size": 14,
        "projection_dim": 16,
    },
    "clip_text": {
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_layers": 2,
        "num_heads": 3,
        "vocab_size": 580,
        "context_length": 12,
        "projection_dim": 16,
    },
    "tagger": {
        "image_size": 32,
        "patch_size": 4,
        "window_size": 4,
        "embed_dim": 16,
        "depths": [1, 2],
        "num_heads": [2, 4],
        "num_classes": 7,
    },
    "inception": {"width": 2, "num_classes": 5},
    "lpips": {"channels": [4, 6, 8, 6, 4]},
    "background_encoder": TRUNK | {"vector_channels": 64, "num_output_blocks": 2},
    "foreground_encoder": {k: v for k, v in TRUNK.items() if k[0] not in "th"},
}
# What the plugin adds to the UNet.
PLUGIN = {"loras": [["background", 2]], "foreground_channels": 4, "map_modules": True}
COLORIZER = ("unet", "sketch_encoder", "reference_projection", "vae")


def full_config(component, **changes):
    """The complete configuration of a small network."""
    return architectures.check_config(component, CONFIGS[component] | changes)


def tensors(component, *, prefix=None, dtype=np.float16, seed=0, **changes):
    """Random tensors of a small network: published name -> array in PyTorch layout."""
    prefix = torch_names.PREFIXES[component] if prefix is None else prefix
    abstract = architectures.abstract_params(component, full_config(component, **changes))
    random = np.random.default_rng(seed)
    return {
        slot.name: (random.standard_normal(slot.shape) / 8).astype(dtype)
        for slot in torch_names.slots(component, abstract, prefix=prefix)
    }


def system(components=COLORIZER, dtype=np.float16, **changes):
    """Tensors of several small networks with their published prefixes."""
    found = {}
    for component in components:
        found |= tensors(component, dtype=dtype, **changes.get(component, {}))
    return found


def save(path, arrays, metadata=None):
    """Write a safetensors file and return its path."""
    safetensors.numpy.save_file(arrays, path, metadata)
    return path


def save_configs(path, components=COLORIZER):
    """Write the JSON for --config that says what shapes of small models cannot."""
    path.write_text(json.dumps({component: CONFIGS[component] for component in components}))
    return path


def same_bits(found, expected):
    """Whether two dictionaries of arrays are equal in names, dtypes and bits."""
    return found.keys() == expected.keys() and all(
        found[name].dtype == array.dtype
        and found[name].shape == array.shape
        and found[name].tobytes() == array.tobytes()
        for name, array in expected.items()
    )
