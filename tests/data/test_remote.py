"""Pictures in buckets, here in fsspec's file system in memory."""

import itertools
import json
import pickle
import tarfile
import zipfile

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from data.check.__main__ import main as check
from data.errors import DataError, PictureError
from data.illustrations import render
from data.sources import catalog, store
from data.sources.files import as_path
from data.sources.folders import FolderSource
from data.sources.selection import FolderOptions

SHAPE = (48, 40)
pytest.importorskip("upath")
_numbers = itertools.count()


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    """An empty bucket, and a place of its own for what is kept of it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = f"memory://bucket{next(_numbers)}"
    yield root
    fsspec.filesystem("memory").rm(root, recursive=True)


@pytest.fixture
def pictures(tmp_path):
    """A folder of files, zip and tar archives, with an index."""
    root = tmp_path / "pictures"
    for kind in ("color", "sketch", "mask"):
        (root / kind).mkdir(parents=True)
    for i in range(6):
        drawn = render(i, i, *SHAPE)
        for kind, array in (("color", drawn.image), ("sketch", drawn.sketch), ("mask", drawn.mask)):
            Image.fromarray(array.squeeze()).save(root / kind / f"{i}.png")
    for kind in ("color", "sketch"):
        with zipfile.ZipFile(root / kind / "some.zip", "w") as archive:
            archive.write(root / kind / "3.png", "3.png")
            archive.writestr("rest", bytes(2**20))
        with tarfile.open(root / kind / "more.tar", "w") as archive:
            archive.add(root / kind / "4.png", "4.png")
        for moved in ("3.png", "4.png"):
            (root / kind / moved).unlink()
    (root / "color" / ".hidden").mkdir()
    (root / "color" / ".hidden" / "a.png").write_bytes(b"")
    (root / "color" / "notes.txt").write_text("")
    names = [f"{i}.png" for i in range(3)] + ["some.zip/3.png", "more/4.png", "5.png"]
    index = pa.table({"image_path": names, "aesthetic_score": [float(i) for i in range(6)]})
    pyarrow.parquet.write_table(index, root / "index.parquet")
    return root


def upload(root, bucket):
    fsspec.filesystem("memory").put(f"{root}/", f"{bucket}/", recursive=True)


def test_records_and_reports_are_those_of_a_folder(pictures, bucket):
    upload(pictures, bucket)
    ours, theirs = FolderSource(bucket), FolderSource(pictures)
    assert len(ours) == 6 and ours.fingerprint() == theirs.fingerprint()
    for i in range(6):
        one, other = ours[i], theirs[i]
        assert one.keys() == other.keys() and ours.name(i) == theirs.name(i)
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    told, expected = (source.passed_over() for source in (ours, theirs))
    assert told == expected and told["is hidden"] == 1
    assert len(FolderSource(bucket, FolderOptions(min_aesthetic_score=3))) == 3
    again = pickle.loads(pickle.dumps(ours))
    np.testing.assert_array_equal(again[3]["image"], ours[3]["image"])


def test_of_archives_only_members_are_read(pictures, bucket, monkeypatch):
    upload(pictures, bucket)
    source, sizes = FolderSource(bucket), []
    whole = MemoryFileSystem.cat_file

    def counted(self, path, start=None, end=None, **options):
        content = whole(self, path, start, end, **options)
        sizes.append(len(content))
        return content

    monkeypatch.setattr(MemoryFileSystem, "cat_file", counted)
    number = [source.name(i) for i in range(6)].index("color/some.zip/3.png")
    source[number]
    assert len(sizes) == 2 and max(sizes) < 2**14  # picture and sketch, one request each


def test_the_catalog_is_made_again_when_the_bucket_changes(pictures, bucket, monkeypatch):
    upload(pictures, bucket)
    built, build = [], catalog.build
    monkeypatch.setattr(catalog, "build", lambda *told: built.append(1) or build(*told))
    assert len(FolderSource(bucket)) == len(FolderSource(bucket)) == 6
    assert len(built) == 1
    fs = fsspec.filesystem("memory")
    fs.rm(f"{bucket}/mask/0.png")
    fs.rm(f"{bucket}/sketch/0.png")
    assert len(FolderSource(bucket)) == 5
    assert len(built) == 2


def test_shards_and_other_indices(pictures, bucket):
    fs = fsspec.filesystem("memory")
    shard = pictures.parent / "set-0.tar"
    with tarfile.open(shard, "w") as archive:
        archive.add(pictures / "color" / "0.png", "0.png")
        archive.add(pictures / "sketch" / "0.png", "0.sketch.png")
    fs.put(str(shard), f"{bucket}/set-0.tar")
    record = FolderSource(bucket)[0]
    np.testing.assert_array_equal(record["image"], render(0, 0, *SHAPE).image)
    for name, text in (
        ("index.json", json.dumps([{"image_path": "1.png"}])),
        ("index.csv", "image_path\n1.png\n"),
        ("index.jsonl", '{"image_path": "1.png"}\n'),
    ):
        (pictures / "index.parquet").unlink(missing_ok=True)
        root = f"{bucket}/{name}"
        (pictures / name).write_text(text)
        upload(pictures, root)
        (pictures / name).unlink()
        assert len(FolderSource(root)) == 1


def test_what_cannot_be_read_is_one_line(pictures, bucket, monkeypatch):
    with pytest.raises(DataError, match=r"no package that reads it"):
        as_path("nosuch://bucket/pictures")
    with pytest.raises(DataError, match="expected a folder of pictures"):
        FolderSource(f"{bucket}/none")
    upload(pictures, bucket)
    source = FolderSource(bucket)

    def broken(*arguments, **options):
        raise RuntimeError("the network\nis down")

    monkeypatch.setattr(MemoryFileSystem, "cat_file", broken)
    with pytest.raises(PictureError, match=r"cannot be read \(the network is down\)"):
        store.read_place(f"{bucket}/color", source.place("color", 0))


def test_a_bucket_is_checked_as_a_folder_is(pictures, bucket, tmp_path):
    upload(pictures, bucket)
    reports = []
    for number, place in enumerate((pictures, bucket)):
        path = tmp_path / f"{number}.json"
        reports.append((check([str(place), "--decode", "--json", str(path)]), path))
    (status, ours), (other, theirs) = reports
    assert status == other
    one, two = (json.loads(path.read_text()) for path in (ours, theirs))
    assert one.keys() == two.keys() and one["pictures"] == two["pictures"] == 6
