"""The model that comes with the package."""

import numpy as np
import pytest
import safetensors

from colorize_jax.errors import UserError
from colorize_jax.io.shipped import DEMO, DEMO_FILE, find_checkpoint
from colorize_jax.setup.checkpoints import open_pipeline
from data.illustrations import CrossPairSource

NUM_PAIRS = 4
MAX_BYTES = 25 * 10**6
BOUND = 0.35  # measured: 0.20, 13.5 of 67.0 levels


# Of products of 8 bits: mean difference in levels. Measured: 0.6 and 0.1.
ROUNDING = {"float8": 2, "int8": 0.5}


def test_it_is_small_and_bfloat16():
    assert DEMO_FILE.stat().st_size <= MAX_BYTES
    with safetensors.safe_open(DEMO_FILE, "numpy") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"BF16"}  # noqa: SIM118


def test_its_name_is_no_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / DEMO).mkdir()
    assert find_checkpoint(DEMO) == DEMO_FILE
    for path in ("./demo", "demo/", "runs/demo", tmp_path / DEMO):
        assert find_checkpoint(path) == path


@pytest.fixture(scope="module")
def made():
    """Truths, and held-out sketches coloured by the right references and by others'."""
    pairs = [CrossPairSource(7, NUM_PAIRS, 128, 128)[i] for i in range(NUM_PAIRS)]
    pipeline = open_pipeline(DEMO)
    assert pipeline.system.limits.default == 128
    options = pipeline.defaults.replace(seed=0)
    sketches = [pair["sketch"].squeeze() for pair in pairs]
    references = [pair["reference"] for pair in pairs]
    right = pipeline(sketches, references, options)
    others = pipeline(sketches, references[1:] + references[:1], options)
    truths = np.stack([pair["image"] for pair in pairs]).astype(np.float32)
    return truths, *(
        np.stack([np.asarray(p, np.float32) for p in some]) for some in (right, others)
    )


def test_it_colours_as_the_reference_says(made):
    truths, right, others = made
    error, chance = (np.abs(some - truths).mean() for some in (right, others))
    assert error < BOUND * chance, (error, chance)
    # Where the truth's lines are dark, the picture's are too.
    lines = truths.mean(-1) < 80
    assert right.mean(-1)[lines].mean() < right.mean(-1)[~lines].mean() - 40


@pytest.mark.parametrize("products", ROUNDING)
def test_it_colours_the_same_with_products_of_8_bits(products):
    pair, other = (CrossPairSource(7, 2, 128, 128)[i] for i in range(2))
    pictures = []
    for kind in ("dtype", products):
        pipeline = open_pipeline(DEMO, products=kind)
        (result,) = pipeline(
            [pair["sketch"].squeeze()], [other["reference"]], pipeline.defaults.replace(seed=0)
        )
        pictures.append(np.asarray(result, np.float32))
    assert 0 < np.abs(pictures[0] - pictures[1]).mean() < ROUNDING[products]


def test_products_that_there_are_not_are_refused():
    with pytest.raises(UserError, match="expected one of dtype, float8, int8"):
        open_pipeline(DEMO, products="int4")
