"""A compiled training step in a file: compiled on any machine, loaded where it runs.

    train.py --compile_only --topology=v5e:8x8 --save_step=FILE     on any machine
    train.py --load_step=FILE                                       on such a slice

It is the program of steps of both branches for pictures of one size. Every other step (of the
aligned branch alone, of another bucket's pictures) is compiled as usual.
"""

import hashlib
import json
import pickle
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
from etils import epath
from jax.experimental import serialize_executable

from colorize_jax.config.difference import belongs, difference, flatten
from colorize_jax.config.options import Config
from colorize_jax.errors import UserError
from colorize_jax.io.formats.atomic import atomic_output

HASH = "step_sha256"  # in the report beside a stored step
# Options that are compiled into a step.
COMPILED = (
    "total_steps",
    "model",
    "encoders",
    "diffusion",
    "color_hints",
    "gram",
    "optimizer",
    "mesh",
    "data.batch_size",
    "data.height",
    "data.width",
    "data.reference_size",
)
# Exceptions of pickle and JAX for other files, versions or devices.
LOAD_ERRORS = (
    OSError,
    pickle.UnpicklingError,
    EOFError,
    ImportError,
    AttributeError,
    IndexError,
    KeyError,
    ValueError,
    TypeError,
    RuntimeError,
)


def save_step(
    compiled: jax.stages.Compiled, config: Config, path: str | Path, *, overwrite: bool = False
) -> str:
    """Store a compiled step for devices like those that it was compiled for.

    Args:
        compiled: of (state, record, key).
        config: of the run.
        path: of the file.
        overwrite: replace it where it exists.

    Returns:
        The file's SHA-256, by which `load_step` knows it again.

    Raises:
        UserError: the file exists or cannot be written.
    """
    content = {"config": _compiled_in(config), "step": serialize_executable.serialize(compiled)}
    stored = pickle.dumps(content)
    with atomic_output(path, nbytes=len(stored), overwrite=overwrite) as place:
        place.write_bytes(stored)
    return hashlib.sha256(stored).hexdigest()


def load_step(path: str | Path, config: Config, trusted: Collection[str]) -> jax.stages.Compiled:
    """Load what `save_step` stored; nothing of a file that is not known is looked at.

    Args:
        path: of the file.
        config: of the run.
        trusted: SHA-256 of files that may be run: a stored step may hold any code.

    Raises:
        UserError: it is not one of those, or was made for another config, other devices or another
            version.
    """
    here = _compiled_in(config)
    stored = _read_known(path, trusted)
    try:
        content = pickle.loads(stored)
        different = difference(content["config"], here)
        if not different:
            return serialize_executable.deserialize_and_load(*content["step"])
    except LOAD_ERRORS as error:
        raise UserError(
            f"got {path}, a step that cannot be loaded here ({' '.join(str(error).split())[:150]}),"
            " expected one that this version compiled for these devices; compile it again"
        ) from error
    raise UserError(
        f"got {path}, a step of another config ({different}), expected one that this config was "
        "compiled into; compile it again"
    )


def recorded_hashes(workdir: epath.PathLike) -> set[str]:
    """SHA-256 of the steps that reports in a workdir name."""
    hashes = set()
    for path in epath.Path(workdir).glob("aot-*.json"):
        try:
            hashes.add(str(json.loads(path.read_text())[HASH]))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a report without a step
    return hashes


def _read_known(path: str | Path, trusted: Collection[str]) -> bytes:
    try:
        stored = Path(path).read_bytes()
    except OSError as error:
        raise UserError(
            f"got {path} that cannot be read ({error.strerror or error}), expected a stored step; "
            "check the path"
        ) from error
    found = hashlib.sha256(stored).hexdigest()
    if found not in trusted:
        raise UserError(
            f"got {path} with the SHA-256 {found}, expected that of a step which --save_step "
            "reported; nothing in it was run: pass --step_hash with the hash of that report, or "
            "put the report into the workdir"
        )
    return stored


def for_arguments(program: jax.stages.Compiled, arguments: Any) -> jax.stages.Compiled | None:
    """The loaded step, where it is for arguments (state, record, key) of these shapes."""
    return program if _shapes(program.in_avals[0]) == _shapes(arguments) else None


def _shapes(tree: Any) -> list[Any]:
    return [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]


def _compiled_in(config: Config) -> dict[str, Any]:
    """Dotted name -> value of every option that a compiled step contains."""
    flat = flatten(config.to_dict())
    return {name: value for name, value in flat.items() if belongs(name, COMPILED)}
