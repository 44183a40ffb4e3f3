"""Users' pictures in ArrayRecord files, of TFDS and plain."""

import io
import pickle

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from data.buckets import BucketSampler
from data.errors import DataError
from data.illustrations import render
from data.loader import make_loader
from data.records import RECORD_KEYS
from data.sources.array_records import ArrayRecordSource, open_pictures
from data.sources.examples import parse_example
from data.sources.folders import FolderSource
from data.sources.mixture import MixedSource
from data.sources.selection import FolderOptions
from data.transforms import BucketCrop

tfds = pytest.importorskip("tensorflow_datasets")

SHAPES = ((48, 40), (40, 64))


def file_of(array, turn=None):
    file, exif = io.BytesIO(), Image.Exif()
    image = Image.fromarray(array.squeeze())
    if turn:
        image, exif[0x0112] = image.transpose(Image.Transpose.ROTATE_180), turn
    image.save(file, "PNG", exif=exif)
    file.seek(0)
    return file


class Girls(tfds.core.GeneratorBasedBuilder):
    """Six drawings, the third of them turned by a tag, the fourth damaged."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "sketch": tfds.features.Image(shape=(None, None, 1)),
            "sketch_thick": tfds.features.Image(shape=(None, None, 1)),
            "mask": tfds.features.Image(shape=(None, None, 1)),
            "aesthetic_score": np.float32,
            "caption": tfds.features.Text(),
            "tags": tfds.features.Sequence(tfds.features.Text()),
        }
        features = tfds.features.FeaturesDict(features)
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(6):
            drawn = render(i, i, *SHAPES[i % 2])
            image = file_of(drawn.image, turn=3 if i == 2 else None)
            yield (
                i,
                {
                    "image": io.BytesIO(image.read()[:300]) if i == 3 else image,
                    "sketch": file_of(drawn.sketch),
                    "sketch_thick": file_of(drawn.sketch // 2),
                    "mask": file_of(drawn.mask),
                    "aesthetic_score": 4.0 + i,
                    "caption": f"girl {i}",
                    "tags": ["girl", "hat"],
                },
            )


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    builder = Girls(data_dir=str(tmp_path_factory.mktemp("sets")), file_format="array_record")
    options = tfds.download.DownloadConfig(try_download_gcs=False)
    builder.download_and_prepare(download_config=options)
    return builder.data_dir


def test_records(root):
    source = open_pictures(root, FolderOptions())
    assert isinstance(source, ArrayRecordSource) and len(source) == 6
    assert source.styles == ("sketch", "sketch_thick")
    assert source.shapes.tolist() == [list(SHAPES[i % 2]) for i in range(6)]
    for i in (0, 1, 2, 4, 5):
        drawn, record = render(i, i, *SHAPES[i % 2]), source[i]
        assert record.keys() == set(RECORD_KEYS) and record["aesthetic_score"] == 4.0 + i
        np.testing.assert_array_equal(record["image"], drawn.image)
        np.testing.assert_array_equal(record["reference"], drawn.image)
        np.testing.assert_array_equal(record["sketch_mask"], drawn.mask)
        assert source.texts(i) == {"caption": f"girl {i}", "tags": "girl, hat"}
    styles = {source.draw(0, np.random.default_rng(s))["sketch"].name for s in range(20)}
    assert {name.rpartition("/")[2] for name in styles} == set(source.styles)
    copy = pickle.loads(pickle.dumps(source))
    assert copy.fingerprint() == source.fingerprint() and copy.name(4) == "train/4"
    np.testing.assert_array_equal(copy[4]["image"], source[4]["image"])


def test_filters_and_held_out(root):
    source = ArrayRecordSource(root, FolderOptions(min_aesthetic_score=5.5))
    assert [source.name(i) for i in range(len(source))] == [f"train/{i}" for i in (2, 3, 4, 5)]
    assert any("2 left out: aesthetic score below 5.5" in line for line in source.describe())
    options = [FolderOptions(heldout_share=0.67, heldout=out) for out in (False, True)]
    parts = [ArrayRecordSource(root, one) for one in options]
    names = [{part.name(i) for i in range(len(part))} for part in parts]
    assert not names[0] & names[1] and [len(part) for part in parts] == [4, 2]
    assert any("2 held out for validation" in line for line in parts[0].describe())
    with pytest.raises(DataError, match=r"6 left out: short side below 768"):
        ArrayRecordSource(root, FolderOptions(min_short_side=768))
    with pytest.raises(DataError, match=r"got data.index or data.same_identity_rate"):
        ArrayRecordSource(root, FolderOptions(reference_rate=0.5))


@pytest.mark.parametrize("worker_count", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_batches_go_without_what_is_damaged(root, worker_count):
    source = ArrayRecordSource(root)
    sampler = BucketSampler(source.measure, 2, 0, buckets=((32, 32),))
    loader = make_loader(
        source,
        2,
        0,
        sampler=sampler,
        transforms=[BucketCrop()],
        num_epochs=2,
        worker_count=worker_count,
    )
    assert len(list(loader)) == 6
    skipped = loader.take_skipped()
    assert {one.name for one in skipped} == {"train/3"}
    assert all("train/3/image, which is damaged" in one.reason for one in skipped)


def test_a_mixture_with_a_folder(root, tmp_path):
    for kind in ("color", "sketch"):
        (tmp_path / kind).mkdir()
        Image.new("L", (40, 48), 200).save(tmp_path / kind / "a.png")
    folder = open_pictures(tmp_path, FolderOptions())
    assert isinstance(folder, FolderSource)
    source = MixedSource([ArrayRecordSource(root), folder], (1, 2))
    assert len(source) == 8 and source.name(7).endswith("color/a.png")
    assert source.measure().tolist()[-1] == [48, 40]


def test_what_is_no_set_is_named(root, tmp_path):
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(DataError, match="which is no whole TFDS set"):
        ArrayRecordSource(tmp_path)


def example_of(features):
    """A tf.train.Example by TFDS's own description of its format."""
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example()
    for name, value in features.items():
        feature = example.features.feature[name]
        if isinstance(value, float):
            feature.float_list.value.append(value)
        elif isinstance(value, list) and isinstance(value[0], int):
            feature.int64_list.value.extend(value)
        else:
            values = value if isinstance(value, list) else [value]
            feature.bytes_list.value.extend(values)
    return example.SerializeToString()


def write_records(path, records):
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def test_examples_are_parsed_without_their_package():
    features = {"image/encoded": b"\x00\xff", "score": 2.5, "ids": [1, -3, 2**40], "id": [7]}
    found = parse_example(example_of(features | {"tags": [b"a", b"b"]}))
    assert found["image"] == b"\x00\xff" and found["score"] == 2.5 and found["id"] == 7
    assert found["ids"].tolist() == [1, -3, 2**40] and found["tags"] == [b"a", b"b"]
    for broken in (b"\x0a\xff\xff", b"\x0f", b"\xff" * 12):
        with pytest.raises(ValueError, match=r"no tf\.train\.Example"):
            parse_example(broken)


def test_plain_files(tmp_path):
    for shard in range(2):
        records = []
        for i in range(3 * shard, 3 * shard + 3):
            drawn = render(i, i, *SHAPES[i % 2])
            image = file_of(drawn.image).read()
            features = {
                "image/encoded": image[:300] if i == 4 else image,
                "sketch/encoded": file_of(drawn.sketch).read(),
                "mask": file_of(drawn.mask).read(),
                "aesthetic_score": 4.0 + i,
                "caption": f"girl {i}".encode(),
            }
            records.append(example_of(features))
        write_records(tmp_path / f"girls.array_record-{shard:05}-of-00002", records)
    source = open_pictures(tmp_path, FolderOptions(min_aesthetic_score=5))
    assert [source.name(i) for i in range(len(source))] == [f"records/{i}" for i in range(1, 6)]
    for i in (1, 2, 3, 5):
        drawn, record = render(i, i, *SHAPES[i % 2]), source[i - 1]
        np.testing.assert_array_equal(record["image"], drawn.image)
        np.testing.assert_array_equal(record["sketch"], drawn.sketch)
        np.testing.assert_array_equal(record["reference_mask"], drawn.mask)
        assert record["aesthetic_score"] == 4.0 + i
        assert source.texts(i - 1) == {"caption": f"girl {i}"}
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(source))[0]["image"], source[0]["image"]
    )
    (tmp_path / "girls.array_record-00000-of-00002").write_bytes(b"nothing")
    with pytest.raises(DataError, match="whose ArrayRecord files cannot be read"):
        ArrayRecordSource(tmp_path)


def test_plain_files_without_sketches_are_named(tmp_path):
    drawn = file_of(render(0, 0, *SHAPES[0]).image).read()
    write_records(tmp_path / "a.array_record", [example_of({"image": drawn})])
    with pytest.raises(DataError, match="with pictures image, expected an image and a sketch"):
        ArrayRecordSource(tmp_path)
    options = FolderOptions(sketches="extract")
    assert ArrayRecordSource(tmp_path, options)[0]["sketch"].shape == (*SHAPES[0], 1)
