"""Batches: the same for any number of shards, and resumable."""

import ast
import os
import subprocess
import sys
import time
from pathlib import Path

import grain
import numpy as np
import pytest

import data
from data.buckets import BUCKETS, BucketSampler, bucket_of, scaled_buckets
from data.cache import CachedSource
from data.errors import DataError
from data.illustrations import IllustrationSource
from data.loader import make_loader
from data.transforms import BlankMargins, BucketCrop


class Numbers:
    """Record i is the number i, in a picture of the i-th shape."""

    def __init__(self, length, shapes=((8, 8),)):
        self.shapes = np.array([shapes[i % len(shapes)] for i in range(length)])

    def __len__(self):
        return len(self.shapes)

    def __getitem__(self, index):
        return {
            "image": np.full((*self.shapes[index], 3), index, np.uint8),
            "number": np.int64(index),
        }


def add_noise(rng, record):
    return {**record, "noise": rng.random()}


def assert_same_batches(left, right):
    left, right = list(left), list(right)
    assert len(left) == len(right) > 0
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_epochs_cover_the_source_in_new_orders():
    batches = list(make_loader(Numbers(12), 4, seed=1, num_epochs=2))
    epochs = np.concatenate([b["number"] for b in batches]).reshape(2, 12)
    assert [sorted(epoch) for epoch in epochs.tolist()] == [list(range(12))] * 2
    assert (epochs[0] != epochs[1]).any()
    straight = make_loader(Numbers(12), 4, seed=1, num_epochs=1, shuffle=False)
    assert np.concatenate([b["number"] for b in straight]).tolist() == list(range(12))


def test_transforms_draw_from_seed_epoch_and_index():
    def noise(**options):
        loader = make_loader(Numbers(6), 3, num_epochs=2, transforms=[add_noise], **options)
        batches = list(loader)
        numbers = np.concatenate([b["number"] for b in batches])
        values = np.concatenate([b["noise"] for b in batches])
        return {(i // 6, int(n)): v for i, (n, v) in enumerate(zip(numbers, values, strict=True))}

    shuffled = noise(seed=4)
    assert shuffled == noise(seed=4, shuffle=False, num_threads=1)
    assert len(set(shuffled.values())) == 12
    assert shuffled != noise(seed=5)


@pytest.mark.parametrize("shard_count", [2, 4])
def test_shards_concatenate_to_the_global_batch(shard_count):
    source, options = CachedSource(IllustrationSource(0, 8, 16, 16)), {"num_epochs": 2}
    options["transforms"] = [BlankMargins(0.5, margin=600)]
    shards = [
        make_loader(source, 4, 3, shard_index=k, shard_count=shard_count, **options)
        for k in range(shard_count)
    ]
    joined = [
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*shards, strict=True)
    ]
    assert_same_batches(joined, make_loader(source, 4, 3, **options))


def test_rows_are_those_of_the_global_batch():
    options = {"transforms": [add_noise], "num_epochs": 2}
    chosen = make_loader(Numbers(12), 4, 3, rows=[0, 3], **options)
    whole = make_loader(Numbers(12), 4, 3, **options)
    assert_same_batches(chosen, [{k: v[[0, 3]] for k, v in batch.items()} for batch in whole])


@pytest.mark.parametrize("with_sampler", [False, True])
def test_resume_equals_no_stop(with_sampler):
    source = Numbers(10, shapes=((8, 8), (8, 16), (16, 8)))
    sampler = BucketSampler(source.shapes, 2, 5, buckets=((8, 8), (8, 12), (12, 8)))

    def fresh():
        crop = BucketCrop() if with_sampler else BucketCrop(8, 8)
        options = {"transforms": [crop, add_noise], "num_epochs": 3}
        return make_loader(source, 2, 5, sampler=sampler if with_sampler else None, **options)

    whole = list(fresh())
    for stop in (0, 1, 6, 11):
        first = fresh()
        before = [next(first) for _ in range(stop)]
        second = fresh()
        second.set_state(first.get_state())
        assert_same_batches([*before, *second], whole)


def test_worker_processes_yield_the_same():
    options = {"num_epochs": 1, "transforms": [BucketCrop(16, 24)]}
    source = IllustrationSource(0, 4, 24, 24)
    here = make_loader(source, 2, 0, **options)
    assert_same_batches(make_loader(source, 2, 0, worker_count=1, **options), here)


KILLED = """
from pathlib import Path
from data.illustrations import IllustrationSource
from data.loader import make_loader

if __name__ == "__main__":
    loader = make_loader(IllustrationSource(0, 64, 24, 24), 2, 0, worker_count=1)
    next(loader)
    tasks = Path("/proc/self/task").glob("*/children")
    print(*(pid for path in tasks for pid in path.read_text().split()), flush=True)
    while True:
        next(loader)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_workers_end_with_a_run_that_is_killed(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(KILLED)
    root = str(Path(data.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": root}
    run = subprocess.Popen(
        [sys.executable, program], env=environment, stdout=subprocess.PIPE, text=True
    )
    pids = run.stdout.readline().split()
    run.kill()
    run.wait()
    run.stdout.close()
    assert pids
    deadline = time.monotonic() + 60
    while (left := [pid for pid in pids if is_alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_batches_of_buckets():
    source = Numbers(40, shapes=((8, 8), (8, 16), (16, 8), (8, 13)))
    buckets = ((8, 8), (8, 12), (12, 8))
    sampler = BucketSampler(source.shapes, 4, 0, buckets)
    loader = make_loader(
        source, 4, 0, sampler=sampler, transforms=[BucketCrop()], num_epochs=1, shuffle=False
    )
    seen = []
    for batch in loader:
        assert "bucket" not in batch
        assert batch["image"].shape[1:3] in buckets
        seen.append(batch["number"])
    assert len(seen) == len(sampler) == 10
    assert sorted(np.concatenate(seen).tolist()) == list(range(40))


def test_sampler_is_a_function_of_seed_and_epoch():
    shapes = np.random.default_rng(0).integers(768, 2000, (203, 2))

    def epoch(number, seed=0):
        sampler = BucketSampler(shapes, 8, seed)
        return [sampler.batch(number, i) for i in range(len(sampler))]

    def flat(batches):
        return np.concatenate([indices for indices, _ in batches]).tolist()

    assert flat(epoch(0)) == flat(epoch(0))
    assert flat(epoch(0)) != flat(epoch(1)) and flat(epoch(0)) != flat(epoch(0, seed=1))
    batches = epoch(1)
    assert len(batches) == 25 and len(set(flat(batches))) == 200
    for indices, (height, width) in batches:
        for h, w in shapes[indices]:  # the short side decides, the long side is cropped
            assert max(height / h, width / w) == pytest.approx(min(height, width) / min(h, w))


def test_similar_aspects_share_blocks():
    stretch = np.linspace(1.0, 1.05, 64)
    shapes = np.stack([np.full(64, 4000), np.round(4000 * stretch)], 1).astype(int)
    sampler = BucketSampler(shapes, 4, 0, block_batches=2)
    spans = [np.ptp(sampler.batch(0, i)[0]) for i in range(len(sampler))]
    assert max(spans) < 8


def test_bucket_of_a_picture():
    shapes = np.array([(1000, 1000), (1000, 1040), (1000, 1070), (3000, 1000), (800, 1250)])
    found = [BUCKETS[k] for k in bucket_of(shapes, BUCKETS)]
    assert found == [(1024, 1024), (1024, 1024), (992, 1056), (1312, 736), (800, 1248)]
    assert bucket_of(np.array([(10, 20)]), ((20, 10), (30, 10))).tolist() == [0]
    assert len(BUCKETS) == 19 and scaled_buckets(1024) == BUCKETS
    assert all(h % 8 == 0 and w % 8 == 0 for h, w in scaled_buckets(64, 8))
    with pytest.raises(DataError, match="got buckets of size 16"):
        scaled_buckets(16)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_size": 3, "shard_count": 2}, "got batch size 3 for 2 shards"),
        ({"batch_size": 0}, "got batch size 0"),
        ({"batch_size": 4, "shard_index": 2, "shard_count": 2}, "got shard 2 of 2"),
        ({"batch_size": 4, "shard_count": 2, "drop_remainder": False}, "drop_remainder=False"),
        ({"batch_size": 4, "rows": [2, 4]}, "expected rows 0..3"),
        ({"batch_size": 16, "num_epochs": 1}, "got 8 examples for batches of 16"),
    ],
)
def test_bad_loader_is_named(options, message):
    with pytest.raises(DataError, match=message):
        make_loader(Numbers(8), seed=0, **options)


def test_bad_batches_are_named():
    source = Numbers(8, shapes=((8, 8), (8, 9)))
    with pytest.raises(DataError, match="got records of 2 different shapes"):
        next(make_loader(source, 8, 0))
    with pytest.raises(DataError, match="got a sampler of batches of 2 for a loader of 4"):
        make_loader(source, 4, 0, sampler=BucketSampler(source.shapes, 2, 0))
    with pytest.raises(DataError, match="got 8 pictures for batches of 9"):
        BucketSampler(source.shapes, 9, 0)
    with pytest.raises(DataError, match="got no buckets"):
        BucketSampler(source.shapes, 2, 0, buckets=())


def test_room_imports_nothing_of_the_house():
    for path in Path(data.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            roots = {name.partition(".")[0] for name in names}
            assert not roots & {"jax", "flax", "colorize_jax", "tensorflow"}, path


def test_grain_has_no_reason_to_run_fewer_threads_than_asked(caplog):
    """It warns, and runs fewer, where its buffer is smaller than the number of threads."""
    warning = "prefetch_buffer_size"
    with caplog.at_level("WARNING"):
        grain.ReadOptions(num_threads=16, prefetch_buffer_size=8)
        assert warning in caplog.text
        caplog.clear()
        for worker_count in (0, 2):
            loader = make_loader(
                Numbers(8), 2, seed=0, num_threads=16, prefetch=1, worker_count=worker_count
            )
            loader.close()
        assert warning not in caplog.text
