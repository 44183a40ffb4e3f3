"""Configurations: files, overrides, and what a wrong one is told."""

import json
from pathlib import Path

import pytest

from colorize_jax.config.load import config_from_dict, load_config
from colorize_jax.config.options import Config, OptimizerConfig
from colorize_jax.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("name", ["tiny", "tiny_hints", "small", "base"])
def test_every_config_loads_and_survives_json(name):
    config = load_config(CONFIGS / f"{name}.py")
    assert config_from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_defaults_are_the_published_networks():
    config = Config()
    assert config == config_from_dict({})
    assert config.model.transformer_depth == (0, 2, 10)
    assert config.gram.blocks == (23, 63)


def test_overrides_take_the_declared_type():
    config = load_config(
        CONFIGS / "tiny.py",
        [
            "--config.optimizer.learning_rate=1",
            "--config.gram.blocks=(3, 'output_blocks_2_1')",
            "--config.data.cache=true",
            "--config.encoders.weights=1,b",
            "--config.seed=7",
            "--config.optimizer.groups=[('^unet/', 0.5)]",
        ],
    )
    assert config.optimizer.learning_rate == 1.0
    assert type(config.optimizer.learning_rate) is float
    assert config.gram.blocks == (3, "output_blocks_2_1")
    assert config.data.cache is True
    assert config.encoders.weights == ("1", "b")
    assert config.seed == 7
    assert config.optimizer.groups == (("^unet/", 0.5),)
    assert config.model.model_channels == 64


WRONG = {
    "optimizer.learning_rat=1": "unknown key 'optimizer.learning_rat'.*optimizer.learning_rate",
    "optimiser.learning_rate=1": "unknown key 'optimiser'.*nearest: optimizer",
    "learning_rate=1": "unknown key 'learning_rate'.*nearest: optimizer.learning_rate",
    "optimizer=1": "section 'optimizer'",
    "seed.value=1": "seed is a value",
    "total_steps=1.5": "total_steps 1.5, expected a whole number",
    "total_steps=many": "total_steps 'many', expected a whole number",
    "data.cache=1": "data.cache '1', expected true or false",
    "optimizer.learning_rate=True": "expected a number",
    "optimizer.learning_rate=1e999": "learning_rate inf, expected a number from 0 to 100",
    "gram.blocks=23": r"gram.blocks with 23, expected 1..10",
    "gram.blocks=(1.5,)": r"gram.blocks\[0\] 1.5, expected a whole number from 1 to 4096 or a text",
    "gram.blocks=(99,)": r"99, expected 1..10",
    "gram.blocks=()": "no gram.blocks",
    "optimizer.groups=(('a',),)": "optimizer.groups",
    "gram.loss=msee": "'msee', expected one of mse, .*nearest: mse",
    "diffusion.reference_dropout=1.5": "reference_dropout 1.5, expected a number from 0 to 1",
    "data.batch_size=0": "data.batch_size 0, expected a whole number from 1 to 65536",
    "data.batch_size=1": "at least 2: every sample needs another's",
    "optimizer.accumulation=3": "8 in optimizer.accumulation = 3",
    "model.transformer_depth=(0,1)": "one number a level",
    "model.hint_blocks=(0,3)": "expected four",
    "model.vector_channels=126": "multiple of 4",
    "model.norm_groups=24": "expected a divisor of model.model_channels",
    "model.sketch_strides=(2,2,2)": "expected a product of 4",
    "data.height=72": "data.height = 72, expected a multiple of 16",
    "mesh.fsdp=-1": "-1 on one axis",
    "optimizer.learning_rate=-1": "learning_rate -1, expected a number from 0 to 100",
    "optimizer.trainable=('(',)": r"trainable\[0\] '\(', expected a regular expression",
    "data.num_workers=-1": "data.num_workers -1, expected a whole number from 0",
    "data.num_threads=0": "data.num_threads 0, expected a whole number from 1",
    "logging.samples_every=-1": "logging.samples_every -1, expected a whole number from 0",
    "sampling.sampler=Oiler": 'got sampler "Oiler".*nearest: "Euler"',
    "sampling.num_steps=600": "num_steps = 600 for Euler and 1000 timesteps, expected 1 to 500",
    "diffusion.beta_start=0.5": "beta_start = 0.5 above diffusion.beta_end",
    "data.path=pictures": "data.path = 'pictures' with data.source = 'illustrations'",
    "data.buckets=true": "data.buckets = True with .* not read it .only 'folder' or 'encoded' does",
    "color_hints.dropout=0.5": "color_hints for a run that trains none",
    "gram.temperature=2": "gram.temperature = 2.0 with gram.loss = 'mse'",
    "mesh.tensor=0": "mesh.tensor 0, expected a whole number from 1 to 65536 or -1",
}


@pytest.mark.parametrize("override", WRONG)
def test_wrong_values_get_one_clear_line(override):
    with pytest.raises(UserError, match=WRONG[override]) as caught:
        load_config(CONFIGS / "tiny.py", [f"--config.{override}"])
    assert "\n" not in str(caught.value)


def test_what_has_no_effect_is_refused_and_contradictions_are():
    with pytest.raises(UserError, match=r"gram.mask_weights = True with gram.loss = 'kl'"):
        config_from_dict({"gram": {"mask_weights": True, "loss": "kl"}})
    eps = {"zero_terminal_snr": True, "prediction_type": "eps"}
    with pytest.raises(UserError, match=r"zero_terminal_snr with .* = 'eps', expected v"):
        config_from_dict({"diffusion": eps})
    with pytest.raises(UserError, match=r"data.num_examples = 3 with data.source = 'folder'"):
        config_from_dict({"data": {"source": "folder", "num_examples": 3}})


def test_hints_are_drawn_of_pictures_alone():
    with pytest.raises(UserError, match=r"model.hints with data.source = 'encoded', expected pict"):
        config_from_dict({"model": {"hints": True}, "data": {"source": "encoded"}})
    hinted = {"model": {"hints": True}, "color_hints": {"min_radius": 0.2}}
    with pytest.raises(UserError, match=r"min_radius = 0.2 above color_hints.max_radius = 0.05"):
        config_from_dict(hinted)


def test_a_section_checks_itself_when_it_is_made():
    with pytest.raises(UserError, match=r"got optimizer.b1 1, expected a number from 0 below 1"):
        OptimizerConfig(b1=1)


def test_arguments_that_are_none():
    with pytest.raises(UserError, match=r"expected --config.section.key=value"):
        load_config(CONFIGS / "tiny.py", ["--confg.seed=1"])
    with pytest.raises(UserError, match=r"expected --config.section.key=value"):
        load_config(CONFIGS / "tiny.py", ["--config.seed"])


def test_files_that_are_none(tmp_path):
    with pytest.raises(UserError, match=r"expected a Python file; there are: .*tiny\.py"):
        load_config(CONFIGS / "tny.py")
    broken = tmp_path / "broken.py"
    broken.write_text("def get_config():\n    return undefined\n")
    with pytest.raises(UserError, match=r"cannot be run .NameError"):
        load_config(broken)
    broken.write_text("def get_config():\n    return {'model': 3}\n")
    with pytest.raises(UserError, match="model = 3, expected a section"):
        load_config(broken)
