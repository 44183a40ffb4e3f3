"""Stored encodings: precisions, shards that are whole or not there, and the source of a run."""

import json
import pickle
import re

import fsspec
import numpy as np
import pytest

from data.buckets import BucketSampler
from data.encoded import shards
from data.encoded.arrays import ENCODINGS, pack, record_bytes, unpack
from data.encoded.reading import read_pictures
from data.encoded.source import EncodedSource, MixedEncodings
from data.errors import DataError, PictureError
from data.loader import Skipped, make_loader
from tests.full_disk import full_disk

OWN = (16, 24)
SHAPES = {"moments": (4, 6, 8), "clip_tokens": (5, 12), "tagger_tokens": (4, 16)}


def make_record(seed, shape=OWN):
    rng = np.random.default_rng(seed)
    sizes = SHAPES | {"moments": (shape[0] // 4, shape[1] // 4, 8)}
    record = {name: rng.normal(0, 3, size).astype(np.float32) for name, size in sizes.items()}
    record["sketch"] = rng.integers(0, 255, (*shape, 1), np.uint8)
    record["sketch_mask"] = np.full((*shape, 1), seed % 256, np.uint8)
    return record | {"size": np.float32(seed), "aesthetic_score": np.float32(5)}


@pytest.mark.parametrize(
    ("precision", "error"), [("float32", 0), ("float16", 2**-11), ("bfloat16", 2**-8)]
)
def test_precisions_of_floats(precision, error):
    record = make_record(7)
    content = pack(record, precision)
    found = unpack(content, precision, "float32")
    assert found.keys() == record.keys()
    for name in record:
        assert found[name].dtype == record[name].dtype
        within = error * np.abs(record[name]) if name in ENCODINGS else 0
        assert (np.abs(found[name].astype(float) - record[name]) <= within).all()
    sizes = record_bytes(SHAPES, precision)
    assert sizes == {name: record[name].size * (4 if error == 0 else 2) for name in ENCODINGS}
    assert unpack(content, precision, "bfloat16")["clip_tokens"].dtype.name == "bfloat16"


def test_int8_has_a_scale_a_token():
    record = make_record(7)
    record["clip_tokens"][0] *= 1000
    record["clip_tokens"][1] = 0
    record["moments"][..., 4:] -= 500  # log variances, far from the means
    content = pack(record, "int8")
    found = unpack(content, "int8", "float32")
    for name, groups in (("moments", 2), ("clip_tokens", 1), ("tagger_tokens", 1)):
        parts = record[name].reshape(*record[name].shape[:-1], groups, -1)
        step = np.abs(parts).max(axis=-1, keepdims=True) / 127
        difference = np.abs(found[name].reshape(parts.shape) - parts)
        assert (difference <= 0.57 * step).all()  # half a step, and 127 roundings of the scale
    assert record_bytes(SHAPES, "int8") == {
        "moments": 4 * 6 * (8 + 2 * 2),
        "clip_tokens": 5 * (12 + 2),
        "tagger_tokens": 4 * (16 + 2),
    }


def write_set(root, *, crops=2, damaged=(), buckets=((16, 24), (24, 16)), count=10):
    """A set of `count` pictures, even ones of the first bucket and odd ones of the second."""
    root.mkdir()
    members = {bucket: np.arange(n, count, len(buckets)) for n, bucket in enumerate(buckets)}
    parts = shards.plan("train", members, crops, 3)
    for shard in parts:
        writer = shards.ShardWriter(root, shard)
        for index in shard.indices.tolist():
            if (index, shard.variant) in damaged:
                writer.skip(f"{index}.png", "damaged")
                continue
            record = make_record(100 * shard.variant + index, shard.bucket)
            writer.write(index, f"{index}.png", pack(record, "float32"))
        writer.close()
    manifest = {
        "format": shards.FORMAT,
        "precision": "float32",
        "masks": True,
        "crops": crops,
        "preprocessing": {"height": 16, "width": 24, "inpaint_rate": 0.0},
        "weights": {"vae": {"fingerprint": "1234", "path": "weights/vae"}},
        "splits": {"train": {"pictures": count, "shards": len(parts)}},
    }
    shards.write_json(root / shards.MANIFEST, manifest)
    return parts


def test_work_is_divided_by_variant_and_bucket():
    members = {(16, 24): np.array([5, 1, 3]), (24, 16): np.array([2])}
    parts = shards.plan("train", members, 2, 2)
    assert [(p.variant, p.bucket, p.indices.tolist()) for p in parts[:3]] == [
        (0, (16, 24), [1, 3]),
        (0, (16, 24), [5]),
        (0, (24, 16), [2]),
    ]
    assert len(parts) == 6 and parts[5].name == "train-00005-of-00006"


def test_a_shard_is_whole_or_not_there(tmp_path):
    (shard,) = shards.plan("train", {None: np.arange(3)}, 1, 3)
    writer = shards.ShardWriter(tmp_path, shard)
    writer.write(0, "a", pack(make_record(0), "float32"))
    assert not shards.is_written(tmp_path, shard)
    del writer  # killed
    assert not shards.is_written(tmp_path, shard)
    writer = shards.ShardWriter(tmp_path, shard)
    writer.write(0, "a", pack(make_record(0), "float32"))
    writer.skip("b", "damaged")
    writer.close()
    assert shards.is_written(tmp_path, shard)
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{shard.name}{end}" for end in (".array_record", ".json")
    }


def test_epochs_show_the_crops_in_turn(tmp_path):
    write_set(tmp_path / "set", damaged={(3, 0), (3, 1), (4, 0)})
    source = EncodedSource(tmp_path / "set", token_dtype="float32")
    names = [f"{i}.png" for i in range(10) if i != 3]
    assert sorted(source.name(i) for i in range(len(source))) == names
    for copy in (source, pickle.loads(pickle.dumps(source))):
        for i in range(len(copy)):
            number = int(copy.name(i).removesuffix(".png"))
            assert tuple(copy.measure()[i]) == ((16, 24), (24, 16))[number % 2]
            for epoch in range(4):
                record = copy.of_epoch(i, epoch)
                variant = 1 if number == 4 else epoch % 2  # the one that it has
                assert record["size"] == 100 * variant + number
                expected = make_record(record["size"].astype(int), tuple(copy.shapes[i]))
                np.testing.assert_array_equal(record["moments"], expected["moments"])
                np.testing.assert_array_equal(record["sketch"], expected["sketch"])
    told = "\n".join(source.describe())
    assert "encodings of 9 pictures" in told and "encoded by vae 1234 (weights/vae)" in told
    assert "2 crops a picture" in told


def test_batches_hold_one_bucket_and_resume(tmp_path):
    write_set(tmp_path / "set")
    source = EncodedSource(tmp_path / "set", token_dtype="float32")
    sampler = BucketSampler(source.measure, 2, 0, ((16, 24), (24, 16)), joins=False)
    assert len(sampler) == 4  # of five pictures in each bucket one is left out of every epoch
    loader = make_loader(source, 2, 0, sampler=sampler, num_epochs=2)
    batches = list(loader)
    assert len(batches) == 8
    for number, batch in enumerate(batches):
        height, width = batch["sketch"].shape[1:3]
        assert batch["moments"].shape == (2, height // 4, width // 4, 8)
        assert (batch["size"] // 100 == number // 4).all()
    seen = {float(size) for batch in batches[:4] for size in batch["size"]}
    assert len(seen) == 8
    loader = make_loader(source, 2, 0, sampler=sampler, num_epochs=2)
    loader.set_state({"next_batch": 5})
    np.testing.assert_array_equal(next(loader)["moments"], batches[5]["moments"])


def test_mixtures(tmp_path):
    for name in ("a", "b"):
        write_set(tmp_path / name)
    parts = [EncodedSource(tmp_path / name, token_dtype="float32") for name in ("a", "b")]
    source = MixedEncodings(parts, (1.0, 0.5))
    assert len(source) == 15 and source.measure().shape == (15, 2)
    assert source.of_epoch(12, 1)["size"] >= 100 and source.describe()[0].startswith("15 pictures")
    assert len(next(make_loader(parts[0], 1, 0))["moments"]) == 1


def test_what_is_no_whole_set_is_one_line(tmp_path):
    with pytest.raises(DataError, match=r"without a manifest\.json of"):
        EncodedSource(tmp_path)
    with pytest.raises(DataError, match="got output gs://set, expected a folder on a disk"):
        shards.local_folder("gs://set")
    parts = write_set(tmp_path / "set")
    with pytest.raises(DataError, match="without pictures that are held out"):
        EncodedSource(tmp_path / "set", shards.HELD_OUT)
    path = tmp_path / "set" / f"{parts[0].name}.array_record"
    source, content = EncodedSource(tmp_path / "set"), path.read_bytes()
    path.write_bytes(content[: len(content) // 3])
    with pytest.raises(PictureError, match=r"0\.png in .*, which cannot be read"):
        source.of_epoch([source.name(i) for i in range(10)].index("0.png"), 0)
    path.unlink()
    with pytest.raises(DataError, match=r"with 7 of 8 shards of train, expected all"):
        EncodedSource(tmp_path / "set")
    assert json.loads((tmp_path / "set" / f"{parts[0].name}.json").read_text())["variant"] == 0


class Pictures:
    """Record i is the number i, anew in every epoch; the third is damaged."""

    def __len__(self):
        return 5

    def name(self, index):
        return f"picture {index}"

    def draw(self, index, rng):
        if index == 2:
            raise PictureError("got it, which is damaged, expected better")
        return {"number": np.int64(index), "drawn": rng.random()}


def add_noise(rng, record):
    return {**record, "noise": rng.random()}


def test_pictures_are_read_as_training_reads_them():
    parts = shards.plan("train", {None: np.arange(5)}, 2, 3)
    read = list(read_pictures(Pictures(), [add_noise], 7, parts, num_threads=2, num_ahead=4))
    assert len(read) == 10
    found = {
        (number // 5, one["number"]): one
        for number, one in enumerate(read)
        if not isinstance(one, Skipped)
    }
    assert [one.name for one in read if isinstance(one, Skipped)] == ["picture 2"] * 2
    batches = make_loader(Pictures(), 1, 7, transforms=[add_noise], num_epochs=2)
    for number, batch in enumerate(batches):
        if not any(batches.take_skipped()):
            stored = found[number // 5, batch["number"][0]]
            assert stored["drawn"] == batch["drawn"][0] and stored["noise"] == batch["noise"][0]


def test_a_shard_that_cannot_be_written_is_one_line_and_not_there(tmp_path):
    shard = shards.Shard("train-00000-of-00001", 0, None, np.arange(1))
    writer = shards.ShardWriter(tmp_path, shard)
    with full_disk(1000), pytest.raises(DataError, match="cannot be written"):
        writer.write(0, "a", bytes(range(256)) * 4000)
        writer.close()
    assert not shards.is_written(tmp_path, shard)


def test_a_set_in_a_bucket_is_read_by_ranges(tmp_path):
    pytest.importorskip("upath")
    write_set(tmp_path / "set", damaged={(3, 0), (3, 1)})
    bucket = "memory://encodings/set"
    memory = fsspec.filesystem("memory")
    memory.put(f"{tmp_path}/set", bucket, recursive=True)
    try:
        here, there = (EncodedSource(root) for root in (tmp_path / "set", bucket))
        assert len(there) == len(here) == 9 and there.fingerprint() == here.fingerprint()
        for source in (there, pickle.loads(pickle.dumps(there))):
            for index, epoch in ((0, 0), (8, 1), (4, 1)):
                found, expected = (one.of_epoch(index, epoch) for one in (source, here))
                assert found.keys() == expected.keys()
                for name in found:
                    np.testing.assert_array_equal(found[name], expected[name])
        (first, *_) = [path for path in memory.find(bucket) if path.endswith(".array_record")]
        memory.pipe_file(first, b"damaged" * 99)
        with pytest.raises(PictureError, match="which cannot be read"):
            for index in range(len(there)):
                there.of_epoch(index, 0)
        for path in memory.find(bucket):
            if "train" in path and path.endswith(".json"):
                memory.pipe_file(path, re.sub(rb', "places.*?\]\]', b"", memory.cat_file(path)))
        with pytest.raises(DataError, match="do not say where their records lie"):
            EncodedSource(bucket)
    finally:
        memory.rm(bucket, recursive=True)
