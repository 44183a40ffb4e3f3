"""Read PyTorch's checkpoints from before version 1.6, without torch and without executing them.

Networks for metrics are still published so. Such a file is a row of pickles: a magic number, the
version of the protocol, facts of the machine, the description of the tensors (see `torch_pickle`)
and the keys of the storages; then, for each key, the number of elements in 8 bytes, and they.
"""

import io
import pickle
import pickletools
import struct
from pathlib import Path
from typing import Any

from colorize_jax.errors import UserError
from colorize_jax.io.formats import torch_pickle
from colorize_jax.io.formats.tensors import LazyTensor, truncated_error
from colorize_jax.io.formats.torch_pickle import MAX_PICKLE, PICKLE_ERRORS, Storage

MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)  # how such a file begins
PROTOCOL = 1001
COUNT = struct.Struct("<Q")


def read_torch_legacy(path: Path) -> dict[str, LazyTensor]:
    """Read the table of contents of an old PyTorch checkpoint.

    Returns:
        As `torch_zip.read_torch_zip`.

    Raises:
        UserError: the file is truncated, no checkpoint, or wants to execute something.
    """
    with path.open("rb") as file:
        start = io.BytesIO(file.read(MAX_PICKLE))
    try:
        _, protocol, machine = (_next(start, path)[0] for _ in range(3))
        content, storages = _next(start, path)
        keys, _ = _next(start, path)
        if protocol != PROTOCOL or not isinstance(machine, dict) or not isinstance(keys, list):
            raise pickle.UnpicklingError("no checkpoint's header")
        if not machine.get("little_endian"):
            raise UserError(
                f"got {path} saved on a big-endian machine, expected little; save it again"
            )
        begins = _find_storages(path, start.tell(), [storages[str(key)] for key in keys])
        views = torch_pickle.state_dict(path, content)
        missing = {view.storage.key for view in views.values()} - begins.keys()
        if missing:
            raise pickle.UnpicklingError(f"no storage {min(missing)}")
    except PICKLE_ERRORS as error:
        raise torch_pickle.damaged(path, error) from error
    return {
        name: torch_pickle.lazy_tensor(path, name, view, lambda at=begins[view.storage.key]: at)
        for name, view in views.items()
    }


def _next(start: io.BytesIO, path: Path) -> tuple[Any, dict[str, Storage]]:
    """Unpickle what comes next, and go to its end."""
    begin = start.tell()
    for _ in pickletools.genops(start):
        pass
    return torch_pickle.unpickle(start.getvalue()[begin : start.tell()], path)


def _find_storages(path: Path, begin: int, storages: list[Storage]) -> dict[str, int]:
    """Key -> byte where the elements begin, of storages that follow each other from `begin` on."""
    size, begins = path.stat().st_size, {}
    with path.open("rb") as file:
        for storage in storages:
            end = begin + COUNT.size + storage.elements * storage.dtype.itemsize
            if end > size:
                raise truncated_error(path, size, end)
            file.seek(begin)
            (count,) = COUNT.unpack(file.read(COUNT.size))
            if count != storage.elements:
                raise pickle.UnpicklingError(f"{count} elements in storage {storage.key}")
            begins[storage.key], begin = begin + COUNT.size, end
    return begins
