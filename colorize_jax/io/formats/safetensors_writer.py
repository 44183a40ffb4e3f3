"""Write safetensors one tensor at a time: single files and shards with an index.

The library's own writer wants every tensor in memory at once; the format is a length, a JSON header
and the data.
"""

import json
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from colorize_jax.errors import UserError
from colorize_jax.io.formats.atomic import NOTHING, Reads, atomic_output
from colorize_jax.io.formats.tensors import DTYPES, LazyTensor, all_finite

SHARDS = "a folder of shards"
DTYPE_NAMES: Mapping[np.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}


def write_safetensors(
    path: str | Path,
    tensors: Sequence[LazyTensor],
    metadata: Mapping[str, str],
    *,
    overwrite: bool = False,
    reads: Reads = NOTHING,
) -> None:
    """Write one safetensors file: whole or not at all.

    Args:
        path: file to make.
        tensors: what to write, read one at a time in the given order.
        metadata: strings for the header.
        overwrite: replace an existing file.
        reads: what must not be written to.

    Raises:
        UserError: `path` exists or cannot be written, the disk is full, or a tensor is not finite.
    """
    nbytes = sum(tensor.nbytes for tensor in tensors)
    with atomic_output(path, nbytes=nbytes, overwrite=overwrite, reads=reads) as temporary:
        write_file(temporary, tensors, metadata)


def write_shards(
    directory: str | Path,
    tensors: Sequence[LazyTensor],
    metadata: Mapping[str, str],
    *,
    max_shard_bytes: int,
    stem: str = "model",
    overwrite: bool = False,
) -> None:
    """Write a folder of shards with `STEM.safetensors.index.json`: whole or not at all.

    Args:
        directory: folder to make.
        tensors: what to write, read one at a time in the given order.
        metadata: strings for every shard's header.
        max_shard_bytes: size a shard does not exceed, unless one tensor does.
        stem: what file names begin with.
        overwrite: replace an existing folder.

    Raises:
        UserError: as for `write_safetensors`.
    """
    nbytes = sum(tensor.nbytes for tensor in tensors)
    with atomic_output(directory, nbytes=nbytes, kind=SHARDS, overwrite=overwrite) as temporary:
        write_shards_into(temporary, tensors, metadata, max_shard_bytes, stem)


def write_shards_into(
    directory: Path,
    tensors: Sequence[LazyTensor],
    metadata: Mapping[str, str],
    max_shard_bytes: int,
    stem: str,
) -> None:
    """Write shards and index into an existing folder."""
    shards: list[list[LazyTensor]] = [[]]
    for tensor in tensors:
        filled = sum(other.nbytes for other in shards[-1])
        if shards[-1] and filled + tensor.nbytes > max_shard_bytes:
            shards.append([])
        shards[-1].append(tensor)
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        name = f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        write_file(directory / name, shard, metadata)
        weight_map |= {tensor.name: name for tensor in shard}
    total = sum(tensor.nbytes for tensor in tensors)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def write_file(path: Path, tensors: Sequence[LazyTensor], metadata: Mapping[str, str]) -> None:
    """Write one safetensors file into a folder that is itself temporary."""
    # Wide dtypes first, so that every tensor is aligned to its own size.
    tensors = sorted(tensors, key=lambda tensor: -tensor.dtype.itemsize)
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for tensor in tensors:
        header[tensor.name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    content = json.dumps(header, separators=(",", ":")).encode()
    content += b" " * (-len(content) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(content)) + content)
        for tensor in tensors:
            array = np.ascontiguousarray(np.asarray(tensor)).reshape(tensor.shape)
            if not all_finite(array):
                raise UserError(
                    f"got NaN or infinity in {tensor.name} as {tensor.dtype.name}, expected finite "
                    "weights; export an earlier checkpoint, or a wider dtype if values overflow"
                )
            file.write(array.data if array.dtype.isbuiltin == 1 else array.tobytes())
        file.flush()
        os.fsync(file.fileno())
