"""Pipeline folders: written, read back, refused; without PyTorch."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import small_models
import small_run

from colorize_jax.commands import cli
from colorize_jax.errors import UserError
from colorize_jax.io.formats.readers import open_checkpoint
from colorize_jax.io.open_weights import open_weights
from colorize_jax.io.pipelines import configs, names, write
from colorize_jax.io.pipelines.card import Card
from colorize_jax.io.pipelines.quantize import NETWORKS
from colorize_jax.io.pipelines.read import is_pipeline, open_source, read_pipeline
from colorize_jax.io.published import noise_schedules, torch_names
from colorize_jax.io.published.checkpoint import open_published
from colorize_jax.io.published.importing import import_weights

UNET = {"loras": [["background", 2]], "foreground_channels": 4}
LIMITS = {"default_size": 32, "minimum_size": 16, "size_multiple": 4, "autofit_multiple": 8}
SUGGESTED = write.Suggestions(LIMITS, {"steps": 3}, {"sampler": "Euler", "schedule": "Karras"})


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    """Weights of a small system with its plugin, and their published tensors."""
    path = tmp_path_factory.mktemp("system")
    arrays = small_models.system(tuple(names.FOLDERS), unet=UNET)
    metadata = {"prediction_type": "v", "colorize_jax.size": "[32, 16]"}
    metadata["colorize_jax.noise_schedule"] = noise_schedules.to_text(noise_schedules.PUBLISHED)
    file = small_models.save(path / "model.safetensors", arrays, metadata)
    own = {name: small_models.CONFIGS[name] for name in names.FOLDERS}
    import_weights(open_published(file, own | {"unet": own["unet"] | UNET}), path / "weights")
    return open_weights(path / "weights"), arrays


@pytest.fixture(scope="module")
def written(system, tmp_path_factory):
    """The system's folder, for tests that only read it."""
    folder = tmp_path_factory.mktemp("written") / "folder"
    sizes = write.write_pipeline(system[0], folder, SUGGESTED, Card(has_plugin=True))
    assert sum(sizes.values()) == sum(array.nbytes for array in system[1].values())
    return folder


@pytest.fixture
def copied(written, tmp_path):
    """A copy of it, to be changed."""
    return shutil.copytree(written, tmp_path / "folder")


def test_what_is_written_is_read_back_bit_for_bit(system, written):
    weights, arrays = system
    source = read_pipeline(written)
    torch_names.check_tensors(*source.shapes())
    found = {name: np.asarray(tensor) for name, tensor in source.tensors.items()}
    assert small_models.same_bits(found, arrays)
    metadata = source.metadata()
    assert dataclasses.replace(metadata, left_out=[]) == weights.metadata
    assert is_pipeline(written) and source.kind == "plugin"


def test_what_users_read_is_there(tmp_path, system):
    weights, _ = system
    out = tmp_path / "folder"
    picture = tmp_path / "samples.png"
    picture.write_bytes(b"a picture")
    card = Card("A title", "openrail++", "someone/sdxl", {"training steps": 7}, picture)
    write.write_pipeline(weights, out, SUGGESTED, card, max_shard_bytes=200_000)
    page = (out / "README.md").read_text()
    for text in (
        'base_model: "someone/sdxl"',
        "# A title",
        "training steps: 7",
        "from_pretrained(",
    ):
        assert text in page
    assert (out / "example.png").read_bytes() == b"a picture"
    assert "Apache License" in (out / "LICENSE").read_text()
    index = json.loads((out / "model_index.json").read_text())
    assert index["defaults"] == {"steps": 3} and index["default_size"] == 32
    scheduler = json.loads((out / "scheduler" / "scheduler_config.json").read_text())
    assert (scheduler["sampler"], scheduler["prediction_type"]) == ("Euler", "v_prediction")
    assert (out / "unet" / "diffusion_pytorch_model.safetensors.index.json").is_file()
    for component, (module, _) in configs.CLASSES.items():
        folder = out / component
        ours = module not in ("diffusers", "transformers")
        assert (folder / f"{module}.py").is_file() == ours, component


@pytest.mark.parametrize(("dtype", "error"), [("float8_e4m3fn", 2**-4), ("int8", 1 / 254)])
def test_eight_bits_cost_what_rounding_costs(tmp_path, system, dtype, error):
    weights, arrays = system
    write.write_pipeline(weights, tmp_path / "folder", SUGGESTED, Card(), dtype=dtype)
    stored = open_checkpoint(tmp_path / "folder" / "unet").tensors
    assert {tensor.dtype.name for tensor in stored.values()} == {dtype, "bfloat16", "float32"}
    source = read_pipeline(tmp_path / "folder")
    torch_names.check_tensors(*source.shapes())
    for name, array in arrays.items():
        found, exact = np.asarray(source.tensors[name]).astype(np.float32), np.float32(array)
        tensor = source.tensors[name]
        eight = tensor.dtype == np.float32 and array.ndim == 2
        largest = np.abs(exact).max(axis=1, keepdims=True) if eight else np.abs(exact)
        if eight and dtype == "float8_e4m3fn":
            bound = error * np.abs(exact) + largest / 448 * 2**-9
        else:
            bound = (error if eight else 2**-8) * largest + 1e-7
        assert np.all(np.abs(found - exact) <= bound * 1.001), name
        component = next(c for c, p in torch_names.PREFIXES.items() if name.startswith(p))
        assert not eight or component in NETWORKS


def test_the_autoencoder_is_never_float16(tmp_path, system):
    weights, _ = system
    write.write_pipeline(weights, tmp_path / "folder", SUGGESTED, Card(), dtype="float16")

    def dtypes(name):
        return {t.dtype.name for t in open_checkpoint(tmp_path / "folder" / name).tensors.values()}

    assert (dtypes("unet"), dtypes("vae")) == ({"float16"}, {"float32"})


def run(*words):
    return cli.main([str(word) for word in words])


def test_it_is_inspected_and_imported(tmp_path, system, written, capsys):
    _, arrays = system
    assert run("inspect", written) == 0
    assert "pipeline folder" in capsys.readouterr().out
    assert run("import", "--input", written, "--output", tmp_path / "weights") == 0
    again = open_weights(tmp_path / "weights")
    assert set(again.abstract) == set(names.FOLDERS)
    found = dict(torch_names.to_torch("tagger", again.read("tagger"), prefix="img_embedder.model."))
    assert all(np.array_equal(array, arrays[name]) for name, array in found.items())


def _damaged(folder, change):
    file = folder / "model_index.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index.pop("folder_format"), "format None, expected 1"),
        (lambda index: index.update(folder_format=0), "format 0, expected 1"),
        (lambda index: index.update(_class_name="Other"), "expected a pipeline folder"),
    ],
)
def test_folders_of_other_versions_are_refused(copied, change, message):
    with pytest.raises(UserError, match=message):
        read_pipeline(_damaged(copied, change))


def test_damaged_folders_are_refused(copied):
    with pytest.raises(UserError, match="got --ema"):
        open_source(copied, averages=True)
    (copied / "tagger" / "config.json").write_text('{"image_size": 32}')
    with pytest.raises(UserError, match=r"tagger.config\.json that does not say what tagger is"):
        read_pipeline(copied)


def test_a_run_on_patches_is_refused(tmp_path, capsys):
    workdir = small_run.make(tmp_path / "run")
    words = ("export", "--checkpoint", workdir, "--format", "pipeline")
    assert run(*words, "--output", tmp_path / "folder") == 2
    error = capsys.readouterr().err
    assert "autoencoder and reference are patches" in error and "export as safetensors" in error
    assert not (tmp_path / "folder").exists()


def test_missing_networks_are_named(tmp_path, system, capsys):
    arrays = small_models.system()
    file = small_models.save(tmp_path / "model.safetensors", arrays, {"prediction_type": "v"})
    own = {name: small_models.CONFIGS[name] for name in small_models.COLORIZER}
    import_weights(open_published(file, own), tmp_path / "weights")
    words = ("export", "--checkpoint", tmp_path / "weights", "--output", tmp_path / "out")
    assert run(*words, "--format", "pipeline") == 2
    assert "expected clip_vision, tagger too" in capsys.readouterr().err
    assert run(*words, "--format", "pipeline", "--only", "plugin") == 2
    assert "--only plugin for a pipeline" in capsys.readouterr().err
    assert run(*words, "--dtype", "int8") == 2
    assert "only a pipeline's modules read 8 bits" in capsys.readouterr().err
    assert run(*words, "--checkpoint", tmp_path / "weights") == 2
    assert "got 2 checkpoints for --format safetensors" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"map_modules": True}, "map_modules"), ({"hint_blocks": [0, 1, 3]}, "hint_blocks")],
)
def test_unusual_unets_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        configs.check_unet(small_models.full_config("unet", **changes))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "or neither, expected one of them"),
        (("cases", "--against", "folder"), "or neither, expected one of them"),
        (("--against", "folder", "--case", "plugn"), r"got run 'plugn', expected one of .*plugin"),
    ],
)
def test_verify_says_what_it_wants(capsys, words, message):
    assert run("verify", *words) == 2
    assert re.search(message, capsys.readouterr().err)
