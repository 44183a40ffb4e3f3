"""Users' own folders, archives and indices, made small."""

import io
import json
import os
import pickle
import unicodedata
import zipfile

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from data.buckets import BucketSampler
from data.errors import DataError, PictureError
from data.illustrations import render
from data.loader import make_loader
from data.pictures import stored
from data.records import RECORD_KEYS
from data.sources import catalog, folders, store
from data.sources.folders import FolderSource
from data.sources.index_tables import read_table
from data.sources.selection import FolderOptions
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


def folder(root, **options):
    return FolderSource(root, FolderOptions(**options))


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
    assert record["sketch"].shape == (*SHAPES[0], 1)
    # Nothing is foreground merely because no file says otherwise.
    assert 0.05 < (record["sketch_mask"] > 127).mean() < 0.95
    record = folder(root, masks="off")[0]
    assert record.keys() == set(RECORD_KEYS) - {"sketch_mask", "reference_mask"}


@pytest.mark.parametrize("archive", ["0000.zip/", "0000/"])
def test_index_filters_and_references(zipped, archive):
    row = {"width": 48, "height": 40, "aesthetic_score": 6.0, "caption": "a girl"}
    rows = [
        {**row, "image_path": f"{archive}girl0.png", "reference_list": ["0001.zip/girl3.png"]},
        {**row, "image_path": f"{archive}girl1.png", "aesthetic_score": 5.0},
        {**row, "image_path": "0001.zip/girl2.png", "exist_sketch": False},
        {**row, "image_path": "0001.zip/girl3.png", "width": 30, "unknown": 1},
    ]
    write_index(zipped, rows)
    source = folder(zipped, min_aesthetic_score=5.5, min_short_side=40, reference_rate=1.0)
    assert len(source) == 1 and source[0]["aesthetic_score"] == 6.0
    np.testing.assert_array_equal(source[0]["image"], render(0, 0, *SHAPES[0]).image)
    np.testing.assert_array_equal(source[0]["reference"], render(3, 3, *SHAPES[3]).image)
    assert len(FolderSource(zipped)) == 3
    own = FolderSource(zipped)[0]
    np.testing.assert_array_equal(own["reference"], own["image"])
    assert source.texts(0) == {"caption": "a girl"}
    assert any("1 left out: short side below 40 px" in line for line in source.describe())


def test_parquet_index(tmp_path):
    path = tmp_path / "index.parquet"
    path.write_bytes(b"no table")
    with pytest.raises(DataError, match="which is not Parquet"):
        read_table(path)
    rows = [
        {"image_path": "a.png", "width": 800.0, "reference_list": ["b.png"], "other": 1},
        {"image_path": "b.png", "width": None, "reference_list": None, "other": 2},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    first, second = read_table(path).to_pylist()
    assert (first["width"], first["reference_list"]) == (800, ["b.png"])
    assert (second["width"], second["reference_list"]) == (None, None)
    parquet.write_table(pyarrow.table({"image_path": ["a"], "width": [0]}), path)
    with pytest.raises(DataError, match=r"got 0 in row 0.*width to be a positive"):
        read_table(path)
    parquet.write_table(pyarrow.table({"image_path": ["a"], "aesthetic_score": [np.inf]}), path)
    with pytest.raises(DataError, match="got inf in row 0 of"):
        read_table(path)


def test_published_layout(tmp_path, encoded_pictures):
    for kind, files in encoded_pictures.items():
        (tmp_path / kind).mkdir()
        for i, (name, content) in enumerate(files.items()):
            with zipfile.ZipFile(tmp_path / kind / f"{i // 2:04}.zip", "a") as archive:
                archive.writestr(f"{i // 2:04}/{name}", content)
    (tmp_path / "data_index").mkdir()
    known = {"aesthetic_score": 6.5, "exist_sketch": True, "width": 48, "height": 40}
    mapping = {
        "0000/girl0.png": known,
        "0000/girl1.png": {"exist_sketch": True},  # what is missing has a meaning
        "0001/girl2.png": {"aesthetic_score": 9.0},  # no sketch: left out
    }
    (tmp_path / "data_index" / "landscape.json").write_text(json.dumps(mapping))
    row = {**known, "image_path": "0000/girl0.png", "caption": "a girl"}
    row |= {"reference_list": json.dumps(["0001/girl3.png", "0009/none.png"])}
    table = pyarrow.Table.from_pylist([row])
    parquet.write_table(table, tmp_path / "data_index" / "landscape_with_reference.parquet")
    source = folder(tmp_path, min_aesthetic_score=5.5, reference_rate=1.0)
    assert [source.name(i) for i in range(2)] == [
        f"color/0000.zip/0000/girl{i}.png" for i in (0, 1)
    ]
    assert len(source) == 2 and source[1]["aesthetic_score"] == 6.0
    assert source[0]["aesthetic_score"] == 6.5
    np.testing.assert_array_equal(source[0]["reference"], render(3, 3, *SHAPES[3]).image)
    assert len(folder(tmp_path, min_aesthetic_score=5.52)) == 1
    assert len(folder(tmp_path, indices=("landscape_with_reference",))) == 1
    told = "\n".join(source.describe())
    assert "1 left out: exist_sketch is false" in told
    assert "1 names in reference lists are not in color/" in told
    with pytest.raises(DataError, match="got index portrait, expected"):
        folder(tmp_path, indices=("portrait",))


def test_other_references_are_drawn_anew_in_every_epoch(zipped):
    others = [f"0001.zip/girl{i}.png" for i in (2, 3)]
    write_index(zipped, [{"image_path": "0000.zip/girl0.png", "reference_list": others}])
    source = folder(zipped, reference_rate=0.5)
    loader = make_loader(source, 1, 0, transforms=[BucketCrop(32, 32)], num_epochs=40)
    seen = {batch["reference"].tobytes() for batch in loader}
    assert len(seen) > 2


def test_styles_of_sketches_are_drawn_for_every_epoch(root, encoded_pictures):
    (root / "sketch_thick" / "set").mkdir(parents=True)
    blank = encoded(np.zeros((*SHAPES[0], 1), np.uint8))
    (root / "sketch_thick" / "set" / "girl0.png").write_bytes(blank)
    source = FolderSource(root)
    black = [source.draw(0, np.random.default_rng(s))["sketch"].name for s in range(20)]
    assert {"sketch_thick" in name for name in black} == {True, False}
    assert all(
        "sketch_thick" not in source.draw(1, np.random.default_rng(s))["sketch"].name
        for s in range(9)
    )


def test_equal_pictures_are_read_and_decoded_once(root, monkeypatch):
    read, decoded = [], []
    read_place, levels = folders.read_place, stored.levels
    monkeypatch.setattr(
        folders,
        "read_place",
        lambda folder, place: read.append(folder) or read_place(folder, place),
    )
    monkeypatch.setattr(
        stored, "levels", lambda *a, **options: decoded.append(a[1]) or levels(*a, **options)
    )
    rng = np.random.default_rng(0)
    record = BucketCrop(32, 32, reference_size=16)(rng, FolderSource(root).draw(0, rng))
    assert sorted(path.name for path in read) == ["color", "mask", "sketch"] and len(decoded) == 3
    # The reference is the picture itself, squeezed to what its encoders see.
    assert record["reference"].shape == (16, 16, 3) and record["reference_mask"].shape[:2] == (
        16,
        16,
    )
    small = record["image"].reshape(16, 2, 16, 2, 3).mean((1, 3))
    assert np.abs(small - record["reference"]).max() <= 1


def test_what_workers_are_sent_does_not_grow_with_the_folder(root):
    def sent():
        source = FolderSource(root)
        return source, len(pickle.dumps((source, BucketSampler(source.measure, 2, 0))))

    source, before = sent()
    for i in range(100):
        for kind in ("color", "sketch"):
            Image.new("L", (40, 40 + i % 20), 255).save(root / kind / f"{i}.png")
    more, after = sent()
    assert len(more) == len(source) + 100 and after < before + 50 and after < 3000


def test_lines_are_extracted_where_there_is_no_sketch(root):
    (root / "sketch" / "set" / "girl0.png").unlink()
    assert len(FolderSource(root)) == 3
    source = folder(root, sketches="extract")
    crop = BucketCrop(96, 96)
    lines = crop(np.random.default_rng(0), source.draw(0, np.random.default_rng(0)))["sketch"]
    assert lines.shape == (96, 96, 1) and 0.3 < (lines > 200).mean() < 0.99 and (lines < 99).any()


def test_loads_in_buckets(zipped):
    source = FolderSource(zipped)
    sampler = BucketSampler(source.shapes, 2, 0, buckets=((32, 32), (40, 24), (24, 40)))
    loader = make_loader(source, 2, 0, sampler=sampler, transforms=[BucketCrop()], num_epochs=1)
    shapes = [batch["image"].shape for batch in loader]
    assert len(shapes) == 2 and all(s[0] == 2 and s[1] * s[2] <= 1024 for s in shapes)


def damaged(whole):
    return (whole[: len(whole) // 2], b"not a picture", b"", whole[:60] + whole[90:])


@pytest.mark.parametrize("worker_count", [0, 2])
def test_damaged_pictures_are_replaced_and_named(root, encoded_pictures, worker_count):
    source = FolderSource(root)
    path = root / "color" / "set" / "girl1.png"

    def epochs(count):
        options = {"transforms": [BucketCrop(32, 32)], "worker_count": worker_count}
        loader = make_loader(source, 2, 0, num_epochs=count, **options)
        return list(loader), loader

    for content in damaged(encoded_pictures["color"]["girl1.png"])[: 1 if worker_count else 4]:
        path.write_bytes(content)
        batches, loader = epochs(2)
        assert len(batches) == 4 and loader.num_records == 8 and loader.num_skipped >= 2
        for name, reason in loader.take_skipped():
            assert name == "color/set/girl1.png" and "girl1.png" in reason and "\n" not in reason
        assert not loader.take_skipped()
        again, _ = epochs(2)
        for one, other in zip(batches, again, strict=True):
            np.testing.assert_array_equal(one["image"], other["image"])


def test_a_folder_of_damage_ends_in_one_line(root):
    source = FolderSource(root)
    for path in (root / "color" / "set").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"got 16 pictures in a row that cannot be used.*is empty"):
        next(make_loader(source, 4, 0, transforms=[BucketCrop(32, 32)]))


def test_damaged_archives_are_named(zipped):
    source = FolderSource(zipped)
    path = zipped / "color" / "0001.zip"
    content = bytearray(path.read_bytes())
    content[60:160] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(PictureError, match=r"0001.zip/girl2.png, which cannot be read"):
        source[2]
    path.write_bytes(content[:-30])
    source = FolderSource(zipped)
    assert len(source) == 2
    assert any("color/0001.zip" in line and "not a whole zip" in line for line in source.describe())
    with pytest.raises(DataError, match=r"expected at most 10% of them; mend"):
        folder(zipped, max_passed_over=0.1)


def test_names_as_people_have_them(tmp_path, encoded_pictures):
    """Suffixes, linked folders, archives in capitals, letters in two forms, hidden folders."""
    picture = Image.open(io.BytesIO(encoded_pictures["color"]["girl0.png"]))
    line_art = Image.open(io.BytesIO(encoded_pictures["sketch"]["girl0.png"]))
    color, sketch, elsewhere = (tmp_path / name for name in ("color", "sketch", "elsewhere"))
    for path in (color, sketch, elsewhere):
        path.mkdir()
    for suffix in ("jfif", "tif", "tiff", "gif", "avif", "ppm", "jpe", "WEBP"):
        picture.save(color / f"{suffix}.{suffix}")
        line_art.save(sketch / f"{suffix}.png")
    picture.save(elsewhere / "linked.png")
    for path in (color, sketch):
        (path / "far").symlink_to(elsewhere)
        (path / "loop").symlink_to(path)
    picture.save(color / (unicodedata.normalize("NFD", "fée") + ".png"))
    line_art.save(sketch / (unicodedata.normalize("NFC", "fée") + ".png"))
    for path, name in ((color, "A.ZIP"), (sketch, "A.zip")):
        with zipfile.ZipFile(path / name, "w") as archive:
            archive.writestr("in.png", encoded_pictures["sketch"]["girl0.png"])
    picture.save(color / "same.png")
    picture.save(color / "same.jpg")
    line_art.save(sketch / "same.png")
    (color / ".hidden").mkdir()
    picture.save(color / ".hidden" / "a.png")
    (color / "notes.txt").write_text("")
    (color / "broken.png").write_bytes(b"no picture")
    line_art.save(sketch / "broken.png")
    source = FolderSource(tmp_path)
    names = {source.name(i).removeprefix("color/") for i in range(len(source))}
    expected = {"jfif.jfif", "tif.tif", "tiff.tiff", "gif.gif", "avif.avif", "ppm.ppm", "jpe.jpe"}
    expected |= {"WEBP.WEBP", "far/linked.png", "A.ZIP/in.png", "same.png"}
    assert {unicodedata.normalize("NFC", name) for name in names} == expected | {"fée.png"}
    assert all(source[i]["image"].shape == (*SHAPES[0], 3) for i in range(len(source)))
    told = "\n".join(source.describe())
    for part in (
        "is hidden (color/.hidden)",
        "is no picture (suffix .txt) (color/notes.txt)",
        "is a link to a folder that it lies in (color/loop, …)",
        "shares its name, but for the suffix, with another (same.jpg)",
        "is no picture that can be read (broken.png)",
    ):
        assert part in told


def test_names_that_are_no_text(root):
    path = os.fsencode(root / "color") + b"/\xff.png"
    with open(path, "wb") as file:
        file.write(b"")
    source = FolderSource(root)
    assert len(source) == 4
    assert any("has a name that is no text" in line for line in source.describe())


def test_sketches_of_another_aspect_are_no_sketches(root):
    Image.new("L", (48, 20), 255).save(root / "sketch" / "set" / "girl0.png")
    with pytest.raises(PictureError, match=r"got .*girl0.png of 48x20 px for .* of 48x40 px"):
        FolderSource(root)[0]


def test_turned_pictures_meet_upright_sketches(root):
    drawn = render(0, 0, *SHAPES[0])
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = Image.fromarray(drawn.image).transpose(Image.Transpose.ROTATE_90)
    lying.save(root / "color" / "set" / "girl0.png", exif=exif)
    source = FolderSource(root)
    assert source.shapes[0].tolist() == list(SHAPES[0])
    np.testing.assert_array_equal(source[0]["image"], drawn.image)
    np.testing.assert_array_equal(source[0]["sketch"], drawn.sketch)


def test_catalog_is_built_once_and_anew_when_something_changes(root, monkeypatch):
    built = []
    build = catalog.build
    monkeypatch.setattr(catalog, "build", lambda *a: built.append(1) or build(*a))
    for _ in range(2):
        assert len(FolderSource(root)) == 4
    assert len(built) == 1
    for kind in ("color", "sketch", "mask"):
        Image.new("L", (64, 64), 255).save(root / kind / "set" / "new.png")
    assert len(FolderSource(root)) == 5 and len(built) == 2
    write_index(root, [{"image_path": "set/new.png"}])
    assert len(FolderSource(root)) == 1 and len(built) == 3
    source = pickle.loads(pickle.dumps(FolderSource(root)))
    assert len(source) == 1 and len(built) == 3


def test_held_out_pictures_follow_from_their_names(root):
    for i in range(40):
        for kind in ("color", "sketch"):
            Image.new("L", (64, 64), 255).save(root / kind / f"{i}.png")
    seen, out = folder(root, heldout_share=0.3), folder(root, heldout_share=0.3, heldout=True)
    parts = [{source.name(i) for i in range(len(source))} for source in (seen, out)]
    assert not parts[0] & parts[1] and len(parts[0] | parts[1]) == 44 and 4 < len(out) < 24
    assert any(f"{len(out)} held out for validation" in line for line in seen.describe())
    (root / "color" / "0.png").rename(root / "color" / "0.webp")  # of another suffix, not place
    again = folder(root, heldout_share=0.3, heldout=True)
    assert {again.name(i).split(".")[0] for i in range(len(again))} == {
        name.split(".")[0] for name in parts[1]
    }
    copy = pickle.loads(pickle.dumps(seen))
    assert copy.fingerprint() == seen.fingerprint() and seen.fingerprint()["pictures"] == len(seen)
    assert seen.fingerprint()["names"] != out.fingerprint()["names"]


def test_catalog_of_a_folder_that_cannot_be_written_to(root, tmp_path_factory, monkeypatch):
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    (root / catalog.CACHE).write_text("in the way")
    assert len(FolderSource(root)) == 4
    assert list(cache.glob("colorize-jax/*/*.arrow"))


def test_members_that_are_no_pictures_to_read(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "MAX_FILE", 1000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("bomb.png", bytes(5000), zipfile.ZIP_DEFLATED)
        archive.writestr("slow.png", b"a", zipfile.ZIP_LZMA)
        archive.writestr("__MACOSX/a.png", b"a")
        archive.writestr("good.png", b"content", zipfile.ZIP_DEFLATED)
    listing = store.list_folder(tmp_path)
    assert listing.locations == ["a.zip/good.png"] and len(listing.problems) == 3
    place = store.Place(
        *(part[0] for part in (listing.locations, listing.offsets, listing.sizes, listing.crcs))
    )
    assert store.read_place(tmp_path, place) == b"content"
    with pytest.raises(PictureError, match="its checksum is wrong"):
        store.read_place(tmp_path, place._replace(crc=1))
    os.remove(tmp_path / "a.zip")
    with pytest.raises(PictureError, match="its archive does not exist"):
        store.read_place(tmp_path, place)


@pytest.mark.parametrize(
    "rows, message",
    [
        ({"a.png": "b"}, "got 'b' in row a.png"),
        (3, "holding one int, expected a list"),
        (["a"], "got 'a' in row 0"),
        ([{"width": 3}], "expected image_path to be a file name"),
        ([{"image_path": "a", "width": -3}], "got -3 in row 0.*width to be a positive"),
        ([{"image_path": "a", "width": float("nan")}], "got nan in row 0.*width to be a positive"),
        ([{"image_path": "a", "height": "9"}], "height to be a positive"),
        ([{"image_path": "a", "aesthetic_score": "good"}], "aesthetic_score to be a number"),
        ([{"image_path": "a", "reference_list": "b"}], "reference_list to be a list"),
        ([{"image_path": "a", "exist_sketch": "no"}], "exist_sketch to be true or false"),
    ],
)
def test_bad_index_names_the_row(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        read_table(write_index(tmp_path, rows))


def test_bad_index_files(tmp_path):
    (tmp_path / "broken.json").write_text('[{"image_path": ')
    with pytest.raises(DataError, match="which is not JSON"):
        read_table(tmp_path / "broken.json")
    with pytest.raises(DataError, match=r"expected a .json, .jsonl, .csv or .parquet file"):
        read_table(tmp_path / "index.xls")
    with pytest.raises(DataError, match="does not exist"):
        read_table(tmp_path / "none.json")
    (tmp_path / "lines.jsonl").write_text('{"file_name": "a.png", "text": "a girl"}\n\n')
    row = read_table(tmp_path / "lines.jsonl").to_pylist()[0]
    assert (row["image_path"], row["caption"]) == ("a.png", "a girl")
    (tmp_path / "lines.jsonl").write_text("{")
    with pytest.raises(DataError, match="not JSON lines"):
        read_table(tmp_path / "lines.jsonl")
    (tmp_path / "table.csv").write_text("image_path,aesthetic_score\na.png,3\nb.png,inf\n")
    with pytest.raises(DataError, match=r"got inf in row 1 .*aesthetic_score to be a number"):
        read_table(tmp_path / "table.csv")
    (tmp_path / "table.csv").write_text("image_path,width\na.png,30\nb.png,\n")
    assert read_table(tmp_path / "table.csv")["width"].to_pylist() == [30, None]


def test_bad_folders(root):
    with pytest.raises(DataError, match="nowhere, expected a folder of pictures"):
        FolderSource(root / "nowhere")
    for options, message in (
        ({"reference_rate": 2.0}, "got reference_rate 2"),
        ({"masks": "some"}, "got masks 'some', expected one of estimate, off"),
        ({"min_short_side": 768}, "with 0 pictures to use and 0 that cannot be.*4 left out"),
    ):
        with pytest.raises(DataError, match=message):
            folder(root, **options)
    # Without an index the filter by size works too, and scores that nobody knows pass.
    assert len(folder(root, min_short_side=40, min_aesthetic_score=5.5)) == 4
    for path in (root / "sketch" / "set").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"4 passed over: has no sketch \(set/girl0.png, …\)"):
        FolderSource(root)


def test_a_member_of_a_zip_archive_is_inflated_to_a_limit_whatever_it_declares(
    tmp_path, monkeypatch
):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("bomb.png", bytes(100_000), zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    directory = content.rfind(b"bomb.png") - 46
    content[directory + 24 : directory + 28] = (1000).to_bytes(4, "little")  # the size that it says
    path.write_bytes(content)
    listing = store.list_folder(tmp_path)
    place = store.Place(
        *(part[0] for part in (listing.locations, listing.offsets, listing.sizes, listing.crcs))
    )
    monkeypatch.setattr(store, "MAX_FILE", 2000)
    with pytest.raises(PictureError, match="of more than 0 MiB, expected a picture"):
        store.read_place(tmp_path, place, 2000)
