"""Users' own folders, archives and indices, made small."""

import io
import json
import pickle
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from data.archives import PictureFolder
from data.buckets import BucketSampler
from data.errors import DataError
from data.folders import FolderSource
from data.illustrations import render
from data.index import read_index, select
from data.loader import make_loader
from data.records import RECORD_KEYS
from data.transforms import BucketCrop

SHAPES = [(40, 48), (48, 40), (64, 40), (40, 64)]


def encoded(array, suffix="PNG"):
    file = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(file, suffix)
    return file.getvalue()


def pictures():
    """{"color" | "sketch" | "mask": {name: PNG}} of four illustrations."""
    made = {"color": {}, "sketch": {}, "mask": {}}
    for i, shape in enumerate(SHAPES):
        drawn = render(i, i, *shape)
        for kind, array in (("color", drawn.image), ("sketch", drawn.sketch), ("mask", drawn.mask)):
            made[kind][f"girl{i}.png"] = encoded(array)
    return made


@pytest.fixture(scope="module")
def encoded_pictures():
    return pictures()


@pytest.fixture
def root(tmp_path, encoded_pictures):
    """Plain files."""
    for kind, files in encoded_pictures.items():
        (tmp_path / kind / "set").mkdir(parents=True)
        for name, content in files.items():
            (tmp_path / kind / "set" / name).write_bytes(content)
    return tmp_path


@pytest.fixture
def zipped(tmp_path, encoded_pictures):
    """Two archives of equal names in each folder."""
    for kind, files in encoded_pictures.items():
        (tmp_path / kind).mkdir()
        for i, (name, content) in enumerate(files.items()):
            with zipfile.ZipFile(tmp_path / kind / f"{i // 2:04}.zip", "a") as archive:
                archive.writestr(name, content)
    return tmp_path


def write_index(root, rows, name="index.json"):
    path = root / name
    path.write_text(json.dumps(rows))
    return path


def assert_illustrations(source):
    assert len(source) == 4 and source.shapes.tolist() == [list(shape) for shape in SHAPES]
    for i, shape in enumerate(SHAPES):
        drawn, record = render(i, i, *shape), source[i]
        assert record.keys() == set(RECORD_KEYS)
        np.testing.assert_array_equal(record["image"], drawn.image)
        np.testing.assert_array_equal(record["sketch"], drawn.sketch)
        np.testing.assert_array_equal(record["sketch_mask"], drawn.mask)
        np.testing.assert_array_equal(record["reference"], drawn.image)
        np.testing.assert_array_equal(record["reference_mask"], drawn.mask)
        assert record["size"] == pytest.approx(np.sqrt(shape[0] * shape[1]))
        assert record["aesthetic_score"] == 7.0


def test_plain_files(root):
    assert_illustrations(FolderSource(root))


def test_zip_archives_survive_pickling(zipped):
    source = FolderSource(zipped)
    assert_illustrations(source)
    assert_illustrations(pickle.loads(pickle.dumps(source)))


def test_masks_are_optional_and_extensions_free(root):
    for path in (root / "mask" / "set").iterdir():
        path.unlink()
    (root / "mask" / "set").rmdir()
    (root / "mask").rmdir()
    drawn = render(0, 0, *SHAPES[0])
    (root / "sketch" / "set" / "girl0.png").unlink()
    small = drawn.sketch[::2, ::2]
    (root / "sketch" / "set" / "girl0.jpg").write_bytes(encoded(small, "JPEG"))
    record = FolderSource(root)[0]
    assert (record["sketch_mask"] == 255).all() and record["sketch"].shape == (*SHAPES[0], 1)


def test_transparency_becomes_white_and_16_bits_become_8(tmp_path):
    clear = np.zeros((4, 4, 4), np.uint8)
    clear[0] = (200, 10, 10, 255)
    Image.fromarray(clear).save(tmp_path / "a.png")
    Image.fromarray(np.full((4, 4), 128 << 8, np.uint16)).save(tmp_path / "b.png")
    folder = PictureFolder(tmp_path)
    assert folder.load("a.png", "RGB")[:2, 0].tolist() == [[200, 10, 10], [255, 255, 255]]
    assert folder.load("b.png", "L")[0, 0].tolist() == [128]


@pytest.mark.parametrize("archive", ["0000.zip/", "0000/"])
def test_index_filters_and_references(zipped, archive):
    row = {"width": 48, "height": 40, "aesthetic_score": 6.0, "caption": "a girl"}
    rows = [
        {**row, "image_path": f"{archive}girl0.png", "reference_list": ["0001.zip/girl3.png"]},
        {**row, "image_path": f"{archive}girl1.png", "aesthetic_score": 5.0},
        {**row, "image_path": "0001.zip/girl2.png", "exist_sketch": False},
        {**row, "image_path": "0001.zip/girl3.png", "width": 30, "unknown": 1},
    ]
    index = write_index(zipped, rows)
    source = FolderSource(
        zipped, index, min_aesthetic_score=5.5, min_short_side=40, reference_rate=1.0
    )
    assert len(source) == 1 and source[0]["aesthetic_score"] == 6.0
    np.testing.assert_array_equal(source[0]["image"], render(0, 0, *SHAPES[0]).image)
    np.testing.assert_array_equal(source[0]["reference"], render(3, 3, *SHAPES[3]).image)
    assert len(FolderSource(zipped, index)) == 3
    own = FolderSource(zipped, index)[0]
    np.testing.assert_array_equal(own["reference"], own["image"])
    assert read_index(index)[0].caption == "a girl"


def test_parquet_index(tmp_path, monkeypatch):
    path = tmp_path / "index.parquet"
    path.write_bytes(b"no table")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(DataError, match=r"no pyarrow to read it.*pip install"):
            read_index(path)
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    with pytest.raises(DataError, match="which is not Parquet"):
        read_index(path)
    rows = [
        {"image_path": "a.png", "width": 800.0, "reference_list": ["b.png"], "other": 1},
        {"image_path": "b.png", "width": None, "reference_list": None, "other": 2},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    first, second = read_index(path)
    assert (first.width, first.reference_list) == (800, ("b.png",))
    assert (second.width, second.reference_list, second.exist_sketch) == (None, (), True)


def test_loads_in_buckets(zipped):
    source = FolderSource(zipped)
    sampler = BucketSampler(source.shapes, 2, 0, buckets=((32, 32), (40, 24), (24, 40)))
    loader = make_loader(source, 2, 0, sampler=sampler, transforms=[BucketCrop()], num_epochs=1)
    shapes = [batch["image"].shape for batch in loader]
    assert len(shapes) == 2 and all(s[0] == 2 and s[1] * s[2] <= 1024 for s in shapes)


def test_damaged_picture_is_named_once(root, encoded_pictures):
    source = FolderSource(root)
    damaged = root / "color" / "set" / "girl1.png"
    whole = encoded_pictures["color"]["girl1.png"]
    for content in (whole[: len(whole) // 2], b"not a picture", b"", whole[:60] + whole[90:]):
        damaged.write_bytes(content)
        with pytest.raises(DataError, match=r"girl1.png, which cannot be read") as error:
            next(make_loader(source, 4, 0, transforms=[BucketCrop(32, 32)]))
        assert "\n" not in str(error.value)
    damaged.unlink()
    with pytest.raises(DataError, match=r"girl1.png, which cannot be read"):
        source[1]


def test_damaged_archives_are_named(zipped):
    source = FolderSource(zipped)
    path = zipped / "color" / "0001.zip"
    content = bytearray(path.read_bytes())
    content[60:160] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"0001.zip/girl2.png, which cannot be read"):
        source[2]
    path.write_bytes(content[:-30])
    with pytest.raises(DataError, match=r"0001.zip, which is not a whole zip archive"):
        FolderSource(zipped)


@pytest.mark.parametrize(
    "rows, message",
    [
        ({"image_path": "a"}, "holding one dict, expected a list"),
        (["a"], "got 'a' in row 0"),
        ([{"width": 3}], "expected image_path to be a file name"),
        ([{"image_path": "a", "width": -3}], "got -3 in row 0.*width to be a positive"),
        ([{"image_path": "a", "height": "9"}], "height to be a positive"),
        ([{"image_path": "a", "aesthetic_score": "good"}], "aesthetic_score to be a number"),
        ([{"image_path": "a", "reference_list": "b"}], "reference_list to be a list"),
        ([{"image_path": "a", "exist_sketch": "no"}], "exist_sketch to be true or false"),
    ],
)
def test_bad_index_names_the_row(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        read_index(write_index(tmp_path, rows))


def test_bad_index_files(tmp_path):
    (tmp_path / "broken.json").write_text('[{"image_path": ')
    with pytest.raises(DataError, match="which is not JSON"):
        read_index(tmp_path / "broken.json")
    with pytest.raises(DataError, match=r"expected a .json or .parquet file"):
        read_index(tmp_path / "index.csv")
    with pytest.raises(DataError, match="does not exist"):
        read_index(tmp_path / "none.json")
    entries = read_index(write_index(tmp_path, [{"image_path": "a"}]))
    with pytest.raises(DataError, match="got no aesthetic_score of a"):
        select(entries, min_aesthetic_score=5.5)
    with pytest.raises(DataError, match="of which none is left"):
        select([], min_short_side=768)


def test_bad_folders(root):
    with pytest.raises(DataError, match="color, expected a folder of pictures"):
        FolderSource(root / "nowhere")
    with pytest.raises(DataError, match="got reference_rate 2"):
        FolderSource(root, reference_rate=2.0)
    with pytest.raises(DataError, match="got filters without an index"):
        FolderSource(root, min_short_side=768)
    (root / "sketch" / "set" / "girl2.png").unlink()
    with pytest.raises(DataError, match=r"got no picture set/girl2.png in .*sketch"):
        FolderSource(root)
