"""Weights that a run starts from, and what is frozen of them, through the real commands."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from colorize_jax.commands import cli
from colorize_jax.io.runs.run_weights import RunWeights
from tests.test_train import run

SHORT = ("--config.total_steps=1", "--config.logging.samples_every=0")
EPS = ("--config.diffusion.prediction_type=eps",)
# Of the smallest network's trained parts one convolution; the rest of them is frozen.
PART = ("--config.optimizer.trainable=('^unet/out_2/',)", "--config.encoders.dtype=bfloat16")


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, error
    return lines[0]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A colorizer that predicts noise, as a folder of weights, of a run in which a part trained."""
    folder = tmp_path_factory.mktemp("eps")
    assert run(folder / "run", *SHORT, *EPS, *PART) == 0
    file = folder / "model.safetensors"
    assert cli.main(["export", "--checkpoint", str(folder / "run"), "--output", str(file)]) == 0
    output = ["--output", str(folder / "weights")]
    assert cli.main(["import", "--input", str(file), *output]) == 0
    return folder


def test_what_is_frozen_of_the_trained_networks_keeps_its_floats(weights: Path) -> None:
    parameters = RunWeights(weights / "run")
    found = safetensors.numpy.load_file(weights / "model.safetensors")
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}
    frozen = parameters.read("unet")["input_blocks_0_0"]["kernel"]
    assert frozen.dtype == np.float32
    # More than bfloat16's eight bits of a number are there.
    assert np.any(frozen.view(np.uint32) & 0xFFFF)
    name = "model.diffusion_model.input_blocks.0.0.weight"
    np.testing.assert_array_equal(found[name], frozen.transpose(3, 2, 0, 1))


@pytest.mark.parametrize("place", ["run", "weights"])
def test_a_colorizer_that_contradicts_the_config_is_no_start(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    start = f"--config.model.init_from={weights / place}"
    changes = "--config.model.init_changes=('prediction_type',)"
    for flags in ((start,), (start, changes)):  # a colorizer goes on as it is
        assert run(tmp_path / "run", *SHORT, *flags) == 2
        error = error_of(capsys)
        assert "a colorizer trained with the prediction_type 'eps', and 'v' in the config" in error
        assert "set diffusion.prediction_type to its" in error
    schedule = "--config.diffusion.beta_end=0.02"
    assert run(tmp_path / "run", *SHORT, *EPS, start, schedule) == 2
    assert "trained with the schedule" in error_of(capsys)
    scaling = "--config.encoders.scaling_factor=0.5"
    assert run(tmp_path / "run", *SHORT, *EPS, start, scaling) == 2
    assert "trained with the scaling_factor 1.0, and 0.5 in the config" in error_of(capsys)
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert run(tmp_path / "run", *SHORT, *EPS, start) == 0


def test_hints_of_colour_begin_from_weights_that_have_none(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hinted = ("--config.model.hints=true", f"--config.model.init_from={weights / 'weights'}")
    flags = (*EPS, *hinted, "--config.color_hints.dropout=0")
    assert run(tmp_path / "run", *SHORT, *flags) == 0
    assert RunWeights(tmp_path / "run").read("sketch_encoder")["color_hints"]["kernel"].any()
    # Weights with hints are no start for a run without.
    plain = (*SHORT, *EPS, f"--config.model.init_from={tmp_path / 'run'}")
    assert run(tmp_path / "plain", *plain) == 2
    assert "color_hints/kernel" in error_of(capsys)


def test_of_an_sdxl_base_the_change_is_named(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The same weights, as a base that somebody else trained.
    base = tmp_path / "base"
    shutil.copytree(weights / "weights", base)
    content = json.loads((base / "metadata.json").read_text())
    (base / "metadata.json").write_text(json.dumps(content | {"kind": "sdxl"}))
    start = f"--config.model.init_from={base}"
    assert run(tmp_path / "run", *SHORT, start) == 2
    assert "or name it in model.init_changes=('prediction_type',)" in error_of(capsys)
    changes = "--config.model.init_changes=('prediction_type',)"
    assert run(tmp_path / "run", *SHORT, start, changes) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["weights"]["prediction_type"] == "v"
