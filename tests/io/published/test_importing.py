"""Import: every kind of file, and every kind of bad one."""

import dataclasses
import json

import numpy as np
import pytest
import small_models
from small_models import COLORIZER, CONFIGS, PLUGIN, save, system, tensors

from colorize_jax.diffusion.schedule import make_schedule
from colorize_jax.errors import UserError
from colorize_jax.io.formats import weights_folder as weights
from colorize_jax.io.published import checkpoint, importing, noise_schedules, torch_names

BUFFERS = {
    "alphas_cumprod": make_schedule().alphas_cumprod.astype(np.float32),
    "model_ema.decay": np.float32([0.5]),
    "conditioner.embedders.1.model.ln_final.weight": np.ones(4, np.float16),
}


def _import(tmp_path, arrays, metadata=None, configs=None, **options):
    """Import arrays as one file; small models need their configuration said."""
    path = save(tmp_path / "model.safetensors", arrays, metadata)
    found = {c for c, p in torch_names.PREFIXES.items() if any(n.startswith(p) for n in arrays)}
    configs = {c: CONFIGS[c] for c in found} if configs is None else configs
    source = checkpoint.open_published(path, configs)
    importing.import_weights(source, tmp_path / "out", **options)
    return weights.WeightsReader(tmp_path / "out")


def _published(reader):
    """Everything in a folder of weights, back under published names."""
    found = {}
    for component in reader.abstract:
        tree, prefix = reader.read(component), reader.metadata.prefixes[component]
        found |= torch_names.to_torch(component, tree, prefix=prefix)
    return {name: np.ascontiguousarray(array) for name, array in found.items()}


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_colorizer_file(tmp_path, dtype):
    arrays = system(dtype=dtype)
    reader = _import(tmp_path, arrays | BUFFERS, {"prediction_type": "v"})
    assert reader.metadata == weights.WeightsMetadata(
        "colorizer",
        {component: small_models.full_config(component) for component in COLORIZER},
        {component: torch_names.PREFIXES[component] for component in COLORIZER},
        prediction_type="v",
        scaling_factor=0.13025,
        schedule=noise_schedules.PUBLISHED,
    )
    assert small_models.same_bits(_published(reader), arrays)


def test_plugin_file(tmp_path):
    parts = ("unet", "background_encoder", "foreground_encoder")
    arrays = system(parts, unet=PLUGIN)
    reader = _import(tmp_path, arrays)
    assert reader.metadata.kind == "plugin"
    assert reader.metadata.left_out == ["sketch_encoder", "reference_projection", "vae"]
    assert reader.metadata.configs["unet"] == small_models.full_config("unet", **PLUGIN)
    assert small_models.same_bits(_published(reader), arrays)


@pytest.mark.parametrize("component", ["vae", "unet"])
def test_one_network_without_prefix(tmp_path, component):
    arrays = tensors(component, prefix="")
    reader = _import(tmp_path, arrays, configs={component: CONFIGS[component]})
    assert reader.metadata.kind == component
    assert reader.metadata.prefixes == {component: ""}
    assert small_models.same_bits(_published(reader), arrays)


def test_sdxl_file_and_fit(tmp_path):
    arrays = system(("unet", "vae"), unet={"vector_channels": 2816}) | BUFFERS
    path = save(tmp_path / "sdxl.safetensors", arrays | {"v_pred": np.zeros(0, np.float32)})
    source = checkpoint.open_published(path, {"unet": {"head_dim": 16}})
    assert source.kind == "sdxl"
    assert source.prediction_type == "v"
    assert source.left_out == ["sketch_encoder", "reference_projection"]
    name = torch_names.PREFIXES["unet"] + checkpoint.LABEL_EMBEDDING
    for fit, width in ((False, 2816), (True, 512)):
        out = tmp_path / f"out{width}"
        metadata = importing.import_weights(source, out, fit=fit)
        assert metadata.configs["unet"]["vector_channels"] == width
        kernel = _published(weights.WeightsReader(out))[name]
        np.testing.assert_array_equal(kernel, arrays[name][:, :width])


def test_fit_tiles_and_divides_by_use():
    kernel = np.float32([[3, 5], [8, 9]])
    np.testing.assert_array_equal(
        importing.fit_columns(kernel, 3), np.float32([[1.5, 5, 1.5], [4, 9, 4]])
    )
    np.testing.assert_array_equal(importing.fit_columns(kernel, 1), kernel[:, :1])


def test_fit_needs_a_unet(tmp_path):
    with pytest.raises(UserError, match=r"--fit.*holds no UNet"):
        _import(tmp_path, tensors("vae", prefix=""), configs={}, fit=True)


def test_clip_folder_with_shards_and_both_towers(tmp_path):
    arrays = tensors("clip_vision", prefix="") | tensors("clip_text", prefix="")
    buffers = {
        "logit_scale": np.array(2, np.float16),
        "vision_model.embeddings.position_ids": np.arange(5)[None],
    }
    names = list(arrays)
    halves = [names[::2], names[1::2]]
    weight_map = dict.fromkeys(buffers, "b.safetensors")
    for file, half, extra in zip("ab", halves, ({}, buffers), strict=True):
        save(tmp_path / f"{file}.safetensors", {n: arrays[n] for n in half} | extra)
        weight_map |= dict.fromkeys(half, f"{file}.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    config = {
        "model_type": "clip",
        "projection_dim": 16,
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 28,
            "patch_size": 14,
            "hidden_act": "gelu",
        },
        "text_config": {
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "vocab_size": 580,
            "max_position_embeddings": 12,
            "hidden_act": "gelu",
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    for path in (tmp_path, index):
        source = checkpoint.open_published(path)
        assert source.kind == "clip"
        towers = ("clip_vision", "clip_text")
        assert source.configs == {name: small_models.full_config(name) for name in towers}
        out = tmp_path / f"out-{path.name}"
        importing.import_weights(source, out)
        assert small_models.same_bits(_published(weights.WeightsReader(out)), arrays)
    config["vision_config"]["hidden_act"] = "quick_gelu"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="quick_gelu"):
        checkpoint.open_published(tmp_path)


def test_a_text_tower_alone_and_beside_what_is_none(tmp_path):
    arrays = tensors("clip_text", prefix="")
    reader = _import(tmp_path, arrays, configs={"clip_text": {"num_heads": 3}})
    assert reader.metadata.kind == "clip_text"
    assert reader.metadata.configs == {"clip_text": small_models.full_config("clip_text")}
    assert small_models.same_bits(_published(reader), arrays)
    # A vision tower may have rests of a text tower beside it, but no half of one.
    vision = tensors("clip_vision", prefix="")
    rests = {"text_model.embeddings.position_ids": np.arange(12)[None]}
    configs = {"clip_vision": CONFIGS["clip_vision"]}
    reader = _import(tmp_path, vision | rests, configs=configs, overwrite=True)
    assert list(reader.abstract) == ["clip_vision"]
    half = {name: array for name, array in arrays.items() if "layers.1.mlp" not in name}
    with pytest.raises(UserError, match=r"4 missing: text_model\.encoder\.layers\.1\.mlp"):
        _import(tmp_path, half, configs={"clip_text": {"num_heads": 3}}, overwrite=True)


def test_tagger_file_with_buffers_and_timm_config(tmp_path):
    arrays = tensors("tagger", prefix="")
    buffer = {"layers.0.blocks.0.attn.relative_position_index": np.zeros((16, 16), np.int64)}
    save(tmp_path / "model.safetensors", arrays | buffer)
    content = {"architecture": "swin", "model_args": {"img_size": 32, "window_size": 4}}
    (tmp_path / "config.json").write_text(json.dumps(content))
    source = checkpoint.open_published(tmp_path)
    assert source.configs == {"tagger": small_models.full_config("tagger")}
    importing.import_weights(source, tmp_path / "out")
    assert small_models.same_bits(_published(weights.WeightsReader(tmp_path / "out")), arrays)


def test_prediction_types(tmp_path):
    arrays = tensors("vae")
    for said, stored, expected in [
        (None, None, None),
        ("v_prediction", None, "v"),
        (None, "epsilon", "eps"),
        ("eps", "epsilon", "eps"),
    ]:
        metadata = {"prediction_type": stored} if stored else None
        reader = _import(tmp_path, arrays, metadata, prediction_type=said, overwrite=True)
        assert reader.metadata.prediction_type == expected
    with pytest.raises(UserError, match="--prediction-type eps, expected v,"):
        _import(tmp_path, arrays, {"prediction_type": "v"}, prediction_type="eps")
    with pytest.raises(UserError, match="prediction type 'sample'"):
        _import(tmp_path, arrays, prediction_type="sample")


def _broken(arrays, damage):
    name = "model.diffusion_model.input_blocks.1.0.in_layers.2.weight"
    if damage == "missing":
        del arrays[name]
    elif damage == "unknown":
        arrays["model.diffusion_model.input_blocks.1.0.new.weight"] = np.ones(3, np.float16)
    elif damage == "misspelled":
        arrays[name.replace("weight", "wieght")] = arrays.pop(name)
    elif damage == "shape":
        arrays[name] = np.ones((32, 16, 3, 3), np.float16)
    elif damage == "nan":
        arrays[name][3, 2, 1, 0] = np.nan
    elif damage == "quantised":
        arrays[name] = np.ones(arrays[name].shape, np.int8)
    return arrays


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing", r"1 missing: model\.\S+\.input_blocks\.1\.0\.in_layers\.2\.weight"),
        ("unknown", r"1 unexpected: model\.\S+\.new\.weight"),
        ("misspelled", r"1 missing: \S+in_layers\.2\.weight \(nearest: \S+\.wieght\)"),
        ("shape", r"1 misshapen: \S+ is \(32, 16, 3, 3\), expected \(32, 32, 3, 3\)"),
        ("nan", r"NaN or infinity in model\.\S+\.input_blocks\.1\.0\.in_layers\.2\.weight"),
        ("quantised", r"in_layers\.2\.weight as int8, expected floating-point"),
    ],
)
def test_bad_tensors_are_named_and_nothing_is_left(tmp_path, damage, message):
    with pytest.raises(UserError, match=message) as caught:
        _import(tmp_path, _broken(system(), damage))
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_truncated_file(tmp_path):
    path = save(tmp_path / "model.safetensors", system(("vae",)))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match="truncated"):
        checkpoint.open_published(path)


def test_a_file_that_shrinks_after_it_was_opened(tmp_path):
    path = save(tmp_path / "model.safetensors", system(("vae",)))
    source = checkpoint.open_published(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match="truncated"):
        importing.import_weights(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("lora_unet_down_blocks_0.lora_down.weight", "a LoRA file"),
        ("base_model.to_q.lora_A.weight", "a LoRA file"),
        ("text_model.encoder.layers.0.mlp.fc1.weight", "a text encoder"),
        ("control_model.input_blocks.0.0.weight", "a ControlNet"),
        ("cond_stage_model.transformer.text_model.x.weight", "Stable Diffusion 1 or 2"),
        ("down_blocks.0.resnets.0.conv1.weight", "one file of a diffusers folder"),
        ("visual.transformer.resblocks.0.ln_1.weight", "open_clip"),
        ("bert.encoder.weight", r"nothing we know \(bert\.encoder\.weight"),
    ],
)
def test_wrong_kinds_of_checkpoints_are_named(tmp_path, name, what):
    path = save(tmp_path / "model.safetensors", {name: np.ones(3, np.float16)})
    with pytest.raises(UserError, match=what):
        checkpoint.open_published(path)


def test_no_room_is_seen_before_anything_is_written(tmp_path, monkeypatch):
    path = save(tmp_path / "model.safetensors", tensors("vae", prefix=""))
    source = checkpoint.open_published(path)
    usage = dataclasses.make_dataclass("Usage", ["free"])(100)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"full disk.*nothing half-written"):
        importing.import_weights(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({checkpoint.CONFIG_KEY: "{"}, "damaged config"),
        ({checkpoint.CONFIG_KEY: "3"}, "damaged config"),
        ({checkpoint.CONFIG_KEY: '{"vae": {"chanels": 3}}'}, "nearest: channels"),
        ({checkpoint.CONFIG_KEY: '{"vae": 3}'}, "expected a dictionary"),
        ({"scaling_factor": "big"}, "scaling_factor 'big'"),
        ({"prediction_type": "sample"}, "prediction type 'sample'"),
    ],
)
def test_damaged_metadata(tmp_path, metadata, message):
    path = save(tmp_path / "model.safetensors", tensors("vae"), metadata)
    with pytest.raises(UserError, match=message):
        checkpoint.open_published(path)


def test_a_config_of_a_network_that_is_not_there(tmp_path):
    path = save(tmp_path / "model.safetensors", tensors("vae"))
    with pytest.raises(UserError, match="config of unet"):
        checkpoint.open_published(path, {"unet": {}})
