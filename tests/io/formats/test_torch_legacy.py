"""Checkpoints of PyTorch before 1.6: good ones, damaged ones and hostile ones."""

import pickle
import struct

import numpy as np
import pytest

from colorize_jax.errors import UserError
from colorize_jax.io.formats.readers import join_checkpoints, open_checkpoint
from colorize_jax.io.formats.torch_legacy import MAGIC

FLOATS, COUNTS = np.arange(8, dtype=np.float32), np.array([3, 4], np.int64)
STORAGES = {"90": ("FloatStorage", FLOATS), "7": ("LongStorage", COUNTS)}


def plain(value):
    """The opcodes of a plain value."""
    return pickle.dumps(value, protocol=2)[2:-1]


def view(key, offset, shape, strides, rebuild="_rebuild_tensor_v2"):
    """The opcodes of a tensor."""
    kind, array = STORAGES[key]
    pid = b"(" + plain("storage") + f"ctorch\n{kind}\n".encode()
    pid += plain(key) + plain("cuda:0") + plain(array.size) + b"NtQ"
    arguments = b"(" + pid + plain(offset) + plain(shape) + plain(strides)
    if rebuild == "_rebuild_tensor_v2":
        arguments += b"\x89ccollections\nOrderedDict\n)R"
    return f"ctorch._utils\n{rebuild}\n".encode() + arguments + b"tR"


def dictionary(entries):
    return b"}" + b"".join(plain(name) + value + b"s" for name, value in entries.items())


ENTRIES = {
    "whole": view("90", 0, (2, 4), (4, 1)),
    "turned": view("90", 2, (2, 3), (1, 2), "_rebuild_tensor"),
    "parameter": b"ctorch.nn.parameter\nParameter\n" + view("90", 1, (3,), (1,)) + b"\x89\x86R",
    "later": b"ctorch.nn.parameter\nParameter\n)R" + view("90", 5, (2,), (1,)) + b"\x89\x86b",
    "count": view("7", 0, (2,), (1,)),
}


def write(path, entries=ENTRIES, keys=tuple(STORAGES), machine=None, counts=None):
    """A file as old versions wrote it."""
    machine = {"protocol_version": 1001, "little_endian": True} if machine is None else machine
    parts = [MAGIC, pickle.dumps(1001, 2), pickle.dumps(machine, 2)]
    parts += [b"\x80\x02" + dictionary(entries) + b".", pickle.dumps(list(keys), 2)]
    for key in keys:
        array = STORAGES[key][1]
        parts += [struct.pack("<Q", (counts or {}).get(key, array.size)), array.tobytes()]
    path.write_bytes(b"".join(parts))
    return path


def test_views_of_storages_in_the_files_order(tmp_path):
    checkpoint = open_checkpoint(write(tmp_path / "old.pth"))
    assert checkpoint.form == "PyTorch before 1.6"
    found = {name: np.asarray(tensor) for name, tensor in checkpoint.tensors.items()}
    expected = {
        "whole": FLOATS.reshape(2, 4),
        "turned": FLOATS[2:].reshape(3, 2).T,
        "parameter": FLOATS[1:4],
        "later": FLOATS[5:7],
        "count": COUNTS,
    }
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


@pytest.mark.parametrize("keep", [20, 30, 200, -1, -40])
def test_truncated(tmp_path, keep):
    path = write(tmp_path / "old.pth")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"damaged pickle|truncated"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keys": ("90",)}, "no storage 7"),
        ({"counts": {"90": 7}}, "7 elements in storage 90"),
        ({"machine": {"little_endian": False}}, "big-endian"),
        ({"machine": [1]}, "no checkpoint's header"),
        ({"entries": {"a": view("90", 4, (2, 4), (4, 1))}}, "beyond its storage"),
        ({"entries": {"a": plain(3)}, "keys": ()}, "no tensors"),
    ],
)
def test_what_does_not_fit_together(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        open_checkpoint(write(tmp_path / "old.pth", **changes))


def test_nothing_is_executed(tmp_path):
    sentinel = tmp_path / "executed"
    call = b"cos\nsystem\n" + plain(f"touch {sentinel}") + b"\x85R"
    with pytest.raises(UserError, match=r"wants os\.system.*nothing was executed"):
        open_checkpoint(write(tmp_path / "old.pth", {"a": call}))
    assert not sentinel.exists()


def test_parts_of_one_network_are_joined(tmp_path):
    one = open_checkpoint(write(tmp_path / "one.pth", {"a": ENTRIES["whole"]}, ["90"]))
    two = open_checkpoint(write(tmp_path / "two.pth", {"b": ENTRIES["count"]}, ["7"]))
    joined = join_checkpoints([one, two])
    assert joined.tensors.keys() == {"a", "b"}
    assert joined.path == one.path
    with pytest.raises(UserError, match="1 tensors that an earlier file holds"):
        join_checkpoints([one, two, one])


@pytest.mark.interop
def test_equal_to_torch(tmp_path):
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    expected = module.state_dict()
    path = tmp_path / "old.pth"
    torch.save(expected, path, _use_new_zipfile_serialization=False)
    found = open_checkpoint(path).tensors
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], tensor.numpy())
