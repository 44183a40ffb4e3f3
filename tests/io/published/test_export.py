"""Export: the way back, bit for bit, and what may go wrong on it."""

import dataclasses
import json

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import small_models
from small_models import CONFIGS, PLUGIN, save, system, tensors

from colorize_jax.errors import UserError
from colorize_jax.io.formats.readers import open_checkpoint
from colorize_jax.io.open_weights import open_weights
from colorize_jax.io.published import checkpoint, diffusers_folder, export, importing

COMPONENTS = ("unet", "vae")


@pytest.fixture(scope="module")
def arrays():
    return system(COMPONENTS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, arrays):
    """A folder of small weights."""
    path = tmp_path_factory.mktemp("weights")
    save(path / "model.safetensors", arrays, {"prediction_type": "v", "scaling_factor": "0.5"})
    configs = {component: CONFIGS[component] for component in COMPONENTS}
    source = checkpoint.open_published(path / "model.safetensors", configs)
    importing.import_weights(source, path / "out")
    return path / "out"


def test_what_was_imported_comes_out_again(tmp_path, folder, arrays):
    out = tmp_path / "model.safetensors"
    counts = export.export_safetensors(open_weights(folder), out)
    assert sum(counts.values()) == len(arrays)
    assert small_models.same_bits(safetensors.numpy.load_file(out), arrays)
    with safetensors.safe_open(out, "numpy") as file:
        metadata = file.metadata()
    assert metadata["format"] == "pt"
    # The file says everything that its shapes do not, so that it needs no options to come back.
    source = checkpoint.open_published(out)
    assert (source.kind, source.prediction_type, source.scaling_factor) == ("colorizer", "v", 0.5)
    assert source.configs == open_weights(folder).metadata.configs


def test_hints_of_colour_travel_and_the_file_says_so(tmp_path):
    arrays = system(("sketch_encoder",), sketch_encoder={"color_hints": True})
    assert "control_encoder.color_hints.weight" in arrays
    config = CONFIGS["sketch_encoder"] | {"color_hints": True}
    file = save(tmp_path / "model.safetensors", arrays)
    source = checkpoint.open_published(file, {"sketch_encoder": config})
    importing.import_weights(source, tmp_path / "weights")
    out = tmp_path / "again.safetensors"
    export.export_safetensors(open_weights(tmp_path / "weights"), out)
    assert small_models.same_bits(safetensors.numpy.load_file(out), arrays)
    with safetensors.safe_open(out, "numpy") as opened:
        assert "control_encoder.color_hints.weight" in opened.metadata()[export.HINTS_KEY]
    assert checkpoint.open_published(out).configs["sketch_encoder"]["color_hints"] is True


@pytest.mark.parametrize("dtype", export.DTYPES)
def test_dtypes(tmp_path, folder, arrays, dtype):
    out = tmp_path / "model.safetensors"
    export.export_safetensors(open_weights(folder), out, dtype=dtype)
    expected = {name: array.astype(export.DTYPES[dtype]) for name, array in arrays.items()}
    assert small_models.same_bits(safetensors.numpy.load_file(out), expected)


def test_shards_both_ways(tmp_path, folder, arrays):
    out = tmp_path / "shards"
    export.export_safetensors(open_weights(folder), out, max_shard_bytes=300_000)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 3
    assert max(file.stat().st_size for file in out.glob("*.safetensors")) < 400_000
    source = checkpoint.open_published(out)
    assert source.prediction_type == "v"
    found = {name: np.asarray(tensor) for name, tensor in source.tensors.items()}
    assert small_models.same_bits(found, arrays)


class _Memory:
    """Weights in memory, to be damaged."""

    def __init__(self, folder, change=lambda path, leaf: leaf):
        reader = open_weights(folder)
        self.metadata = reader.metadata
        self.trees = {
            component: jax.tree_util.tree_map_with_path(
                lambda path, leaf: change(jax.tree_util.keystr(path), leaf.copy()),
                reader.read(component),
            )
            for component in reader.abstract
        }
        self.abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), self.trees
        )

    def read(self, component, module=None):
        tree = self.trees[component]
        return tree if module is None else {module: tree[module]}


@pytest.mark.parametrize("value", [np.nan, 70_000.0])
def test_weights_that_are_not_finite_in_the_file_are_named(tmp_path, folder, value):
    def damage(path, leaf):
        leaf = leaf.astype(np.float32)
        if "input_blocks_1_0" in path and "in_layers_2" in path and "kernel" in path:
            leaf[0, 0, 0, 0] = value
        return leaf

    weights = _Memory(folder, damage)
    with pytest.raises(UserError, match=r"model\.\S+\.in_layers\.2\.weight as float16.*wider"):
        export.export_safetensors(weights, tmp_path / "m.safetensors", dtype="float16")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_do_not_belong_to_their_config(tmp_path, folder):
    weights = _Memory(folder)
    configs = dict(weights.metadata.configs)
    configs["unet"] = configs["unet"] | {"context_channels": 32}
    weights.metadata = dataclasses.replace(weights.metadata, configs=configs)
    with pytest.raises(UserError, match=r"misshapen: \S+attn2\.to_k\.weight is \(64, 24\)"):
        export.export_safetensors(weights, tmp_path / "m.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_no_room_leaves_nothing(tmp_path, folder, monkeypatch):
    usage = dataclasses.make_dataclass("Usage", ["free"])(100)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    for options in ({}, {"max_shard_bytes": 1000}):
        with pytest.raises(UserError, match=r"full disk.*nothing half-written"):
            export.export_safetensors(open_weights(folder), tmp_path / "m", **options)
    with pytest.raises(UserError, match=r"full disk"):
        export.export_diffusers(open_weights(folder), tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_folder_of_weights(tmp_path, folder):
    with pytest.raises(UserError, match="no such folder"):
        open_weights(tmp_path / "nowhere")
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(UserError, match=r"a folder with file\.txt"):
        open_weights(tmp_path)
    with pytest.raises(UserError, match="--raw"):
        open_weights(folder, raw=True)


@pytest.mark.parametrize("options", [{}, {"max_shard_bytes": 300_000}])
def test_diffusers_folder_both_ways(tmp_path, folder, arrays, options):
    out = tmp_path / "diffusers"
    assert export.export_diffusers(open_weights(folder), out, **options) == []
    source = checkpoint.open_published(out)
    assert (source.kind, source.prediction_type, source.scaling_factor) == ("sdxl", "v", 0.5)
    found = {name: np.asarray(tensor) for name, tensor in source.tensors.items()}
    assert small_models.same_bits(found, arrays)
    assert source.configs == open_weights(folder).metadata.configs
    metadata = importing.import_weights(source, tmp_path / "fitted", fit=True)
    assert metadata.configs["unet"]["vector_channels"] == 512
    # One model of the folder alone.
    (vae,) = checkpoint.open_published(out / "vae").configs
    assert vae == "vae"


def test_extras_and_other_networks_stay_out_of_diffusers(tmp_path):
    arrays = system(("unet", "reference_projection"), unet=PLUGIN)
    path = save(tmp_path / "model.safetensors", arrays)
    configs = {component: CONFIGS[component] for component in ("unet", "reference_projection")}
    importing.import_weights(checkpoint.open_published(path, configs), tmp_path / "weights")
    weights = open_weights(tmp_path / "weights")
    left_out = export.export_diffusers(weights, tmp_path / "out")
    assert left_out == ["reference_projection", "extras"]
    names = open_checkpoint(tmp_path / "out" / "unet").tensors
    assert not [name for name in names if "lora" in name or "fg" in name]
    assert not (tmp_path / "out" / "scheduler").exists()  # nobody said what it predicts
    source = checkpoint.open_published(tmp_path / "out")
    assert source.configs["unet"]["loras"] == []
    assert source.prediction_type is None


def test_diffusers_needs_a_unet_or_a_vae(tmp_path):
    path = save(tmp_path / "model.safetensors", tensors("clip_vision", prefix=""))
    source = checkpoint.open_published(path, {"clip_vision": CONFIGS["clip_vision"]})
    importing.import_weights(source, tmp_path / "weights")
    with pytest.raises(UserError, match="expected a UNet or an autoencoder"):
        export.export_diffusers(open_weights(tmp_path / "weights"), tmp_path / "out")


def _damaged_folder(tmp_path, folder, change):
    out = tmp_path / "diffusers"
    export.export_diffusers(open_weights(folder), out)
    page = out / "unet" / "config.json"
    page.write_text(json.dumps(json.loads(page.read_text()) | change))
    return out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_linear_projection": False}, "Stable Diffusion 1 and 2 are not"),
        ({"addition_embed_type": "image"}, "addition_embed_type 'image'"),
        ({"attention_head_dim": [2, 3]}, "no SDXL UNet"),
        ({"up_block_types": ["UpBlock2D", "UpBlock2D"]}, "no SDXL UNet"),
        ({"layers_per_block": "two"}, "no SDXL UNet"),
    ],
)
def test_other_families_in_diffusers_folders(tmp_path, folder, change, message):
    with pytest.raises(UserError, match=message):
        checkpoint.open_published(_damaged_folder(tmp_path, folder, change))


def test_misfits_of_diffusers_folders_have_the_files_names(tmp_path, folder):
    out = _damaged_folder(tmp_path, folder, {})
    file = out / "unet" / f"{diffusers_folder.STEM}.safetensors"
    found = safetensors.numpy.load_file(file)
    found["time_embedding.linear_1.wieght"] = found.pop("time_embedding.linear_1.weight")
    save(file, found)
    message = r"unet/time_embedding\.linear_1\.weight \(nearest: unet/time_embedding\S+wieght\)"
    with pytest.raises(UserError, match=message):
        importing.import_weights(checkpoint.open_published(out), tmp_path / "out")


def test_bfloat16_weights_stay_bfloat16(tmp_path):
    arrays = tensors("vae", dtype=ml_dtypes.bfloat16)
    path = save(tmp_path / "model.safetensors", arrays)
    importing.import_weights(checkpoint.open_published(path), tmp_path / "weights")
    export.export_safetensors(open_weights(tmp_path / "weights"), tmp_path / "again.safetensors")
    found = safetensors.numpy.load_file(tmp_path / "again.safetensors")
    assert small_models.same_bits(found, arrays)
