"""Users' pictures in a TFDS set of ArrayRecord files."""

import io
import pickle

import numpy as np
import pytest
from PIL import Image

from data.buckets import BucketSampler
from data.errors import DataError
from data.illustrations import render
from data.loader import make_loader
from data.records import RECORD_KEYS
from data.sources.folders import FolderOptions, FolderSource
from data.sources.mixture import MixedSource
from data.sources.tfds_sets import TfdsSource, open_pictures
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
    assert isinstance(source, TfdsSource) and len(source) == 6
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
    source = TfdsSource(root, FolderOptions(min_aesthetic_score=5.5))
    assert [source.name(i) for i in range(len(source))] == [f"train/{i}" for i in (2, 3, 4, 5)]
    assert any("2 left out: aesthetic score below 5.5" in line for line in source.describe())
    options = [FolderOptions(heldout_share=0.67, heldout=out) for out in (False, True)]
    parts = [TfdsSource(root, one) for one in options]
    names = [{part.name(i) for i in range(len(part))} for part in parts]
    assert not names[0] & names[1] and [len(part) for part in parts] == [4, 2]
    assert any("2 held out for validation" in line for line in parts[0].describe())
    with pytest.raises(DataError, match=r"6 left out: short side below 768"):
        TfdsSource(root, FolderOptions(min_short_side=768))
    with pytest.raises(DataError, match=r"got data.index or data.same_identity_rate"):
        TfdsSource(root, FolderOptions(reference_rate=0.5))


@pytest.mark.parametrize("worker_count", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_batches_go_without_what_is_damaged(root, worker_count):
    source = TfdsSource(root)
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
    source = MixedSource([TfdsSource(root), folder], (1, 2))
    assert len(source) == 8 and source.name(7).endswith("color/a.png")
    assert source.measure().tolist()[-1] == [48, 40]


def test_what_is_no_set_is_named(root, tmp_path):
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(DataError, match="which is no whole TFDS set"):
        TfdsSource(tmp_path)
