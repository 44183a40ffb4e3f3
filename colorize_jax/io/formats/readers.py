"""Open checkpoint files without loading them and without executing anything from them.

`open_checkpoint` reads the table of contents of a safetensors file, of a sharded index, of a
`.ckpt`, `.pt`, `.pth` or `.bin` file (PyTorch's formats) or of a folder that holds one of these.
"""

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from colorize_jax.errors import UserError
from colorize_jax.io.formats.tensors import DTYPES, LazyTensor, file_loader, truncated_error
from colorize_jax.io.formats.torch_legacy import MAGIC, read_torch_legacy
from colorize_jax.io.formats.torch_zip import read_torch_zip

MAX_HEADER_BYTES = 2**24  # the largest published model's takes 0.5 MB

# Names under which model folders keep their weights, best first.
FOLDER_FILES = tuple(
    f"{stem}{variant}.{extension}{index}"
    for stem, extension in (
        ("diffusion_pytorch_model", "safetensors"),
        ("model", "safetensors"),
        ("pytorch_model", "bin"),
        ("diffusion_pytorch_model", "bin"),
    )
    for variant in ("", ".fp16")
    for index in ("", ".index.json")
) + tuple(
    # How newer programs name the index of a variant.
    f"{stem}.safetensors.index.fp16.json"
    for stem in ("diffusion_pytorch_model", "model")
)

# First bytes of other files that are mistaken for checkpoints.
SIGNATURES: Mapping[bytes, str] = {
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"RIFF": "a WebP picture or another RIFF file",
    b"GGUF": "a GGUF model (quantised)",
    b"\x89HDF": "an HDF5 file",
    b"\x1f\x8b": "a gzip archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself",
    b"<!DOCTYPE": "a web page (a failed download)",
    b"<html": "a web page (a failed download)",
    b"\x80": "a bare pickle",
}


@dataclass(frozen=True)
class Checkpoint:
    """The table of contents of a checkpoint.

    Attributes:
        path: file or folder that the user named.
        form: what the container is, in words for the user.
        tensors: name -> lazily read tensor.
        metadata: the safetensors metadata, empty for other forms.
    """

    path: Path
    form: str
    tensors: dict[str, LazyTensor]
    metadata: dict[str, str] = field(default_factory=dict)


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint's table of contents.

    Args:
        path: a safetensors file, a `.ckpt`, `.pt`, `.pth` or `.bin` file, an `.index.json` of
            shards, or a folder with one of these under its usual name. Content decides, not the
            ending.

    Raises:
        UserError: the path does not exist, is damaged, truncated, or something else (it says what).
    """
    path = Path(path)
    try:
        if path.is_dir():
            return _open_folder(path)
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise UserError(
            f"got {path} that cannot be read ({error.strerror}), expected a checkpoint "
            "file or folder; check the path"
        ) from error
    if start.startswith(b"PK\x03\x04"):
        return Checkpoint(path, "PyTorch zip", read_torch_zip(path))
    if start.startswith(MAGIC):
        return Checkpoint(path, "PyTorch before 1.6", read_torch_legacy(path))
    if ".index." in path.name and path.name.endswith(".json"):
        return _open_index(path)
    for signature, what in SIGNATURES.items():
        # The length that begins a safetensors file can look like any signature.
        if start.startswith(signature) and not _begins_safetensors(start):
            raise UserError(
                f"got {path}, which is {what}, expected safetensors or PyTorch's zip format; "
                "convert it with the program that wrote it"
            )
    tensors, metadata = _read_safetensors(path)
    return Checkpoint(path, "safetensors", tensors, metadata)


def join_checkpoints(parts: Sequence[Checkpoint]) -> Checkpoint:
    """One table of contents of several files; path, form and metadata are the first one's.

    Raises:
        UserError: two of them hold a tensor of one name.
    """
    tensors: dict[str, LazyTensor] = {}
    for part in parts:
        twice = sorted(tensors.keys() & part.tensors.keys())
        if twice:
            raise UserError(
                f"got {part.path} with {len(twice)} tensors that an earlier file holds, too "
                f"({', '.join(twice[:3])}), expected parts of one network; name each once"
            )
        tensors |= part.tensors
    return replace(parts[0], tensors=tensors)


def _begins_safetensors(start: bytes) -> bool:
    """Whether these first bytes are a plausible length and the beginning of a JSON header."""
    return start[8:9] == b"{" and struct.unpack("<Q", start[:8])[0] <= MAX_HEADER_BYTES


def _open_folder(folder: Path) -> Checkpoint:
    for name in FOLDER_FILES:
        if (folder / name).is_file():
            inner = open_checkpoint(folder / name)
            return Checkpoint(folder, f"folder with {name}", inner.tensors, inner.metadata)
    found = sorted(item.name for item in folder.iterdir())
    raise UserError(
        f"got folder {folder} without weights (it holds {', '.join(found[:8]) or 'nothing'}), "
        f"expected one of {', '.join(FOLDER_FILES[:6])}, ...; name the file itself"
    )


def _open_index(path: Path) -> Checkpoint:
    """Open the shards that an index names, and check that they hold what it says."""
    try:
        index = json.loads(path.read_text())
        weight_map = dict(index["weight_map"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"got {path} that is no index of shards, expected JSON with a weight_map; get it again"
        ) from error
    shards: dict[str, Checkpoint] = {}
    tensors: dict[str, LazyTensor] = {}
    for name, file in weight_map.items():
        if Path(file).name != file:
            raise UserError(
                f"got {path} that names the shard {file!r}, expected a file beside the index; "
                "do not use this file"
            )
        if file not in shards:
            shards[file] = open_checkpoint(path.parent / file)
        if name not in shards[file].tensors:
            raise UserError(
                f"got shard {file} without {name}, which {path.name} says it holds; get both again"
            )
        tensors[name] = shards[file].tensors[name]
    metadata = {k: v for k, v in index.get("metadata", {}).items() if isinstance(v, str)}
    for shard in shards.values():
        metadata |= shard.metadata
    return Checkpoint(path, f"{len(shards)} shards", tensors, metadata)


def _read_safetensors(path: Path) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    """Parse a safetensors header: 8 bytes of length, JSON, then the data."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(9)
        if not _begins_safetensors(start):
            raise UserError(
                f"got {path} ({size} bytes) that is no checkpoint by its first bytes, expected "
                "safetensors or PyTorch's zip format; check that the download is complete"
            )
        length = struct.unpack("<Q", start[:8])[0]
        header_bytes = start[8:] + file.read(length - 1)
    if len(header_bytes) < length:
        raise truncated_error(path, size, 8 + length)
    try:
        header = json.loads(header_bytes)
        metadata = header.pop("__metadata__", {})
        entries = {name: _parse_entry(name, entry) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"got {path} with a damaged safetensors header ({type(error).__name__}: {error}), "
            "expected names with dtype, shape and data_offsets; get the file again"
        ) from error
    data_start = 8 + length
    needed = data_start + max((end for _, _, _, end in entries.values()), default=0)
    if needed > size:
        raise truncated_error(path, size, needed)
    tensors = {
        name: LazyTensor(name, shape, dtype, file_loader(path, dtype, shape, data_start + begin))
        for name, (dtype, shape, begin, _) in entries.items()
    }
    return tensors, metadata


def _parse_entry(name: str, entry: dict[str, Any]) -> tuple[np.dtype, tuple[int, ...], int, int]:
    if entry["dtype"] not in DTYPES:
        raise ValueError(f"{name} has the unknown dtype {entry['dtype']}")
    dtype = DTYPES[entry["dtype"]]
    shape = tuple(int(axis) for axis in entry["shape"])
    begin, end = entry["data_offsets"]
    nbytes = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or begin < 0 or end - begin != nbytes:
        raise ValueError(f"{name} has offsets {begin}..{end} for {nbytes} bytes")
    return dtype, shape, begin, end
