"""Readers of checkpoint files: good ones, damaged ones and hostile ones."""

import json
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from colorize_jax.errors import UserError
from colorize_jax.io.formats.readers import open_checkpoint

TENSORS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b.bias": np.arange(4).astype(ml_dtypes.bfloat16),
    "c": np.array(2.5, np.float16),
}


class _Opcodes:
    """Writes the pickle of a state dict the way torch.save does, without torch."""

    def __init__(self, storages):
        self.storages = storages

    @staticmethod
    def plain(value):
        return pickle.dumps(value, protocol=2)[2:-1]

    def tensor(self, key, offset, shape, strides):
        kind, elements = self.storages[key]
        pid = b"(" + self.plain("storage") + f"ctorch\n{kind}\n".encode()
        pid += self.plain(key) + self.plain("cpu") + self.plain(elements) + b"tQ"
        arguments = b"(" + pid + self.plain(offset) + self.plain(shape) + self.plain(strides)
        arguments += b"\x89" + b"ccollections\nOrderedDict\n)R" + b"t"
        return b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R"

    def dictionary(self, entries):
        body = b"".join(self.plain(name) + value + b"s" for name, value in entries.items())
        return b"}" + body


def _torch_zip(path, content, members=()):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + content + b".")
        for name, data in dict(members).items():
            archive.writestr(f"archive/{name}", data)
    return path


def test_safetensors_file(tmp_path):
    path = tmp_path / "model.bin"  # the content decides, not the ending
    safetensors.numpy.save_file(TENSORS, path, {"config": "{}"})
    checkpoint = open_checkpoint(path)
    assert checkpoint.metadata == {"config": "{}"}
    assert checkpoint.tensors.keys() == TENSORS.keys()
    for name, expected in TENSORS.items():
        array = np.asarray(checkpoint.tensors[name])
        assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
        assert array.tobytes() == expected.tobytes()


def test_shards_and_folder(tmp_path):
    names = list(TENSORS)
    files = {name: f"model-{i}.safetensors" for i, name in enumerate(names)}
    for name, file in files.items():
        safetensors.numpy.save_file({name: TENSORS[name]}, tmp_path / file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.tensors.keys() == TENSORS.keys()
    np.testing.assert_array_equal(checkpoint.tensors["a.weight"], TENSORS["a.weight"])
    (tmp_path / files["c"]).unlink()
    with pytest.raises(UserError, match=r"model-2\.safetensors that cannot"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("file", ["../secret.safetensors", "/etc/passwd"])
def test_an_index_cannot_name_files_elsewhere(tmp_path, file):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": file}}))
    with pytest.raises(UserError, match="beside the index"):
        open_checkpoint(tmp_path)


def test_a_header_length_may_look_like_another_kind_of_file(tmp_path):
    path = tmp_path / "model.safetensors"
    tensors = {"a": np.ones(2, np.float32)}
    safetensors.numpy.save_file(tensors, path)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    padding = 0x0280 - length  # the first bytes of a pickle: 80 02
    header = content[8 : 8 + length] + b" " * padding
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])
    assert path.read_bytes().startswith(b"\x80\x02")
    np.testing.assert_array_equal(open_checkpoint(path).tensors["a"], tensors["a"])


@pytest.mark.parametrize("keep", [4, 8, 40, -1])
def test_truncated_safetensors(tmp_path, keep):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(TENSORS, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"truncated|download is complete"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]},
        {"dtype": "I4", "shape": [2], "data_offsets": [0, 1]},
        {"dtype": "F32", "shape": [2]},
    ],
)
def test_damaged_safetensors_header(tmp_path, entry):
    header = json.dumps({"a": entry}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    with pytest.raises(UserError, match="damaged safetensors header"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "a PNG picture"),
        (b"GGUF" + bytes(100), "GGUF"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
        (b"<!DOCTYPE html>", "web page"),
        (b"\x80\x02}q\x00.", "bare pickle"),
        (b"", "no checkpoint"),
        (b"hello world, no checkpoint", "no checkpoint"),
    ],
)
def test_wrong_kinds_are_named(tmp_path, content, what):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=what):
        open_checkpoint(path)


def test_missing_path_and_empty_folder(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        open_checkpoint(tmp_path / "no.safetensors")
    with pytest.raises(UserError, match="without weights"):
        open_checkpoint(tmp_path)


def test_torch_zip_with_views_and_a_state_dict_key(tmp_path):
    data = np.arange(12, dtype=np.float32)
    codes = _Opcodes({"0": ("FloatStorage", 12), "1": ("BFloat16Storage", 4)})
    state = {
        "whole": codes.tensor("0", 0, (3, 4), (4, 1)),
        "transposed": codes.tensor("0", 2, (2, 3), (1, 4)),
        "scalar": codes.tensor("0", 5, (), ()),
        "half": codes.tensor("1", 1, (3,), (1,)),
    }
    content = codes.dictionary({"epoch": codes.plain(3), "state_dict": codes.dictionary(state)})
    members = {"data/0": data.tobytes(), "data/1": TENSORS["b.bias"].tobytes()}
    path = _torch_zip(tmp_path / "model.ckpt", content, members)
    tensors = open_checkpoint(path).tensors
    assert tensors.keys() == state.keys()
    np.testing.assert_array_equal(tensors["whole"], data.reshape(3, 4))
    np.testing.assert_array_equal(tensors["transposed"], data.reshape(3, 4)[:, 2:].T)
    np.testing.assert_array_equal(tensors["scalar"], 5.0)
    np.testing.assert_array_equal(tensors["half"], TENSORS["b.bias"][1:])


def test_what_trainers_store_beside_the_tensors_is_passed_over(tmp_path):
    codes = _Opcodes({"0": ("FloatStorage", 4)})
    callback = b"cpytorch_lightning.callbacks.model_checkpoint\nModelCheckpoint\n"
    dtype = b"cnumpy\ndtype\n(" + codes.plain("f8") + b"tR" + codes.plain((3, "<")) + b"b"
    scalar = b"cnumpy.core.multiarray\nscalar\n(" + dtype + codes.plain("x") + b"tR"
    entries = {
        "state_dict": codes.dictionary({"a": codes.tensor("0", 0, (4,), (1,))}),
        "callbacks": b"}" + callback + codes.plain(1) + b"s",
        "loss": scalar,
        "device": b"ctorch\ndevice\n(" + codes.plain("cuda") + b"tR",
    }
    data = np.arange(4, dtype=np.float32)
    members = {"data/0": data.tobytes()}
    path = _torch_zip(tmp_path / "model.ckpt", codes.dictionary(entries), members)
    tensors = open_checkpoint(path).tensors
    assert list(tensors) == ["a"]
    np.testing.assert_array_equal(tensors["a"], data)


def test_hostile_pickle_executes_nothing(tmp_path):
    marker = tmp_path / "executed"
    command = _Opcodes.plain(f"touch {marker}")
    content = b"cposix\nsystem\n(" + command + b"tR"
    with pytest.raises(UserError, match=r"wants posix\.system.*nothing was executed"):
        open_checkpoint(_torch_zip(tmp_path / "evil.ckpt", content))
    assert not marker.exists()


@pytest.mark.parametrize(
    "attack",
    [
        b"cbuiltins\ngetattr\n",
        b"ctorch._utils\n_rebuild_tensor_v2\n}\x8c\x03abcK\x01sb",  # sets an attribute of ours
        b"ctorch.storage\n_load_from_bytes\n",
        b"\x82\x01",  # copyreg extension
        b"ctorch\nFloatStorage\n)R",
        b"(K\x01K\x02tQ",
        b"garbage",
        b"}",
        b"K\x01",
    ],
)
def test_damaged_and_strange_pickles_are_user_errors(tmp_path, attack):
    with pytest.raises(UserError):
        open_checkpoint(_torch_zip(tmp_path / "model.pt", attack))


@pytest.mark.parametrize(
    ("offset", "shape", "strides"), [(0, (13,), (1,)), (5, (2, 4), (6, 1)), (-1, (2,), (1,))]
)
def test_tensors_cannot_reach_beyond_their_storage(tmp_path, offset, shape, strides):
    codes = _Opcodes({"0": ("FloatStorage", 12)})
    content = codes.dictionary({"a": codes.tensor("0", offset, shape, strides)})
    path = _torch_zip(tmp_path / "model.pt", content, {"data/0": bytes(48)})
    with pytest.raises(UserError, match="damaged pickle"):
        open_checkpoint(path)


def test_torch_zip_with_a_short_storage_or_cut_off(tmp_path):
    codes = _Opcodes({"0": ("FloatStorage", 12)})
    content = codes.dictionary({"a": codes.tensor("0", 0, (12,), (1,))})
    path = _torch_zip(tmp_path / "model.pt", content, {"data/0": bytes(20)})
    with pytest.raises(UserError, match="storage of a is missing"):
        open_checkpoint(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="truncated"):
        open_checkpoint(path)


def test_entries_that_are_no_tensors_are_named(tmp_path):
    codes = _Opcodes({})
    path = _torch_zip(tmp_path / "model.pt", codes.dictionary({"version": codes.plain(1)}))
    with pytest.raises(UserError, match="no tensors \\(version\\)"):
        open_checkpoint(path)


def test_a_zip_that_is_no_checkpoint(tmp_path):
    path = tmp_path / "pictures.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "hello")
    with pytest.raises(UserError, match=r"without PyTorch's data\.pkl"):
        open_checkpoint(path)
