"""From options to pictures: what is held out, and what is drawn of it while a run goes on."""

import numpy as np
import pytest
from PIL import Image

from colorize_jax.config.load import load_config
from colorize_jax.errors import UserError
from colorize_jax.setup import datasets
from data.illustrations import render

CONFIG = "tests/configs/smallest.py"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures")
    for kind in ("color", "sketch"):
        (path / kind).mkdir()
    for i in range(24):
        drawn = render(i, i, *((48, 40), (40, 96))[i % 2])
        Image.fromarray(drawn.image).save(path / f"color/{i}.png")
        Image.fromarray(drawn.sketch[..., 0]).save(path / f"sketch/{i}.png")
    return path


@pytest.fixture
def config(root, request, monkeypatch):
    monkeypatch.chdir(request.config.rootpath)

    def make(*flags):
        own = ("source=folder", f"path={root}", "num_examples=100000", "reference_size=32")
        return load_config(CONFIG, [*(f"--config.data.{flag}" for flag in own), *flags])

    return make


def test_samples_are_held_out_and_coloured_by_other_pictures(config):
    one = config("--config.data.heldout_share=0.3")
    source = datasets.make_source(one)
    held_out = datasets.held_out(one, source, 4)
    record = datasets.sample_record(one, source, 4)
    assert record["image"].shape == (4, 32, 32, 3)
    own = datasets.first_records(one, held_out, 4)
    for i in range(4):
        np.testing.assert_array_equal(record["image"][i], own[i]["image"])
        np.testing.assert_array_equal(record["reference"][i], own[i - 1]["reference"])
    names = [{pictures.name(i) for i in range(len(pictures))} for pictures in (source, held_out)]
    assert not names[0] & names[1]


def test_validation_reads_the_same_batches_again(config):
    flags = ("--config.data.heldout_share=0.3", "--config.logging.validation_every=2")
    one = config(*flags)
    batches = datasets.make_validation_batches(one, datasets.make_source(one), range(4))
    seen = []
    for _ in range(2):
        batches.set_state({"next_batch": 0})
        seen.append([next(batches)["image"] for _ in range(3)])
    np.testing.assert_array_equal(*seen)
    off = config()
    assert datasets.make_validation_batches(off, datasets.make_source(off), range(4)) is None
    none = config("--config.logging.validation_every=2")
    with pytest.raises(UserError, match=r"without data.heldout_share"):
        datasets.make_validation_batches(none, datasets.make_source(none), range(4))


def test_sizes_of_a_run_are_known_at_its_start(config):
    one = config("--config.data.buckets=True", "--config.data.height=96", "--config.data.width=96")
    source = datasets.make_source(one)
    sampler = datasets.make_bucket_sampler(one.data, source)
    shapes = datasets.shapes(one, sampler)
    assert len(shapes) == 2 and {(96, 96), (64, 128)} == set(shapes)
    batches = datasets.make_batches(one, source, None, sampler)
    assert {next(batches)["image"].shape[1:3] for _ in range(12)} == set(shapes)
    square = datasets.make_bucket_sampler(config().data, source)
    assert square is None and datasets.shapes(config(), square) == [(32, 32)]
    with pytest.raises(UserError, match="got 4 buckets, expected an odd number"):
        few = config("--config.data.buckets=True", "--config.data.num_buckets=4")
        datasets.make_bucket_sampler(few.data, source)
