"""Read PyTorch's zip checkpoints (`.ckpt`, `.pt`, `.bin`) without torch and without executing them.

Such a file is a zip with a pickle that describes the tensors (see `torch_pickle`), and one
uncompressed member for each storage.
"""

import struct
import zipfile
import zlib
from pathlib import Path

from colorize_jax.errors import UserError
from colorize_jax.io.formats import torch_pickle
from colorize_jax.io.formats.tensors import LazyTensor
from colorize_jax.io.formats.torch_pickle import MAX_PICKLE, PICKLE_ERRORS, View

MAX_WORD = 64  # bytes of "little" or "big"


def read_torch_zip(path: Path) -> dict[str, LazyTensor]:
    """Read the table of contents of a PyTorch zip checkpoint.

    Returns:
        name -> lazily read tensor, of the dictionary itself or of the one under "state_dict".

    Raises:
        UserError: the file is truncated, no checkpoint, or wants to execute something.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
            pickles = [name for name in members if name.split("/")[1:] == ["data.pkl"]]
            if len(pickles) != 1:
                raise UserError(
                    f"got {path}, a zip archive without PyTorch's data.pkl, expected a checkpoint; "
                    "name the file inside it"
                )
            root = pickles[0].removesuffix("data.pkl")
            order = b"little"
            if root + "byteorder" in members:
                order = _read_member(archive, members[root + "byteorder"], MAX_WORD, path)
            described = _read_member(archive, members[pickles[0]], MAX_PICKLE, path)
        content, _ = torch_pickle.unpickle(described, path)
    except (zipfile.BadZipFile, zlib.error, OSError, NotImplementedError) as error:
        raise UserError(
            f"got {path} that is no complete zip archive ({error}), expected PyTorch's zip format; "
            "the file is truncated or damaged: download or copy it again"
        ) from error
    except PICKLE_ERRORS as error:
        raise torch_pickle.damaged(path, error) from error
    if order.strip() != b"little":
        raise UserError(f"got {path} saved on a big-endian machine, expected little; save it again")
    return {
        name: _lazy_tensor(path, name, view, members, root)
        for name, view in torch_pickle.state_dict(path, content).items()
    }


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, most: int, path: Path) -> bytes:
    """Inflate a member of at most so many bytes, whatever size it says that it has."""
    with archive.open(info) as file:
        content = file.read(most + 1) if info.file_size <= most else b""
    if info.file_size > most or len(content) > most:
        raise UserError(
            f"got {path} whose {info.filename} takes more than {most} bytes, expected less: it "
            "only describes the tensors; do not use this file"
        )
    return content


def _lazy_tensor(
    path: Path, name: str, view: View, members: dict[str, zipfile.ZipInfo], root: str
) -> LazyTensor:
    storage = view.storage
    info = members.get(f"{root}data/{storage.key}")
    nbytes = storage.elements * storage.dtype.itemsize
    if info is None or info.compress_type != zipfile.ZIP_STORED or info.file_size != nbytes:
        raise UserError(
            f"got {path} whose storage of {name} is missing, compressed or not {nbytes} bytes, "
            "expected it as torch.save writes it; get the file again"
        )

    return torch_pickle.lazy_tensor(path, name, view, lambda: _member_offset(path, info))


def _member_offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Return the byte where a stored zip member's data begins."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        header = file.read(30)
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    return info.header_offset + 30 + name_length + extra_length
