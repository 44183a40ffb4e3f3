"""Plugins alone: exported without the UNet that they were trained on, opened beside it."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy
from small_models import CONFIGS, PLUGIN, save, save_configs, system

from colorize_jax.commands import cli
from colorize_jax.errors import UserError
from colorize_jax.io.published.checkpoint import open_published
from colorize_jax.setup.checkpoints import open_networks

NETWORKS = ("unet", "sketch_encoder", "reference_projection")
UNET = {"loras": PLUGIN["loras"], "foreground_channels": 4}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of a plugin, of that plugin alone, of its colorizer; and the plugin's tensors."""
    path = tmp_path_factory.mktemp("plugin")
    arrays = system(("unet", "background_encoder"), unet=UNET)
    plugin = save(path / "plugin.safetensors", arrays, {"prediction_type": "v"})
    configs = path / "configs.json"
    networks = {name: CONFIGS[name] for name in ("unet", "background_encoder")}
    configs.write_text(json.dumps(networks))
    folder, alone = path / "weights", path / "alone.safetensors"
    run("import", "--input", plugin, "--output", folder, "--config", configs)
    run("export", "--checkpoint", folder, "--output", alone, "--only", "plugin")
    base = save(path / "base.safetensors", system(NETWORKS), {"prediction_type": "v"})
    colorizer = path / "colorizer"
    configs = save_configs(path / "base.json", NETWORKS)
    run("import", "--input", base, "--output", colorizer, "--config", configs)
    return folder, alone, colorizer, arrays


def run(*words):
    assert cli.main([str(word) for word in words]) == 0


def test_a_plugin_alone_is_its_encoder_and_its_additions(files):
    _, alone, _, arrays = files
    found = safetensors.numpy.load_file(alone)
    expected = {
        name
        for name in arrays
        if name.startswith("bg_encoder.") or "lora_" in name or "conv_fg" in name
    }
    assert set(found) == expected and len(expected) < len(arrays)
    assert all(np.array_equal(found[name], arrays[name]) for name in expected)
    source = open_published(alone)
    assert source.kind == "additions" and set(source.configs) == {"unet", "background_encoder"}


def test_it_goes_beside_its_colorizer(files):
    folder, alone, colorizer, _ = files
    networks = open_networks([alone, colorizer])
    assert networks.system.colorizer.unet.loras == (("background", 2),)
    own = networks.params("unet", "background_encoder")
    base = open_networks([colorizer]).params("unet")["unet"]
    whole = open_networks([folder, colorizer]).params("unet", "background_encoder")
    jax.tree.map(
        np.testing.assert_array_equal, own["background_encoder"], whole["background_encoder"]
    )
    stack = next(name for name in base if "transformer_blocks" in base[name])
    attention = own["unet"][stack]["transformer_blocks"]["attn2"]["to_q"]
    plain = base[stack]["transformer_blocks"]["attn2"]["to_q"]["kernel"]
    np.testing.assert_array_equal(attention["kernel"], plain)
    theirs = whole["unet"][stack]["transformer_blocks"]["attn2"]["to_q"]["lora_up_background"]
    np.testing.assert_array_equal(attention["lora_up_background"]["kernel"], theirs["kernel"])


def test_without_its_base_it_is_refused(files):
    _, alone, _, _ = files
    with pytest.raises(UserError, match="a plugin and no colorizer, expected the colorizer"):
        open_networks([alone])


def test_weights_without_a_plugin_have_none_to_export(files, tmp_path, capsys):
    _, _, colorizer, _ = files
    words = ["export", "--checkpoint", str(colorizer), "--output", str(tmp_path / "x.safetensors")]
    assert cli.main([*words, "--only", "plugin"]) == 2
    assert "expected background_encoder among them" in capsys.readouterr().err
