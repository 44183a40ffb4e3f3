"""Read PyTorch's zip checkpoints (`.ckpt`, `.pt`, `.bin`) without torch and without executing them.

Such a file is a zip with a pickle that describes the tensors, and one uncompressed member for each
storage. A pickle is a program; this one may use only the few names below, which record offsets and
shapes and do nothing else. Any other name is refused before anything is called.
"""

import io
import math
import pickle
import pickletools
import struct
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from colorize_jax.errors import UserError
from colorize_jax.io.formats.tensors import LazyTensor, file_loader

STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}

MAX_PICKLE = 2**22  # bytes; the largest published model's takes 0.5 MB
MAX_WORD = 64  # bytes of "little" or "big"
MAX_COPIES = 1000

# What a damaged or hostile pickle can make the unpickler raise.
PICKLE_ERRORS = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)


class _StorageType(NamedTuple):
    dtype: np.dtype


class _Storage(NamedTuple):
    dtype: np.dtype
    key: str
    elements: int


class _View(NamedTuple):
    """A tensor as the pickle describes it: a strided view of a storage, in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _RebuildTensor:
    """Stands for torch._utils._rebuild_tensor_v2; without attributes that a pickle could set."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _View:
        shape, strides = tuple(shape), tuple(strides)
        numbers = (offset, *shape, *strides)
        if not isinstance(storage, _Storage) or len(shape) != len(strides):
            raise pickle.UnpicklingError("a tensor is no view of a storage")
        if not all(isinstance(number, int) and number >= 0 for number in numbers):
            raise pickle.UnpicklingError("a tensor has a negative offset, size or stride")
        if math.prod(shape) > storage.elements:
            raise pickle.UnpicklingError("a tensor has more elements than its storage")
        span = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) + 1
        if 0 not in shape and offset + span > storage.elements:
            raise pickle.UnpicklingError("a tensor reaches beyond its storage")
        return _View(storage, offset, shape, strides)


class _RebuildParameter:
    """Stands for torch._utils._rebuild_parameter: the tensor itself."""

    __slots__ = ()

    def __call__(self, view: Any, *_: Any) -> Any:
        return view


class _Inert:
    """Stands for values that trainers store beside the tensors and that nothing here reads."""

    __slots__ = ()

    def __call__(self, *_: Any) -> "_Inert":
        return self

    def __setstate__(self, _: Any) -> None:
        pass


ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
    ("torch", "Size"): tuple,
    # Lightning's key of a callback's state, the device and NumPy's numbers that trainers log.
    ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"): _Inert(),
    ("torch", "device"): _Inert(),
    ("numpy", "dtype"): _Inert(),
    ("numpy.core.multiarray", "scalar"): _Inert(),
    ("numpy._core.multiarray", "scalar"): _Inert(),
    **{("torch", name): _StorageType(np.dtype(dtype)) for name, dtype in STORAGES.items()},
}


class _Unpickler(pickle.Unpickler):
    """An unpickler that resolves the names of `ALLOWED` and refuses all others."""

    def __init__(self, file: BinaryIO, path: Path):
        super().__init__(file)
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise UserError(
                f"got {self.path} whose pickle wants {module}.{name}, expected tensors, "
                "dictionaries and plain values; nothing was executed: where you trust it, "
                "save it as safetensors"
            )
        return ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage_type, key, _, elements = pid
        if kind != "storage" or not isinstance(storage_type, _StorageType):
            raise pickle.UnpicklingError("an unknown kind of storage")
        return _Storage(storage_type.dtype, str(key), int(elements))


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
        _check_opcodes(described)
        content = _Unpickler(io.BytesIO(described), path).load()
    except (zipfile.BadZipFile, zlib.error, OSError, NotImplementedError) as error:
        raise UserError(
            f"got {path} that is no complete zip archive ({error}), expected PyTorch's zip format; "
            "the file is truncated or damaged: download or copy it again"
        ) from error
    except PICKLE_ERRORS as error:
        raise UserError(
            f"got {path} with a damaged pickle ({type(error).__name__}: {error}), expected a "
            "dictionary of tensors; get the file again"
        ) from error
    if order.strip() != b"little":
        raise UserError(f"got {path} saved on a big-endian machine, expected little; save it again")
    return {
        name: _lazy_tensor(path, name, view, members, root)
        for name, view in _state_dict(path, content).items()
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


def _check_opcodes(described: bytes) -> None:
    """Refuse what makes an unpickler take memory that the pickle itself does not hold.

    Raises:
        pickle.UnpicklingError: a memo far beyond the pickle's own length, or copies of copies.
    """
    copies = 0
    for opcode, argument, _ in pickletools.genops(described):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument) > len(described):
            raise pickle.UnpicklingError(f"a memo of {argument} entries")
        copies += opcode.name == "DUP"
        if copies > MAX_COPIES:
            raise pickle.UnpicklingError("too many copies")


def _state_dict(path: Path, content: Any) -> dict[str, _View]:
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not content:
        raise UserError(
            f"got {path} that holds a {type(content).__name__}, expected a dictionary of tensors; "
            "save the model's state_dict"
        )
    wrong = [str(name) for name, value in content.items() if not isinstance(value, _View)]
    if wrong:
        raise UserError(
            f"got {path} with entries that are no tensors ({', '.join(wrong[:5])}), expected a "
            "dictionary of tensors, or one under 'state_dict'; save the model's state_dict"
        )
    return content


def _lazy_tensor(
    path: Path, name: str, view: _View, members: dict[str, zipfile.ZipInfo], root: str
) -> LazyTensor:
    storage = view.storage
    info = members.get(f"{root}data/{storage.key}")
    nbytes = storage.elements * storage.dtype.itemsize
    if info is None or info.compress_type != zipfile.ZIP_STORED or info.file_size != nbytes:
        raise UserError(
            f"got {path} whose storage of {name} is missing, compressed or not {nbytes} bytes, "
            "expected it as torch.save writes it; get the file again"
        )

    def load() -> np.ndarray:
        start = _member_offset(path, info) + view.offset * storage.dtype.itemsize
        if 0 in view.shape:
            return np.empty(view.shape, storage.dtype)
        span = sum((n - 1) * s for n, s in zip(view.shape, view.strides, strict=True)) + 1
        flat = file_loader(path, storage.dtype, (span,), start)()
        strides = tuple(stride * storage.dtype.itemsize for stride in view.strides)
        return np.lib.stride_tricks.as_strided(flat, view.shape, strides, writeable=False)

    return LazyTensor(name, view.shape, storage.dtype, load)


def _member_offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Return the byte where a stored zip member's data begins."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        header = file.read(30)
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    return info.header_offset + 30 + name_length + extra_length
