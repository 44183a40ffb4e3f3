"""`export` and `inspect` on the workdir of a training run."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
import small_models

from colorize_jax.commands import cli
from colorize_jax.io.formats.weights_folder import WeightsMetadata
from colorize_jax.io.published import checkpoint, torch_names
from colorize_jax.io.runs.checkpoint import Checkpoints
from colorize_jax.io.runs.workdir import claim_workdir
from colorize_jax.models.architectures import abstract_params
from colorize_jax.training.state import create_state

COMPONENTS = ("unet", "vae")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with a small UNet, whose average differs, and a frozen VAE; and its state."""
    workdir = tmp_path_factory.mktemp("run")
    configs = {component: small_models.full_config(component) for component in COMPONENTS}
    params = {
        component: torch_names.from_torch(
            component,
            small_models.tensors(component, prefix="", dtype=np.float32),
            abstract_params(component, config),
        )
        for component, config in configs.items()
    }
    state = create_state(
        params, optax.identity(), trainable=("^unet",), ema=True, frozen_dtype=jnp.bfloat16
    )
    state = state.replace(ema=jax.tree.map(lambda leaf: np.asarray(leaf) / 2, state.ema))
    prefixes = {component: torch_names.PREFIXES[component] for component in COMPONENTS}
    metadata = WeightsMetadata("colorizer", configs, prefixes, "v", 0.13025)
    claim_workdir(workdir, {"seed": 0}, metadata)
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(1, state)
    return workdir, state


@pytest.mark.parametrize("raw", [False, True])
def test_a_training_run_is_exported(tmp_path, run, raw):
    workdir, state = run
    out = tmp_path / "model.safetensors"
    options = ["--raw"] if raw else []
    assert cli.main(["export", "--checkpoint", str(workdir), "--output", str(out), *options]) == 0
    found = safetensors.numpy.load_file(out)
    trained = (state.params if raw else state.ema)["unet"]
    expected = dict(
        torch_names.to_torch("unet", trained, prefix=torch_names.PREFIXES["unet"])
    ) | dict(torch_names.to_torch("vae", state.frozen["vae"], prefix=torch_names.PREFIXES["vae"]))
    expected = {name: np.ascontiguousarray(array) for name, array in expected.items()}
    assert small_models.same_bits(found, expected)
    source = checkpoint.open_published(out)
    assert (source.prediction_type, set(source.configs)) == ("v", set(COMPONENTS))


def test_a_training_run_is_inspected(run, capsys):
    workdir, _ = run
    assert cli.main(["inspect", str(workdir), "--scan"]) == 0
    out = capsys.readouterr().out
    assert "training run, step 1, running average" in out
    assert "NaN or infinity: none" in out
