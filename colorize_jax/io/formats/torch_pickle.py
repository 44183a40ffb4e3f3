"""Unpickle what describes the tensors of PyTorch's checkpoints, without executing it.

A pickle is a program; this one may use only the few names below, which record offsets and shapes
and do nothing else. Any other name is refused before anything is called.
"""

import io
import math
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

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


class Storage(NamedTuple):
    dtype: np.dtype
    key: str
    elements: int


class View(NamedTuple):
    """A tensor as the pickle describes it: a strided view of a storage, in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _RebuildTensor:
    """Stands for torch._utils._rebuild_tensor and its second version.

    It has no attributes that a pickle could set.
    """

    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> View:
        shape, strides = tuple(shape), tuple(strides)
        numbers = (offset, *shape, *strides)
        if not isinstance(storage, Storage) or len(shape) != len(strides):
            raise pickle.UnpicklingError("a tensor is no view of a storage")
        if not all(isinstance(number, int) and number >= 0 for number in numbers):
            raise pickle.UnpicklingError("a tensor has a negative offset, size or stride")
        if math.prod(shape) > storage.elements:
            raise pickle.UnpicklingError("a tensor has more elements than its storage")
        span = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) + 1
        if 0 not in shape and offset + span > storage.elements:
            raise pickle.UnpicklingError("a tensor reaches beyond its storage")
        return View(storage, offset, shape, strides)


class _RebuildParameter:
    """Stands for torch._utils._rebuild_parameter: the tensor itself."""

    __slots__ = ()

    def __call__(self, view: Any, *_: Any) -> Any:
        return view


class _Parameter:
    """Stands for torch.nn.Parameter, which the oldest files make and then set the state of."""

    __slots__ = ("view",)

    def __new__(cls, view: Any = None, *_: Any) -> "_Parameter":
        self = super().__new__(cls)
        self.view = view
        return self

    def __setstate__(self, state: Any) -> None:
        if self.view is None and isinstance(state, tuple) and state:
            self.view = state[0]


class _Inert:
    """Stands for values that trainers store beside the tensors and that nothing here reads."""

    __slots__ = ()

    def __call__(self, *_: Any) -> "_Inert":
        return self

    def __setstate__(self, _: Any) -> None:
        pass


ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _RebuildTensor(),
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
    ("torch.nn.parameter", "Parameter"): _Parameter,
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
    """An unpickler that resolves the names of `ALLOWED` and refuses all others.

    Attributes:
        storages: key -> storage that the pickle mentions.
    """

    def __init__(self, described: bytes, path: Path):
        super().__init__(io.BytesIO(described))
        self.path = path
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise UserError(
                f"got {self.path} whose pickle wants {module}.{name}, expected tensors, "
                "dictionaries and plain values; nothing was executed: where you trust it, "
                "save it as safetensors"
            )
        return ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Storage:
        kind, storage_type, key, _, elements, *view = pid
        plain = kind == "storage" and isinstance(storage_type, _StorageType) and not any(view)
        if not plain or int(elements) < 0:
            raise pickle.UnpicklingError("an unknown kind of storage")
        storage = Storage(storage_type.dtype, str(key), int(elements))
        if self.storages.setdefault(storage.key, storage) != storage:
            raise pickle.UnpicklingError(f"two storages {storage.key}")
        return storage


def unpickle(described: bytes, path: Path) -> tuple[Any, dict[str, Storage]]:
    """Return what a pickle of a file describes, and every storage that it mentions.

    Raises:
        UserError: it wants to execute something.
        PICKLE_ERRORS: it is damaged; see `damaged`.
    """
    _check_opcodes(described)
    unpickler = _Unpickler(described, path)
    return unpickler.load(), unpickler.storages


def damaged(path: Path, error: Exception) -> UserError:
    """The error of a pickle that made the unpickler raise one of `PICKLE_ERRORS`."""
    return UserError(
        f"got {path} with a damaged pickle ({type(error).__name__}: {error}), expected a "
        "dictionary of tensors; get the file again"
    )


def state_dict(path: Path, content: Any) -> dict[str, View]:
    """The tensors of a dictionary, or of the one under its key "state_dict".

    Raises:
        UserError: it is no dictionary of tensors.
    """
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not content:
        raise UserError(
            f"got {path} that holds a {type(content).__name__}, expected a dictionary of tensors; "
            "save the model's state_dict"
        )
    content = {
        name: value.view if isinstance(value, _Parameter) else value
        for name, value in content.items()
    }
    wrong = [str(name) for name, value in content.items() if not isinstance(value, View)]
    if wrong:
        raise UserError(
            f"got {path} with entries that are no tensors ({', '.join(wrong[:5])}), expected a "
            "dictionary of tensors, or one under 'state_dict'; save the model's state_dict"
        )
    return content


def lazy_tensor(path: Path, name: str, view: View, start: Callable[[], int]) -> LazyTensor:
    """A tensor of a file whose storage begins at the byte that `start` returns, when it is read."""
    dtype = view.storage.dtype

    def load() -> np.ndarray:
        if 0 in view.shape:
            return np.empty(view.shape, dtype)
        span = sum((n - 1) * s for n, s in zip(view.shape, view.strides, strict=True)) + 1
        flat = file_loader(path, dtype, (span,), start() + view.offset * dtype.itemsize)()
        strides = tuple(stride * dtype.itemsize for stride in view.strides)
        return np.lib.stride_tricks.as_strided(flat, view.shape, strides, writeable=False)

    return LazyTensor(name, view.shape, dtype, load)


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
