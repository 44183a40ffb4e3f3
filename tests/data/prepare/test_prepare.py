"""From a folder of pictures to a set that a run reads, whatever happens in between."""

import json
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from drawn_folder import make

from data.pictures.lines import extract_lines
from data.prepare.__main__ import main
from data.prepare.jobs.options import Options
from data.prepare.jobs.output import claimed, list_pictures
from data.prepare.pipeline import prepare
from data.prepare.stages import units
from data.sources.folders import FolderSource

COUNT, SIDE = 20, 112


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """The folder, and its faults by name."""
    root = tmp_path_factory.mktemp("input") / "pictures"
    return root, make(root, COUNT, SIDE)


def options(pictures, output, **changed) -> Options:
    return Options(str(pictures[0]), str(output), **{"archive_size": 10, **changed})


def made(pictures, output, **changed) -> Path:
    prepare(options(pictures, output, **changed), lambda line: None)
    return Path(output)


@pytest.fixture(scope="module")
def dataset(pictures, tmp_path_factory):
    return made(pictures, tmp_path_factory.mktemp("output") / "set")


def contents(root: Path) -> dict[str, bytes]:
    """Of all files but those that reading a set leaves there."""
    files = (p for p in sorted(root.rglob("*")) if p.is_file() and ".catalog" not in p.parts)
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def report(root: Path) -> dict:
    return json.loads((root / "report.json").read_text())


def test_every_fault_is_found_and_told(pictures, dataset):
    told = dict(report(dataset)["left_out"])
    words = {"copy": "is the same file as", "again": "looks like", "damaged": "is damaged"}
    assert {"copy", "again", "damaged"} == set(pictures[1].values())
    assert told.pop("notes.txt") == "is no picture (suffix .txt)"
    assert told.keys() == pictures[1].keys()
    for name, fault in pictures[1].items():
        assert told[name].startswith(words[fault])
    assert report(dataset)["taken"] == COUNT - 1  # one of them is damaged


def test_a_run_reads_all_of_it(dataset):
    source = FolderSource(dataset)
    assert len(source) == COUNT - 1
    assert source.styles == ("sketch", "sketch_pencil", "sketch_thick")
    assert source.has_masks and source.faults() == 0
    for index in range(len(source)):
        record = source[index]
        assert record["image"].shape[:2] == record["sketch"].shape[:2]
        assert record["sketch"].mean() > 200
        assert 0.05 < record["sketch_mask"].mean() / 255 < 0.95


def test_sketches_are_the_lines_of_their_pictures(dataset):
    """By the reader of training on one side, of the set on the other; turned ones, too."""
    source = FolderSource(dataset)
    for index in range(len(source)):
        row = int(source.rows[index])
        image = source.picture("color", row, "color")
        colors = image.whole(*image.shape, 1).astype(np.float32) / np.float32(127.5) - 1
        sketch = source.picture("sketch", row, "sketch")
        stored = sketch.whole(*sketch.shape, 1)[..., 0]
        assert stored.min() < 128
        np.testing.assert_array_equal(stored, np.rint(255 * (1 - extract_lines(colors))))


def test_the_published_layout(dataset):
    for kind in ("color", "sketch", "mask"):
        names = sorted(path.name for path in (dataset / kind).iterdir())
        assert names == ["000000.zip", "000001.zip"]
    with zipfile.ZipFile(dataset / "color" / "000001.zip") as archive:
        members = archive.namelist()
    assert len(members) == COUNT - 11 and all(name.startswith("000001/") for name in members)
    table = pq.read_table(dataset / "data_index" / "train.parquet")
    assert table["image_path"].to_pylist()[10:20] == members
    source = FolderSource(dataset)
    shapes = {source.name(i): tuple(shape) for i, shape in enumerate(source.shapes.tolist())}
    for row in table.to_pylist():
        folder, _, rest = row["image_path"].partition("/")
        name = f"color/{folder}.zip/{folder}/{rest}"
        assert shapes[name] == (row["height"], row["width"])


@pytest.mark.parametrize("layout", ["tar", "folder"])
def test_other_layouts_hold_the_same(pictures, dataset, tmp_path, layout):
    def pictures_of(source):
        found = {}
        for index in range(len(source)):
            row = int(source.rows[index])
            name = re.search(r"0{5}\d(?:\.zip/0{5}\d|\.tar)?/([^.]*)", source.name(index))[1]
            stores = ("color", *sorted(source.styles), "mask")
            found[name] = [source.picture(store, row, "color").content for store in stores]
        assert len(found) == COUNT - 1
        return found

    other = FolderSource(made(pictures, tmp_path / "set", layout=layout))
    assert pictures_of(other) == pictures_of(FolderSource(dataset))


def test_processes_change_nothing_and_the_input_is_left_alone(pictures, dataset, tmp_path):
    before = contents(pictures[0])
    stamps = [path.stat().st_mtime_ns for path in sorted(pictures[0].rglob("*"))]
    assert contents(made(pictures, tmp_path / "set", processes=2)) == contents(dataset)
    assert contents(pictures[0]) == before
    assert stamps == [path.stat().st_mtime_ns for path in sorted(pictures[0].rglob("*"))]


class Killed(BaseException):
    """Stands for a kill: nobody tidies up behind it."""


def test_a_job_goes_on_from_wherever_it_was_killed(pictures, dataset, tmp_path, monkeypatch):
    output, whole = tmp_path / "set", contents(dataset)
    replace, left = Path.replace, 0

    def killing(path, target):
        nonlocal left
        left -= 1
        if left < 0:
            shutil.copy(path, path.with_name(f".half{kills}.tmp"))  # a kill tidies nothing up
            raise Killed
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", killing)
    kills = 0
    while True:
        left = kills % 9
        try:
            made(pictures, output)
        except Killed:
            kills += 1
            found = contents(output) if output.exists() else {}
            for name, content in found.items():
                assert name.endswith(".tmp") or whole[name] == content, name
            continue
        break
    assert kills > 4
    assert contents(output) == whole


def test_done_work_is_not_done_again(pictures, dataset, monkeypatch):
    monkeypatch.setattr(units, "make", lambda *given: pytest.fail("made again"))
    monkeypatch.setattr(
        "data.prepare.stages.survey.look", lambda *given: pytest.fail("looked again")
    )
    before = contents(dataset)
    prepare(options(pictures, dataset), lambda line: None)
    assert contents(dataset) == before


def test_names_with_the_same_stem_and_dots(tmp_path):
    source = tmp_path / "pictures"
    make(source, 5, 64)
    for path in source.glob("*.*"):
        path.unlink() if path.suffix == ".txt" else None
    first = next(path for path in sorted(source.iterdir()) if path.suffix.lower() == ".jpg")
    second = next(path for path in sorted(source.rglob("*.jpeg")))
    shutil.copy(first, source / "one.v2.jpg")
    shutil.copy(second, source / "one.v2.jpeg")
    for layout in ("zip", "tar", "folder"):
        output = made((source,), tmp_path / layout, layout=layout, duplicates="keep")
        assert len(FolderSource(output)) == report(output)["taken"] >= 6


# ----------------------------------------------------------------------------- references


def rows(output: Path, name: str = "data_index/train.parquet") -> list[dict]:
    return pq.read_table(output / name).to_pylist()


def test_pictures_name_others_of_their_character(pictures, tmp_path):
    output = made(pictures, tmp_path / "set", characters=("pattern:^sets/(.*?)/", "folder"))
    by_name = {row["image_path"]: row for row in rows(output)}
    assert report(output)["characters"] == 4
    for row in by_name.values():
        folder = row["source"].rpartition("/")[0]
        others = row["reference_list"]
        if not folder:
            assert others is None
            continue
        assert row["image_path"] not in others
        assert {by_name[other]["source"].rpartition("/")[0] for other in others} == {folder}
    source = FolderSource(output)
    assert source.table["references"].take(source.rows).null_count < len(source)


def test_held_out_pictures_are_in_no_other_table(pictures, tmp_path):
    output = made(
        pictures, tmp_path / "set", characters=("folder",), heldout_share=0.4, splits="aspect"
    )
    held_out = rows(output, "heldout.parquet")
    others = [
        row
        for path in sorted((output / "data_index").iterdir())
        for row in rows(output, f"data_index/{path.name}")
    ]
    assert held_out and others and len(held_out) + len(others) == COUNT - 1
    folders = [{r["source"].rpartition("/")[0] for r in part} for part in (held_out, others)]
    assert not folders[0] & folders[1] - {""}
    assert len(FolderSource(output)) == len(others)
    shapes = {"landscape": 1, "portrait": -1, "square": 0}
    for path in (output / "data_index").iterdir():
        shape, _, reference = path.stem.partition("_")
        for row in rows(output, f"data_index/{path.name}"):
            assert np.sign(row["width"] - row["height"]) == shapes[shape]
            assert (row["reference_list"] is not None) == bool(reference)


def test_what_users_know_goes_into_the_index(pictures, tmp_path):
    table = tmp_path / "mine.jsonl"  # as `colorize_jax tags` writes it, and more
    known = [
        {"image_path": "0000.jpg", "tags": ["a b", "c"], "who": ["x"], "aesthetic_score": 6.5},
        {"image_path": "drawing no. 0005", "tags": [], "who": ["x"], "caption": "five"},
        {"image_path": "sets/a/IMG_0001.JPG", "tags": ["d"], "who": []},
    ]
    table.write_text("".join(json.dumps(row) + "\n" for row in known))
    output = made(pictures, tmp_path / "set", metadata=str(table), characters=("column:who",))
    found = {row["source"].rpartition(".")[0]: row for row in rows(output)}
    one, five = found["0000"], found["drawing no. 0005"]
    assert (one["aesthetic_score"], one["tags"]) == (6.5, "a b, c")
    assert (five["caption"], five["tags"]) == ("five", None)
    assert one["reference_list"] == [five["image_path"]]
    assert five["reference_list"] == [one["image_path"]]
    assert report(output)["with_references"] == 2 and report(output)["with_score"] == 1


# ---------------------------------------------------------------------------------- masks


def test_given_masks_come_first(pictures, tmp_path):
    from PIL import Image

    masks = tmp_path / "masks"
    masks.mkdir()
    Image.new("L", (160, 160), 255).save(masks / "0000.png")
    output = made(pictures, tmp_path / "set", masks=(str(masks), "transparency", "estimate"))
    assert report(output)["masks"] == {"estimate": COUNT - 2, "masks": 1}
    (row,) = [row for row in rows(output) if row["source"] == "0000.jpg"]
    assert row["foreground"] == 1.0


def test_transparency_is_a_mask(tmp_path):
    from PIL import Image

    source = tmp_path / "pictures"
    source.mkdir()
    for i in range(2):
        colors = np.full((64, 64, 4), 90 + 60 * i, np.uint8)
        colors[..., 3] = 0
        colors[16:48, 8 : 40 + 8 * i, 3] = 255
        Image.fromarray(colors).save(source / f"{i}.png")
    output = made((source,), tmp_path / "set")
    assert [row["mask"] for row in rows(output)] == ["transparency"] * 2
    assert [row["foreground"] for row in rows(output)] == pytest.approx([0.25, 0.3125])


# --------------------------------------------------------------------------------- errors


def refused(capsys, *words: object) -> str:
    status = main([*map(str, words), "--processes=1"])
    error = capsys.readouterr().err.splitlines()[-1]
    assert status == 2 and error.startswith("error: got ") and "expected" in error
    return error


def test_no_pictures(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("")
    error = refused(capsys, tmp_path / "in", f"--output={tmp_path}/out")
    assert "no pictures in" in error and not (tmp_path / "out").exists()
    assert "nowhere" in refused(capsys, tmp_path / "nowhere", f"--output={tmp_path}/out")


def test_all_damaged_or_all_copies(pictures, tmp_path, capsys):
    source = tmp_path / "in"
    source.mkdir()
    for i in range(3):
        shutil.copy(pictures[0] / "0000.jpg", source / f"{i}.jpg")
    error = refused(capsys, source, f"--output={tmp_path}/out")
    assert "got 3 pictures" in error and "all of which are copies of 0.jpg" in error
    for path in source.iterdir():
        path.write_bytes(b"none")
    error = refused(capsys, source, f"--output={tmp_path}/other")
    assert "none of which can be used (3: is no picture that can be read)" in error


def test_an_output_of_another_job(pictures, dataset, tmp_path, capsys):
    flags = (f"--output={dataset}", "--archive-size=10")
    error = refused(capsys, pictures[0], *flags, "--lines", "thick")
    assert "begun with lines ['clean', 'thick', 'pencil'], expected ['thick']" in error.replace(
        "lines ['thick']", "['thick']"
    )
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(pictures[0] / "0000.jpg", other)
    assert "belongs to 22 pictures of" in refused(capsys, other, *flags)
    assert "holds other things" in refused(capsys, other, f"--output={pictures[0]}/sets")


def test_an_output_inside_the_input(pictures, capsys):
    error = refused(capsys, pictures[0], f"--output={pictures[0]}/out")
    assert "one of which lies in the other" in error


def test_another_process_at_work(pictures, tmp_path, capsys):
    given = options(pictures, tmp_path / "set")
    with claimed(given, list_pictures(given)):
        error = refused(capsys, pictures[0], f"--output={tmp_path}/set", "--archive-size", 10)
    assert "another process is at work" in error


def test_too_little_room(pictures, tmp_path, capsys, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=20_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    error = refused(capsys, pictures[0], f"--output={tmp_path}/set")
    assert "0.00 GB free" in error and "make room" in error
    assert not list((tmp_path / "set").glob("*/*.zip"))


def test_options_out_of_range(pictures, tmp_path, capsys):
    for flags, told in (
        (("--lines", "chalk"), "got lines 'chalk'"),
        (("--lines", "thick", "thick"), "expected each once"),
        (("--masks", "none"), "got masks 'none'"),
        (("--alike-bits", "9"), "got alike_bits 9"),
        (("--characters", "tags"), "without tags"),
        (("--characters", "pattern:("), "no regular expression"),
        (("--characters", "embeddings:2"), "a cosine between 0 and 1"),
        (("--characters", "column:who"), "without --metadata"),
        (("--characters", "faces"), "expected folder, pattern:REGEX"),
    ):
        assert told in refused(capsys, pictures[0], f"--output={tmp_path}/set", *flags)
    assert not (tmp_path / "set").exists()
