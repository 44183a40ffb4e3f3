"""The safetensors writer: what the library reads back, and what is left after a failure."""

import errno
import json

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from colorize_jax.errors import UserError
from colorize_jax.io.formats import safetensors_writer as writer
from colorize_jax.io.formats import tensors as tensors_module
from colorize_jax.io.formats.readers import open_checkpoint
from colorize_jax.io.formats.tensors import LazyTensor, all_finite

ARRAYS = {
    "half": np.arange(3, dtype=np.float16),
    "single": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "brain": np.arange(5).astype(ml_dtypes.bfloat16),
    "scalar": np.array(1.5, np.float32),
    "empty": np.zeros((0, 3), np.float32),
}


def _lazy(arrays):
    return [
        LazyTensor(name, array.shape, array.dtype, lambda array=array: array)
        for name, array in arrays.items()
    ]


def test_the_library_reads_what_we_write(tmp_path):
    path = tmp_path / "model.safetensors"
    writer.write_safetensors(path, _lazy(ARRAYS), {"prediction_type": "v"})
    loaded = safetensors.numpy.load_file(path)
    assert loaded.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert (loaded[name].dtype, loaded[name].shape) == (array.dtype, array.shape)
        assert loaded[name].tobytes() == array.tobytes()
    with safetensors.safe_open(path, "numpy") as file:
        assert file.metadata() == {"prediction_type": "v"}
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_shards_respect_their_size_and_read_back(tmp_path):
    out = tmp_path / "out"
    writer.write_shards(out, _lazy(ARRAYS), {}, max_shard_bytes=30)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in ARRAYS.values())
    assert (
        set(index["weight_map"].values())
        == {path.name for path in out.glob("*.safetensors")}
        == {f"model-{i:05d}-of-00002.safetensors" for i in (1, 2)}
    )
    loaded = open_checkpoint(out).tensors
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(loaded[name], array)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_weights_are_named_and_nothing_is_left(tmp_path, dtype, bad):
    array = np.zeros(100, dtype)
    assert all_finite(array)
    array[57] = bad
    assert not all_finite(array)
    with pytest.raises(UserError, match=r"infinity in some\.weight as"):
        writer.write_safetensors(tmp_path / "m", _lazy({"some.weight": array}), {})
    assert list(tmp_path.iterdir()) == []


def test_all_finite_accepts_every_finite_half():
    for dtype in (np.float16, ml_dtypes.bfloat16, tensors_module.DTYPES["F8_E5M2"]):
        bits = np.arange(2 ** (8 * np.dtype(dtype).itemsize), dtype=np.uint16)
        values = bits.astype(f"u{np.dtype(dtype).itemsize}").view(dtype)
        finite = np.isfinite(values.astype(np.float32))
        assert all_finite(values[finite])
        assert not any(all_finite(values[i : i + 1]) for i in np.flatnonzero(~finite)[:50])


def test_a_full_disk_leaves_nothing_and_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    path.write_text("old")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer.os, "fsync", full)
    with pytest.raises(UserError, match="full disk"):
        writer.write_safetensors(path, _lazy(ARRAYS), {}, overwrite=True)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_space_is_checked_before_writing(tmp_path):
    huge = LazyTensor("huge", (2**40, 2**10), np.dtype(np.float32), lambda: pytest.fail("read"))
    with pytest.raises(UserError, match="GiB free"):
        writer.write_safetensors(tmp_path / "model.safetensors", [huge], {})
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_not_overwritten_unasked(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_text("old")
    with pytest.raises(UserError, match="exists"):
        writer.write_safetensors(path, _lazy(ARRAYS), {})
