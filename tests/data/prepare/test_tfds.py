"""A prepared folder as a TFDS set: the same records, by a generator and by Apache Beam."""

import numpy as np
import pytest
from drawn_folder import make
from PIL import Image

from data.prepare.jobs.options import Options
from data.prepare.pipeline import prepare
from data.prepare.tfds.__main__ import build, main
from data.records import RECORD_KEYS
from data.sources.array_records import ArrayRecordSource
from data.sources.folders import FolderSource
from data.sources.selection import FolderOptions

pytest.importorskip("tensorflow_datasets")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("prepared")
    make(root / "in", 10, 64)
    options = Options(
        str(root / "in"), str(root / "set"), archive_size=4, lines=("clean", "thick"),
        layout="folder",
    )  # fmt: skip
    prepare(options, lambda line: None)
    return root / "set"


def check(stored, prepared):
    expected = FolderSource(prepared)
    found = ArrayRecordSource(stored)
    assert found.styles == tuple(sorted(expected.styles)) and len(found.styles) == 2
    assert len(found) == len(expected) >= 6
    np.testing.assert_array_equal(found.shapes, expected.shapes)
    for index in range(len(found)):
        ours, theirs = found[index], expected[index]
        for name in ("image", "sketch_mask", "reference", "size", "aesthetic_score"):
            np.testing.assert_array_equal(ours[name], theirs[name])
        assert set(ours) == set(RECORD_KEYS)


def test_records_are_those_of_the_folder(prepared, tmp_path, capsys):
    assert main([str(prepared), f"--output={tmp_path}"]) == 0
    stored = capsys.readouterr().out.splitlines()[-1]
    check(stored, prepared)
    row = ArrayRecordSource(stored)._examples[0]
    assert row["name"].decode() == FolderSource(prepared).name(0)


def test_by_beam(prepared, tmp_path):
    pytest.importorskip("apache_beam")
    check(build(prepared, tmp_path, "--runner=DirectRunner"), prepared)


def test_what_a_picture_lacks_is_empty(prepared, tmp_path):
    folder = tmp_path / "set"
    for kind in ("color", "sketch", "sketch_thick", "mask"):
        (folder / kind).mkdir(parents=True)
    for i in range(3):
        picture = Image.fromarray(np.full((32, 48, 3), 40 * i + 90, np.uint8))
        picture.save(folder / f"color/{i}.png")
        style = "sketch" if i else "sketch_thick"
        picture.convert("L").point(lambda v, i=i: 10 * i).save(folder / style / f"{i}.png")
    Image.new("L", (48, 32), 255).save(folder / "mask/2.png")
    source = ArrayRecordSource(build(folder, tmp_path / "out"), FolderOptions())
    for i in range(3):
        for _ in range(4):
            record = source[i]
            np.testing.assert_array_equal(record["sketch"], np.full((32, 48, 1), 10 * i))
    assert source[2]["sketch_mask"].min() == 255


def test_bad_input_is_one_line(prepared, tmp_path, capsys, monkeypatch):
    assert main([str(tmp_path / "none"), f"--output={tmp_path}/out"]) == 2
    assert main([str(prepared), f"--output={prepared}/tfds"]) == 2
    assert "inside of" in capsys.readouterr().err and not (prepared / "tfds").exists()
    monkeypatch.setitem(__import__("sys").modules, "tensorflow_datasets", None)
    assert main([str(prepared), f"--output={tmp_path}/out"]) == 2
    assert "pip install '.[tfds]'" in capsys.readouterr().err
