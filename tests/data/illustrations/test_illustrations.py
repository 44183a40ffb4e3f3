"""The procedural dataset: seeds, records, stored sets."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data.cache import CachedSource
from data.errors import DataError
from data.illustrations import (
    PART_NAMES,
    TAG_NAMES,
    CrossPairSource,
    IllustrationSource,
    decode_tags,
    encode_tags,
    render,
)
from data.illustrations.__main__ import main
from data.illustrations.canvas.seeds import example_seed
from data.illustrations.parts.gesture import GESTURES
from data.records import RECORD_KEYS

ROOT = Path(__file__).parents[3]


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name, value in right.items():
        assert left[name].dtype == value.dtype and left[name].shape == value.shape, name
        np.testing.assert_array_equal(left[name], value, err_msg=name)


def test_record_is_a_function_of_seed_and_index():
    for index in (0, 3):
        first = IllustrationSource(7, 5, 48, 64, same_identity_rate=0.5)[index]
        assert_same(first, IllustrationSource(7, 9, 48, 64, same_identity_rate=0.5)[index])
    other = IllustrationSource(8, 5, 48, 64, same_identity_rate=0.5)[3]
    assert (first["image"] != other["image"]).any()
    assert (first["sketch"] != other["sketch"]).any()


def test_record_carries_everything():
    record = IllustrationSource(0, 4, 48, 64, reference_size=32)[1]
    assert set(RECORD_KEYS) | {"parts", "tags"} == record.keys()
    shapes = {name: value.shape for name, value in record.items()}
    assert shapes == {
        "image": (48, 64, 3), "sketch": (48, 64, 1), "sketch_mask": (48, 64, 1),
        "parts": (48, 64, 1), "tags": (len(TAG_NAMES),), "size": (), "aesthetic_score": (),
        "reference": (32, 32, 3), "reference_mask": (32, 32, 1),
    }  # fmt: skip
    assert record["size"] == pytest.approx(np.sqrt(48 * 64))
    assert 4.5 <= record["aesthetic_score"] <= 8
    assert record["sketch"].min() < 80 and record["sketch"].max() == 255
    assert record["parts"].max() < len(PART_NAMES)
    foreground = record["parts"] >= PART_NAMES.index("skin")
    assert np.mean((record["sketch_mask"] > 127) == foreground) > 0.95


def test_tags_travel_as_a_vector():
    seen = set()
    for seed in range(300):
        tags = render(seed, seed, 16, 16).tags
        assert set(decode_tags(encode_tags(tags))) == set(tags)
        seen |= set(tags)
    assert len(seen) > 0.95 * len(TAG_NAMES) and set(filter(None, GESTURES)) <= seen
    assert len(set(TAG_NAMES)) == len(TAG_NAMES)
    with pytest.raises(DataError, match="got tag 'tail'"):
        encode_tags(["tail"])


def test_geometry_and_identity_have_separate_seeds():
    drawn, repainted, moved = render(1, 2, 64, 64), render(1, 3, 64, 64), render(4, 2, 64, 64)
    for name in ("sketch", "mask", "parts"):
        np.testing.assert_array_equal(getattr(drawn, name), getattr(repainted, name))
    assert np.abs(drawn.image - repainted.image.astype(float)).mean() > 10
    assert (drawn.sketch != moved.sketch).any()
    for part in ("hair", "skin", "clothes_main"):
        colors = []
        for picture in (drawn, moved, repainted):
            inside = picture.parts[..., 0] == PART_NAMES.index(part)
            values, counts = np.unique(picture.image[inside], axis=0, return_counts=True)
            colors.append(values[counts.argmax()].astype(int))
        assert np.abs(colors[0] - colors[1]).max() <= 3, part
        assert np.abs(colors[0] - colors[2]).max() > 3, part


def test_heldout_seeds_are_no_training_seeds():
    streams = ("geometry", "identity", "reference", "moved", "other", "stranger")
    seeds = {
        split: {example_seed(split, s, k % 2, k // 2) for s in streams for k in range(198)}
        for split in ("train", "heldout")
    }
    assert len(seeds["train"]) == 6 * 2 * 99
    assert not seeds["train"] & seeds["heldout"]
    assert {seed >> 60 for seed in seeds["train"]} == {0}
    assert {seed >> 60 for seed in seeds["heldout"]} == {1}


def test_cross_pair_truth_shares_the_reference_identity():
    pair = CrossPairSource(0, 3, 64, 64)[2]
    g, p = (example_seed("heldout", stream, 0, 2) for stream in ("geometry", "identity"))
    truth = render(g, p, 64, 64)
    np.testing.assert_array_equal(pair["image"], truth.image)
    np.testing.assert_array_equal(pair["sketch"], truth.sketch)
    np.testing.assert_array_equal(pair["aligned_reference"], truth.image)
    moved = render(example_seed("heldout", "reference", 0, 2), p, 64, 64)
    np.testing.assert_array_equal(pair["reference"], moved.image)
    assert (pair["reference"] != pair["image"]).any()


def test_reference_of_the_same_identity_at_the_asked_rate():
    source = IllustrationSource(0, 40, 16, 16, same_identity_rate=0.5)
    moved = [(r["reference"] != r["image"]).any() for r in map(source.__getitem__, range(40))]
    assert 10 <= sum(moved) <= 30
    aligned = IllustrationSource(0, 1, 16, 16)[0]
    np.testing.assert_array_equal(aligned["reference"], aligned["image"])


@pytest.mark.parametrize("shape", [(64, 64), (96, 48), (48, 96), (300, 300)])
def test_any_size_is_drawn(shape):
    picture = render(5, 6, *shape)
    assert picture.image.shape == (*shape, 3) and picture.sketch.min() < 80


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((-1, 4, 64, 64), "got seed -1"),
        ((0, 0, 64, 64), "got the number of examples 0"),
        ((0, 4, 8, 64), "got height 8"),
        ((0, 4, 64, 64, 1.5), "got same_identity_rate 1.5"),
        ((0, 4, 64, 64, 0.0, 3), "got reference_size 3"),
    ],
)
def test_bad_source_is_named(arguments, message):
    with pytest.raises(DataError, match=message):
        IllustrationSource(*arguments)


def test_index_out_of_range():
    source = CachedSource(IllustrationSource(0, 4, 16, 16))
    for index in (-1, 4):
        with pytest.raises(IndexError, match=f"got index {index}"):
            source[index]


def test_cache_keeps_the_same_records():
    class Counting(IllustrationSource):
        calls = 0

        def __getitem__(self, index):
            Counting.calls += 1
            return super().__getitem__(index)

    plain, cached = IllustrationSource(3, 4, 32, 32), CachedSource(Counting(3, 4, 32, 32))
    for index in (0, 1, 0, 3, 1):
        assert_same(cached[index], plain[index])
    assert Counting.calls == 3 and len(cached) == 4
    assert 3 * 32 * 32 * 6 <= cached.nbytes <= 3 * 32 * 32 * 12
    with pytest.raises(ValueError, match="read-only"):
        cached[0]["image"][:] = 0
    assert cached[0].keys() == CachedSource(plain)[0].keys()
    assert CachedSource(plain, names=("image", "size"))[2].keys() == {"image", "size"}


def test_contact_sheet_and_one_line_errors(tmp_path, capsys, monkeypatch):
    sheet = tmp_path / "sheet.png"
    monkeypatch.setattr(sys, "argv", ["x", "--sheet", str(sheet), "--size", "32", "--count", "3"])
    assert main() == 0
    assert sheet.stat().st_size > 1000
    monkeypatch.setattr(sys, "argv", ["x", "--build", str(tmp_path), "--size", "2"])
    assert main() == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "error: got" in error


def test_stored_set_needs_its_extra(monkeypatch):
    from data.illustrations.stored import StoredSource

    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(DataError, match="got no package"):
        StoredSource("anywhere")


_STORE_AND_READ = """
import sys
import numpy as np
from data.errors import DataError
from data.illustrations.stored import StoredSource, build
from data.illustrations.illustrations_dataset_builder import config

options = [
    dict(num_examples=5, height=32, width=48, same_identity_rate=0.5),
    dict(kind="heldout", num_examples=3, height=32, width=32, reference_size=16),
]
for option in options:
    stored, drawn = StoredSource(build(sys.argv[1], **option)), config(**option).source()
    assert len(stored) == len(drawn)
    for i in range(len(drawn)):
        left, right = stored[i], drawn[i]
        assert left.keys() == right.keys()
        for name in right:
            assert type(left[name]) is type(right[name]), name
            assert left[name].dtype == right[name].dtype, name
            assert np.array_equal(left[name], right[name]), name
try:
    StoredSource(sys.argv[1])
except DataError as error:
    assert "holds no stored illustrations" in str(error)
else:
    raise AssertionError("an empty folder was read")
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"tensorflow", "jax", "colorize_jax"}, loaded
"""


def test_stored_set_equals_the_drawn_one_without_tensorflow(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("importlib_resources")
    command = [sys.executable, "-c", _STORE_AND_READ, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
