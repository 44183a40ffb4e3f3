"""Weights that a run starts from, read straight into the state's arrays."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax.config.load import load_config
from colorize_jax.config.options import MeshConfig
from colorize_jax.errors import UserError
from colorize_jax.io.formats.weights_folder import WeightsReader, save_weights
from colorize_jax.setup.initialize import abstract_state, load_pretrained
from colorize_jax.setup.networks import build_train_system, random_params, weights_metadata
from colorize_jax.sharding import make_mesh, state_shardings

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "tests" / "configs" / "smallest.py")
PART = "--config.optimizer.trainable=('^unet/out_2/',)"


def numbers(tree, rng):
    return jax.tree.map(lambda leaf: rng.random(leaf.shape, np.float32), tree)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder of weights of the smallest networks, and what is in it."""
    config = load_config(CONFIG, [])
    system = build_train_system(config)
    shapes = jax.eval_shape(lambda: random_params(system, jax.random.key(0)))
    rng = np.random.default_rng(0)
    params = {name: numbers(t, rng) for name, t in shapes.items() if jax.tree.leaves(t)}
    folder = tmp_path_factory.mktemp("weights") / "all"
    save_weights(folder, params, weights_metadata(config))
    return folder, params


def assert_holds(loaded, params, dtype_of):
    for name, tree in params.items():
        theirs = dict(jax.tree_util.tree_leaves_with_path(tree))
        for path, leaf in jax.tree_util.tree_leaves_with_path(loaded[name]):
            dtype = dtype_of(f"{name}/" + "/".join(entry.key for entry in path))
            assert isinstance(leaf, jax.Array) and leaf.dtype == dtype, path
            expected = theirs[path].astype(dtype)
            np.testing.assert_array_equal(np.asarray(leaf), expected)
        assert len(jax.tree.leaves(loaded[name])) == len(theirs)


@pytest.mark.parametrize("meshed", [False, True])
def test_weights_come_in_the_dtypes_and_shardings_in_which_they_stay(weights, meshed):
    folder, params = weights
    frozen = "--config.model.frozen_dtype=bfloat16"
    config = load_config(CONFIG, [f"--config.model.init_from={folder}", PART, frozen])
    system = build_train_system(config)
    shardings = None
    if meshed:
        mesh = make_mesh(MeshConfig(), jax.devices()[:1])
        shardings = state_shardings(mesh, abstract_state(system))
    loaded = load_pretrained(system, shardings)
    assert_holds(
        loaded,
        params,
        lambda path: jnp.float32 if path.startswith("unet/out_2/") else jnp.bfloat16,
    )
    if meshed:
        own = loaded["unet"]["out_2"]["kernel"].sharding
        assert own == shardings.params["unet"]["out_2"]["kernel"]


def test_a_part_is_read_without_the_rest(weights):
    reader, params = WeightsReader(weights[0]), weights[1]
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    kernel = params["unet"]["out_2"]["kernel"]
    leaf = jax.ShapeDtypeStruct(kernel.shape, jnp.bfloat16, sharding=where)
    read = reader.read_sharded("unet", {"out_2": {"kernel": leaf}})
    assert read.keys() == {"out_2"} and read["out_2"].keys() == {"kernel"}
    np.testing.assert_array_equal(read["out_2"]["kernel"], kernel.astype(jnp.bfloat16))


def test_an_anchor_without_all_networks_is_named(weights, tmp_path):
    config = load_config(CONFIG, [f"--config.gram.anchor={tmp_path / 'unet'}"])
    save_weights(tmp_path / "unet", {"unet": weights[1]["unet"]}, weights_metadata(config))
    metadata = json.loads((tmp_path / "unet" / "metadata.json").read_text())
    metadata["configs"] = {"unet": metadata["configs"]["unet"]}
    (tmp_path / "unet" / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(UserError, match="without sketch_encoder, reference_proj"):
        load_pretrained(build_train_system(config))


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_of_a_start(tmp_path):
    """All networks at once in NumPy arrays would take more than twice as much."""
    command = [sys.executable, "tests/setup/measure_start.py", str(tmp_path / "weights")]
    command += ["--config=configs/tiny.py", "--config.model.model_channels=512"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    )
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["largest_network"] > 500e6
    assert report["beside_it"] < report["largest_network"]
