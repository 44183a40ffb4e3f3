"""Lazy tensors: read from their file when they are used, one at a time.

Plain file reads, because pages of a memory map would count as memory of this process.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from colorize_jax.errors import UserError

# Safetensors' names of dtypes.
DTYPES: Mapping[str, np.dtype] = {
    name: np.dtype(dtype)
    for name, dtype in {
        "F64": np.float64,
        "F32": np.float32,
        "F16": np.float16,
        "BF16": ml_dtypes.bfloat16,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E5M2": ml_dtypes.float8_e5m2,
        "I64": np.int64,
        "I32": np.int32,
        "I16": np.int16,
        "I8": np.int8,
        "U8": np.uint8,
        "BOOL": np.bool_,
    }.items()
}


@dataclass(frozen=True)
class LazyTensor:
    """A tensor of a file, in PyTorch layout, read when NumPy asks for it.

    Attributes:
        name: its name in the file.
        shape: its shape.
        dtype: its NumPy dtype (bfloat16 and float8 by ml_dtypes).
        load: reads it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    load: Callable[[], np.ndarray] = field(repr=False)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("a tensor of a file is always a copy")
        array = self.load()
        return array if dtype is None else array.astype(dtype)

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return self.size * self.dtype.itemsize


def file_loader(
    path: Path, dtype: np.dtype, shape: tuple[int, ...], offset: int
) -> Callable[[], np.ndarray]:
    """Return a function that reads a contiguous tensor at byte `offset` of a file."""

    def load() -> np.ndarray:
        count = int(np.prod(shape, dtype=np.int64))
        try:
            array = np.fromfile(path, dtype, count, offset=offset)
        except OSError as error:
            raise UserError(
                f"got {path} that cannot be read any more ({error.strerror}), expected it to stay; "
                "check the disk and start again"
            ) from error
        if array.size != count:
            raise truncated_error(path, os.path.getsize(path), offset + count * dtype.itemsize)
        return array.reshape(shape)

    return load


def truncated_error(path: Path, size: int, needed: int) -> UserError:
    """The error of a file that ends before its data does."""
    return UserError(
        f"got {path} with {size} bytes, expected at least {needed}: the file is truncated; "
        "download or copy it again"
    )


def all_finite(array: np.ndarray) -> bool:
    """Whether no element is NaN or infinite.

    Tests the exponent bits of 16-bit floats: `np.isfinite` is several times slower for them, and
    converts bfloat16 to float32.
    """
    exponent = {np.dtype(np.float16): 0x7C00, np.dtype(ml_dtypes.bfloat16): 0x7F80}
    if array.dtype in exponent:
        mask = np.uint16(exponent[array.dtype])
        return not np.any((array.view(np.uint16) & mask) == mask)
    if not np.issubdtype(array.dtype, np.floating):
        return bool(np.isfinite(array.astype(np.float32)).all())
    return bool(np.isfinite(array).all())
