"""What a pipeline folder says of where it is from, and the networks of several checkpoints."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy
import small_models
import small_run
import small_system
from PIL import Image

from colorize_jax.errors import UserError
from colorize_jax.io.open_weights import open_weights
from colorize_jax.io.pipelines.joined import JoinedWeights, find_networks
from colorize_jax.io.published import torch_names
from colorize_jax.io.published.checkpoint import SYSTEM_KEY, open_published
from colorize_jax.io.published.export import PluginAlone, export_safetensors, published_tensors
from colorize_jax.io.published.importing import import_weights
from colorize_jax.setup.checkpoints import open_networks, open_pipeline
from colorize_jax.setup.exporting import describe_system, open_system

SAID = {"title": "A title", "licence": "other", "base_model": None, "picture": None}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = small_run.make(tmp_path_factory.mktemp("run") / "run")
    (workdir / "samples").mkdir()
    for step in (1, 20):
        Image.new("RGB", (4, 4)).save(workdir / "samples" / f"samples-{step:07d}.png")
    return workdir


def test_a_run_says_how_it_was_trained_and_sampled(run):
    suggestions, card = describe_system(open_networks([run]), [open_weights(run)], **SAID)
    assert suggestions.limits == {
        "default_size": 32,
        "minimum_size": 16,
        "size_multiple": 4,
        "autofit_multiple": 16,
    }
    assert suggestions.defaults == {"steps": 2, "reference_guidance": 1.5}
    assert suggestions.sampling == {"sampler": "Euler", "schedule": "automatic"}
    assert card.facts["training steps"].startswith("1, ")
    assert card.facts["batch size"] == 128 and card.facts["data"].endswith("32x32 px")
    assert card.picture.name == "samples-0000020.png" and not card.has_plugin


def test_a_picture_that_is_not_there_is_refused(run):
    with pytest.raises(UserError, match="which does not exist"):
        describe_system(open_networks([run]), [open_weights(run)], **{**SAID, "picture": "no.png"})


def test_a_run_on_patches_is_no_system(run, tmp_path):
    file = tmp_path / "model.safetensors"
    export_safetensors(open_weights(run), file)
    for path in (run, file):
        with pytest.raises(UserError, match="autoencoder and reference are patches"):
            open_system([path])


def test_weights_of_a_run_colour_as_the_run_does_wherever_they_go(run, tmp_path):
    file, folder = tmp_path / "model.safetensors", tmp_path / "weights"
    export_safetensors(open_weights(run), file)
    import_weights(open_published(file), folder)
    sketch, reference = small_system.make_pictures()
    made = []
    for path in (run, file, folder):
        pipeline = open_pipeline(path)
        assert (pipeline.defaults.steps, pipeline.defaults.reference_guidance) == (2, 1.5)
        [picture] = pipeline(sketch, reference, pipeline.defaults.replace(seed=3))
        made.append(np.asarray(picture))
    np.testing.assert_array_equal(made[0], made[1])
    np.testing.assert_array_equal(made[0], made[2])
    with safetensors.safe_open(file, "numpy") as opened:
        said = opened.metadata()[SYSTEM_KEY]
    assert json.loads(said)["encoders"]["autoencoder"] == "patch" and str(tmp_path) not in said


@pytest.mark.parametrize("said", ["[", '{"encoders": {"autoencoder": "vea"}}', '{"shell": 1}'])
def test_a_damaged_record_of_the_system_is_refused(run, tmp_path, said):
    file = tmp_path / "model.safetensors"
    export_safetensors(open_weights(run), file)
    with safetensors.safe_open(file, "numpy") as opened:
        metadata = opened.metadata()
    tensors = safetensors.numpy.load_file(file)
    safetensors.numpy.save_file(tensors, file, metadata | {SYSTEM_KEY: said})
    with pytest.raises(UserError, match="got "):
        open_pipeline(file)


def _weights(folder, components, **changes):
    """A folder of weights of some small networks."""
    arrays = small_models.system(components, **changes)
    own = {name: small_models.CONFIGS[name] | changes.get(name, {}) for name in components}
    file = small_models.save(folder.with_suffix(".safetensors"), arrays, {"prediction_type": "v"})
    prefixes = {"clip_vision": "", "tagger": ""}
    assert not set(components) & set(prefixes) or len(components) == 1
    import_weights(open_published(file, own), folder)
    return open_weights(folder)


def test_each_network_is_the_first_checkpoints_that_has_it(tmp_path):
    colorizer = _weights(tmp_path / "a", small_models.COLORIZER)
    other = _weights(tmp_path / "b", ("vae",))
    found = find_networks([other, colorizer], ["b", "a"])
    assert found["vae"] is other and found["unet"] is colorizer
    joined = JoinedWeights(found)
    assert set(joined.abstract) == set(small_models.COLORIZER)
    assert joined.metadata.prediction_type == "v" and not joined.metadata.left_out
    one, same = joined.read("vae", "quant_conv"), other.read("vae", "quant_conv")
    jax.tree.map(np.testing.assert_array_equal, one, same)


def test_without_a_unet_there_is_no_system(tmp_path):
    _weights(tmp_path / "vae", ("vae",))
    with pytest.raises(UserError, match="expected a UNet too"):
        open_system([tmp_path / "vae"])


def test_a_plugin_alone_goes_into_its_colorizers_unet(tmp_path):
    """Module by module, as export reads them."""
    colorizer = _weights(tmp_path / "a", small_models.COLORIZER)
    changes = {"loras": small_models.PLUGIN["loras"], "foreground_channels": 4}
    plugin = PluginAlone(_weights(tmp_path / "b", ("unet", "background_encoder"), unet=changes))
    joined = JoinedWeights(find_networks([plugin, colorizer], ["b", "a"]))
    assert {"background_encoder", "unet"} <= set(joined.abstract)
    base = dict(torch_names.to_torch("unet", colorizer.read("unet")))
    added = dict(torch_names.to_torch("unet", plugin.read("unet")))
    found = {tensor.name: np.asarray(tensor) for tensor in published_tensors(joined, "unet")}
    assert found.keys() == base.keys() | added.keys() and added
    for name, array in found.items():
        np.testing.assert_array_equal(array, (base | added)[name])
