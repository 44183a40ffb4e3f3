"""Tar shards, and mixtures of folders."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from data.buckets import BucketSampler
from data.errors import DataError, PictureError
from data.illustrations import render
from data.loader import make_loader
from data.records import RECORD_KEYS
from data.sources.folders import FolderSource
from data.sources.mixture import MixedSource
from data.sources.selection import FolderOptions
from data.sources.shards import split_name
from data.transforms import BucketCrop

SHAPE = (48, 40)


def encoded(array):
    file = io.BytesIO()
    Image.fromarray(array.squeeze()).save(file, "PNG")
    return file.getvalue()


def add(shard, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    shard.addfile(member, io.BytesIO(content))


@pytest.fixture
def shards(tmp_path):
    for number in range(2):
        with tarfile.open(tmp_path / f"set-{number:06}.tar", "w") as shard:
            for i in range(2 * number, 2 * number + 2):
                drawn = render(i, i, *SHAPE)
                key = f"a/{i:04}"
                add(shard, f"{key}.png", encoded(drawn.image))
                add(shard, f"{key}.sketch.png", encoded(drawn.sketch))
                add(shard, f"{key}.sketch_thick.png", encoded(drawn.sketch // 2))
                add(shard, f"{key}.mask.png", encoded(drawn.mask))
                known = {"aesthetic_score": 4.0 + i, "tags": ["girl", "hat"]}
                add(shard, f"{key}.json", json.dumps(known).encode())
                add(shard, f"{key}.txt", f"picture {i}\n".encode())
            add(shard, "notes.md", b"read me")
    return tmp_path


def test_names_in_shards():
    assert split_name("a.b/k.sketch.png") == ("a.b/k", "sketch.png")
    assert split_name("k.jpg") == ("k", "jpg")


def test_shards(shards):
    source = FolderSource(shards)
    assert len(source) == 4 and source.styles == ("sketch", "sketch_thick")
    for i in range(4):
        drawn, record = render(i, i, *SHAPE), source[i]
        assert record.keys() == set(RECORD_KEYS) and record["aesthetic_score"] == 4.0 + i
        np.testing.assert_array_equal(record["image"], drawn.image)
        np.testing.assert_array_equal(record["sketch_mask"], drawn.mask)
        assert source.name(i) == f"set-{i // 2:06}.tar/a/{i:04}.png"
        assert source.texts(i) == {"caption": f"picture {i}", "tags": "girl, hat"}
    styles = {source.draw(0, np.random.default_rng(s))["sketch"].name[-17:] for s in range(20)}
    assert len(styles) == 2
    assert any("is no picture (suffix .md)" in line for line in source.describe())
    assert len(FolderSource(shards, FolderOptions(min_aesthetic_score=5.5))) == 2
    loader = make_loader(source, 2, 0, transforms=[BucketCrop(32, 32)], num_epochs=1)
    assert sum(len(batch["image"]) for batch in loader) == 4


def test_damaged_shards(shards):
    source, path = FolderSource(shards), shards / "set-000001.tar"
    content = path.read_bytes()
    path.write_bytes(content[:3000])
    with pytest.raises(PictureError, match=r"set-000001.tar.*cannot be read"):
        source[3]
    path.write_bytes(b"no archive" * 100)
    again = FolderSource(shards)
    assert len(again) == 2
    assert any("is not a whole tar archive" in line for line in again.describe())
    with tarfile.open(path, "w") as shard:
        add(shard, "a.json", b"[1]")
    with pytest.raises(DataError, match=r"set-000001.tar/a.json holding \[1\], expected an object"):
        FolderSource(shards)


def test_tars_in_the_place_of_zips(tmp_path):
    drawn = render(0, 0, *SHAPE)
    for kind, array in (("color", drawn.image), ("sketch", drawn.sketch)):
        (tmp_path / kind).mkdir()
        with tarfile.open(tmp_path / kind / "A.TAR", "w") as archive:
            add(archive, "A/girl.png", encoded(array))
    source = FolderSource(tmp_path)
    assert source.name(0) == "color/A.TAR/A/girl.png"
    np.testing.assert_array_equal(source[0]["sketch"], drawn.sketch)


@pytest.fixture
def folders(tmp_path):
    paths = []
    for number, count in enumerate((3, 10)):
        root = tmp_path / str(number)
        for kind in ("color", "sketch"):
            (root / kind).mkdir(parents=True)
        for i in range(count):
            value = np.full((*SHAPE, 3), 100 * number + i, np.uint8)
            Image.fromarray(value).save(root / f"color/{i}.png")
            Image.fromarray(value[..., 0]).save(root / f"sketch/{i}.png")
        paths.append(root)
    return [FolderSource(path, FolderOptions(masks="off")) for path in paths]


def test_mixtures(folders):
    source = MixedSource(folders, (2, 0.5))
    assert len(source) == 3 * 2 + 5
    seen = [int(source[i]["image"][0, 0, 0]) for i in range(len(source))]
    assert seen == [0, 1, 2, 0, 1, 2, 100, 102, 104, 106, 108]
    assert source.name(3).endswith("0/color/0.png") and source.name(10).endswith("1/color/8.png")
    assert source.measure().tolist() == [list(SHAPE)] * 11
    assert "11 pictures an epoch from 2 folders" in source.describe()[0]
    assert any("10 pictures in" in line and "weight 0.5" in line for line in source.describe())
    assert source.fingerprint() != MixedSource(folders, (1, 0.5)).fingerprint()
    sampler = BucketSampler(source.measure, 2, 0, buckets=((32, 32),))
    crop = [BucketCrop()]
    for worker_count in (0, 1):
        loader = make_loader(
            source, 2, 0, sampler=sampler, transforms=crop, num_epochs=1, worker_count=worker_count
        )
        assert len(list(loader)) == 5
    with pytest.raises(IndexError, match="got index 11"):
        source[11]
    for weights in ((), (1,), (1, 0)):
        with pytest.raises(DataError, match="a weight above 0 for each"):
            MixedSource(folders, weights)
