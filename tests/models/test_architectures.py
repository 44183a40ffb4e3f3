"""Configurations, and the published networks at full size by abstract evaluation."""

import gzip
import json
import struct
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_models

from colorize_jax.errors import UserError
from colorize_jax.io.formats.weights_folder import WeightsMetadata
from colorize_jax.io.published import checkpoint, export, torch_names
from colorize_jax.models import architectures

MANIFESTS = Path(__file__).parents[1] / "io" / "manifests"


def _manifest(name):
    content = json.loads(gzip.decompress((MANIFESTS / f"{name}.json.gz").read_bytes()))
    return {tensor: tuple(shape) for tensor, shape in content["tensors"].items()}


def _sparse_file(path, shapes):
    """A float16 safetensors file of full size that takes no room on the disk."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        end = offset + 2 * int(np.prod(shape, dtype=np.int64))
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    content = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(content)) + content)
        file.truncate(8 + len(content) + offset)
    return path


class _AbstractWeights:
    """Weights of which nothing but shapes exists."""

    def __init__(self, source):
        self.metadata = WeightsMetadata(source.kind, source.configs, source.prefixes)
        self.abstract = {
            component: architectures.abstract_params(component, config)
            for component, config in source.configs.items()
        }

    def read(self, component, module=None):
        raise AssertionError("an abstract weight was read")


@pytest.mark.parametrize(
    ("name", "kind", "changes"),
    [
        ("colorizer_xl", "colorizer", {}),
        ("colorizer_xl_plugin", "plugin",
         {"unet": {"loras": [["background", 4]], "foreground_channels": 4}}),
        ("clip_vit_bigg_14", "clip_vision", {}),
        ("wd_v1_4_swinv2_tagger_v2", "tagger", {}),
    ],
)  # fmt: skip
def test_full_size_by_abstract_evaluation(tmp_path, name, kind, changes):
    manifest = _manifest(name)
    source = checkpoint.open_published(_sparse_file(tmp_path / "model.safetensors", manifest))
    assert source.kind == kind
    assert source.configs == {
        component: architectures.check_config(component, changes.get(component, {}))
        for component in source.prefixes
    }
    # Import: every tensor has one place in our trees, and every place has a tensor.
    found, needed = source.shapes()
    assert found == needed == manifest
    for component, config in source.configs.items():
        tree = architectures.abstract_params(component, config)
        slots = list(torch_names.slots(component, tree))
        places = Counter((slot.path, slot.index) for slot in slots)
        assert set(places.values()) == {1}
        parameters = sum(leaf.size for leaf in jax.tree.leaves(tree))
        assert parameters == sum(int(np.prod(slot.shape)) for slot in slots)
    # Export: every tensor once, in its shape.
    weights = _AbstractWeights(source)
    exported = [
        (tensor.name, tensor.shape)
        for component in weights.abstract
        for tensor in export.published_tensors(
            weights, component, prefix=source.prefixes[component], dtype="float16"
        )
    ]
    assert len(exported) == len(manifest)
    assert dict(exported) == manifest


@pytest.mark.parametrize("component", architectures.PUBLISHED)
def test_every_network_builds_in_its_small_form(component):
    config = small_models.full_config(component)
    assert json.loads(json.dumps(config)) == config
    assert architectures.check_config(component, config) == config
    module = architectures.build(component, config, dtype=jnp.bfloat16)
    assert module.dtype == jnp.bfloat16
    leaves = jax.tree.leaves(architectures.abstract_params(component, config))
    assert leaves and all(leaf.dtype == jnp.float32 for leaf in leaves)


def test_published_configs_are_copies():
    architectures.published_config("unet")["channel_mult"].append(8)
    assert architectures.published_config("unet")["channel_mult"] == [1, 2, 4]


@pytest.mark.parametrize(
    ("component", "config", "message"),
    [
        ("unt", {}, r"nearest: unet"),
        ("unet", {"model_chanels": 32}, r"nearest: model_channels"),
        ("unet", {"model_channels": "32"}, r"model_channels = '32'"),
        ("unet", {"model_channels": -1}, r"model_channels = -1"),
        ("unet", {"map_modules": 1}, r"map_modules = 1"),
        ("unet", {"channel_mult": []}, r"channel_mult = \[\]"),
        ("unet", {"loras": [["background"]]}, r"\[\['background', 4\]\]"),
        ("unet", [], r"expected a dictionary"),
        ("vae", {"channel_mult": 4}, r"channel_mult = 4"),
    ],
)
def test_wrong_configs_are_user_errors(component, config, message):
    with pytest.raises(UserError, match=message):
        architectures.check_config(component, config)


@pytest.mark.parametrize(
    ("component", "config"),
    [
        ("unet", {"transformer_depth": [0, 1]}),
        ("unet", {"model_channels": 33, "channel_mult": [1], "transformer_depth": [0]}),
        ("vae", {"channels": 33}),
    ],
)
def test_impossible_configs_are_user_errors(component, config):
    with pytest.raises(UserError):
        architectures.abstract_params(component, config)
