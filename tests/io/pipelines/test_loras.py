"""LoRAs in the names of PyTorch programs, merged when a checkpoint is imported."""

import json

import numpy as np
import pytest
import small_models

from colorize_jax.commands import cli
from colorize_jax.errors import UserError
from colorize_jax.io.formats.weights_folder import load_weights
from colorize_jax.io.pipelines import loras
from colorize_jax.io.published import torch_names
from colorize_jax.io.published.checkpoint import open_published

PREFIX = torch_names.PREFIXES["unet"]
# Published weight -> its module in diffusers.
LINEAR = "input_blocks.3.1.transformer_blocks.1.attn2.to_out.0"
LINEAR_THERE = "down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_out.0"
CONV, CONV_THERE = "input_blocks.2.0.op", "down_blocks.0.downsamplers.0.conv"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("unet") / "model.safetensors"
    arrays = small_models.tensors("unet", dtype=np.float32)
    small_models.save(path, arrays, {"prediction_type": "v"})
    return open_published(path, {"unet": small_models.CONFIGS["unet"]})


def _matrices(source):
    """Module -> (down, up), for a linear layer and a convolution."""
    random, found = np.random.default_rng(1), {}
    for module in (LINEAR, CONV):
        out, *rest = source.tensors[f"{PREFIX}{module}.weight"].shape
        down = random.standard_normal((4, *rest)).astype(np.float32)
        up = random.standard_normal((out, 4, *[1] * (len(rest) - 1))).astype(np.float32)
        found[module] = down, up
    return found


def _expected(source, matrices, factor):
    found = {}
    for module, (down, up) in matrices.items():
        base = np.asarray(source.tensors[f"{PREFIX}{module}.weight"])
        product = np.einsum("or,r...->o...", up.reshape(len(up), 4), down)
        found[f"{PREFIX}{module}.weight"] = base + factor * product
    return found


def _spell(style, module, there):
    if style == "peft":
        return f"unet.{there}.lora_A.weight", f"unet.{there}.lora_B.weight"
    if style == "adapters":
        return f"base_model.model.{there}.lora_A.default.weight", (
            f"base_model.model.{there}.lora_B.default.weight"
        )
    name = {"kohya": f"lora_unet_{module}", "kohya diffusers": f"lora_unet_{there}"}[style]
    name = name.replace(".", "_")
    return f"{name}.lora_down.weight", f"{name}.lora_up.weight"


@pytest.mark.parametrize("style", ["peft", "adapters", "kohya", "kohya diffusers"])
def test_every_spelling_changes_the_same_weights(tmp_path, source, style):
    matrices, arrays = _matrices(source), {}
    for module, there in ((LINEAR, LINEAR_THERE), (CONV, CONV_THERE)):
        down, up = _spell(style, module, there)
        arrays |= dict(zip((down, up), matrices[module], strict=True))
        if style.startswith("kohya"):
            arrays[down.replace("lora_down.weight", "alpha")] = np.array(2, np.float32)
    metadata = None
    if not style.startswith("kohya"):
        metadata = {"lora_adapter_metadata": json.dumps({"unet.r": 4, "unet.lora_alpha": 2})}
    arrays["lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"] = np.ones(
        (4, 4), np.float32
    )
    file = small_models.save(tmp_path / "lora.safetensors", arrays, metadata)
    merged, changed, skipped = loras.merge(source, file, 0.5)
    assert (changed, skipped) == (2, 1)
    expected = _expected(source, matrices, 0.5 * 2 / 4)
    for name, tensor in source.tensors.items():
        found = np.asarray(merged.tensors[name])
        np.testing.assert_allclose(found, expected.get(name, np.asarray(tensor)), atol=1e-5)
        assert name in expected or found.tobytes() == np.asarray(tensor).tobytes()


def test_old_names_of_diffusers(tmp_path, source):
    there = "down_blocks.1.attentions.0.transformer_blocks.1.attn2.processor.to_out_lora"
    down, up = _matrices(source)[LINEAR]
    file = small_models.save(
        tmp_path / "lora.safetensors",
        {f"unet.{there}.down.weight": down, f"unet.{there}.up.weight": up},
    )
    merged, changed, _ = loras.merge(source, file)
    name = f"{PREFIX}{LINEAR}.weight"
    expected = np.asarray(source.tensors[name]) + up @ down
    assert changed == 1
    np.testing.assert_allclose(np.asarray(merged.tensors[name]), expected, atol=1e-5)


def test_import_merges(tmp_path, source, capsys):
    down, up = _matrices(source)[LINEAR]
    names = _spell("kohya", LINEAR, LINEAR_THERE)
    file = small_models.save(
        tmp_path / "lora.safetensors", dict(zip(names, (down, up), strict=True))
    )
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"unet": small_models.CONFIGS["unet"]}))
    words = ["import", "--input", str(source.path), "--output", str(tmp_path / "weights")]
    words += ["--config", str(config), "--lora", f"{file}=0.25", "--lora", f"{file}=0.25"]
    assert cli.main(words) == 0
    assert "changed 1 weights at scale 0.25" in capsys.readouterr().out
    tree = load_weights(tmp_path / "weights")["unet"]
    found = dict(torch_names.to_torch("unet", tree, prefix=PREFIX))[f"{PREFIX}{LINEAR}.weight"]
    expected = np.asarray(source.tensors[f"{PREFIX}{LINEAR}.weight"]) + 0.5 * up @ down
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("lora_unet_other.lora_down.weight",), "with lora_unet_other, expected a LoRA of this"),
        (("lora_unet_x.hada_w1_a",), "expected a LoRA of down and up matrices"),
        (("lora_te1_x.lora_down.weight",), "no additions to a UNet"),
        ((_spell("kohya", LINEAR, "")[0],), "half an addition"),
    ],
)
def test_what_is_no_lora_of_it_is_refused(tmp_path, source, names, message):
    arrays = {name: np.ones((4, 4), np.float32) for name in names}
    file = small_models.save(tmp_path / "lora.safetensors", arrays)
    with pytest.raises(UserError, match=message):
        loras.merge(source, file)


def test_an_addition_of_another_size_is_refused(tmp_path, source):
    names = _spell("kohya", LINEAR, LINEAR_THERE)
    arrays = {names[0]: np.ones((4, 8), np.float32), names[1]: np.ones((8, 4), np.float32)}
    file = small_models.save(tmp_path / "lora.safetensors", arrays)
    with pytest.raises(UserError, match=r"of \(8, 4\) by \(4, 8\)"):
        loras.merge(source, file)
