"""The second stage by the real programs: from a first stage's workdir to a plugin file in use."""

import os
import signal

import jax
import numpy as np
import pytest
import safetensors.numpy
import small_run
from PIL import Image
from small_system import make_pictures

import train
from colorize_jax.commands import cli
from colorize_jax.io.runs.run_weights import RunWeights
from colorize_jax.setup import datasets

pytestmark = pytest.mark.slow

CHANGES = {
    "total_steps": 3,
    "refine": {"enabled": True, "vector_channels": 32, "init_from_unet": True},
    "gram": {"maximum": 0.0, "blocks": (1,)},
    "optimizer": {
        "trainable": ("^background_encoder/", "/lora_(down|up)_background/"),
        "learning_rate": 1e-2,
        "ema_decay": 0.0,
    },
    "data": {
        **small_run.CONFIG["data"],
        "reference_size": 32,
        "reference_background": True,
        "same_identity_rate": 0.5,
        "batch_size": 4,
        "num_examples": 12,
    },
    "checkpoint": {"every_steps": 2},
    "logging": {"every_steps": 1, "num_samples": 2, "samples_every": 3},
    "evaluation": {"num_pairs": 2, "batch_size": 2},
}


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """A first stage's workdir, and what starts the second one on it."""
    path = tmp_path_factory.mktemp("stages")
    first = small_run.make(path / "first")
    model = {
        **small_run.CONFIG["model"],
        "loras": (("background", 2),),
        "foreground_channels": 4,
        "init_from": str(first),
    }
    content = small_run.CONFIG | CHANGES | {"model": model}
    file = path / "refine.py"
    file.write_text(
        "from ml_collections import ConfigDict\n\n\n"
        f"def get_config():\n    return ConfigDict({content!r})\n"
    )

    def run(workdir):
        return train.main([f"--config={file}", f"--workdir={workdir}"])

    return first, run


@pytest.fixture(scope="module")
def finished(stages, tmp_path_factory):
    """The workdir of a second stage that nobody stopped."""
    workdir = tmp_path_factory.mktemp("second")
    assert stages[1](workdir) == 0
    return workdir


def test_the_colorizer_stays_as_it_was(stages, finished):
    before, after = RunWeights(stages[0]).read_all(), RunWeights(finished).read_all()
    for name in ("sketch_encoder", "reference_projection"):
        jax.tree.map(np.testing.assert_array_equal, before[name], after[name])
    kernel = ["middle_block_1", "transformer_blocks", "attn2", "to_q"]
    old, new = before["unet"], after["unet"]
    for key in kernel:
        old, new = old[key], new[key]
    np.testing.assert_array_equal(old["kernel"], new["kernel"])
    assert new["lora_up_background"]["kernel"].any()
    assert (finished / "samples" / "samples-0000003.png").exists()


def test_a_stopped_run_resumes_to_the_same_bits(stages, finished, tmp_path):
    calls = []

    def record(content):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return {name: content[name] for name in datasets.RECORD_KEYS}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "step_record", record)
        assert stages[1](tmp_path) == 128 + signal.SIGINT
    assert stages[1](tmp_path) == 0
    ours, theirs = (RunWeights(folder).read_all() for folder in (tmp_path, finished))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_a_plugin_file_colours_beside_the_first_stage(stages, finished, tmp_path):
    sketch, reference = make_pictures()
    Image.fromarray(sketch).save(tmp_path / "sketch.png")
    Image.fromarray(reference).save(tmp_path / "reference.png")
    results = {}
    for name, options in {"published": [], "alone": ["--only", "plugin"]}.items():
        file = tmp_path / f"{name}.safetensors"
        words = ["export", "--checkpoint", str(finished), "--output", str(file), *options]
        assert cli.main(words) == 0
        prefixes = {key.split(".")[0] for key in safetensors.numpy.load_file(file)}
        assert prefixes == {"model", "bg_encoder"}
        output = tmp_path / f"{name}.png"
        words = ["colorize", "--checkpoint", str(file), "--checkpoint", str(stages[0])]
        words += ["--sketch", str(tmp_path / "sketch.png"), "--output", str(output)]
        words += ["--reference", str(tmp_path / "reference.png"), "--background_plugin"]
        assert cli.main([*words, "--seed", "1"]) == 0
        results[name] = np.asarray(Image.open(output), int)
    assert np.abs(results["published"] - results["alone"]).max() <= 1
