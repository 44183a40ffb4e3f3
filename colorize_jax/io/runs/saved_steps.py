"""Complete and damaged checkpoints of a run, and their architecture."""

import json
import os
from collections.abc import Mapping
from typing import Any

import orbax.checkpoint as ocp
from etils import epath

from colorize_jax.config.difference import differing
from colorize_jax.errors import UserError
from colorize_jax.io.formats.orbax_errors import system_error
from colorize_jax.io.runs.workdir import CHECKPOINTS, PathLike

FILES = "files.json"
COMMIT = "commit_success.txt"  # Orbax's own mark, written last
INTERRUPTED = "its save was interrupted"
# Orbax updates its marks after the list of files is made.
UNLISTED = (FILES, COMMIT, "_CHECKPOINT_METADATA")
# What Orbax and TensorStore raise for full disks, lost networks and damaged files.
STORAGE_ERRORS = (OSError, ValueError, RuntimeError, KeyError)


def find_steps(workdir: PathLike) -> tuple[list[int], dict[int, str]]:
    """List the complete steps of a workdir, ascending, and the damaged ones with the reason."""
    directory = epath.Path(workdir) / CHECKPOINTS
    complete, damaged = [], {}
    if directory.exists():
        for path in directory.iterdir():
            if not path.name.isdigit():
                continue
            lack = damage(path)
            if lack is None:
                complete.append(int(path.name))
            else:
                damaged[int(path.name)] = lack
    return sorted(complete), dict(sorted(damaged.items()))


def check_saved(workdir: PathLike, step: int, newest: int) -> None:
    """Make sure that a run's last step is its newest checkpoint.

    Raises:
        UserError: it could not be saved.
    """
    if newest != step:
        raise UserError(
            f"got no checkpoint of step {step}, which could not be saved, expected the last one to "
            f"be; the newest is that of step {newest}: make sure that {workdir} can be written and "
            "has room, and give the same command again"
        )


def check_architecture(path: epath.Path, trees: Mapping[str, Any]) -> None:
    """Compare a checkpoint's shapes with those of trees by item; a damaged one is for its reader.

    Raises:
        UserError: they differ; the first differences are named.
    """
    there, here = {}, {}
    for name, tree in trees.items():
        try:
            there |= _shapes(ocp.StandardCheckpointHandler().metadata(path / name), name)
        except STORAGE_ERRORS:
            return  # damaged: reading it will tell
        here |= _shapes(tree, name)
    different = [
        f"{name} is {there.get(name, 'missing')} there and {here.get(name, 'missing')} here"
        for name in differing(there, here)
    ]
    if different:
        raise UserError(
            f"got {path} of another architecture ({'; '.join(different[:3])}; {len(different)} "
            "tensors in all), expected this config's; use its own config or another workdir"
        )


def _shapes(tree: Any, prefix: str) -> dict[str, tuple[int, ...]]:
    """Return prefix/path -> shape of the leaves of a tree or of Orbax's metadata of one."""
    return {
        "/".join((prefix, *key)): tuple(leaf.shape)
        for key, leaf in ocp.tree.to_flat_dict(tree).items()
        if hasattr(leaf, "shape")
    }


def list_sizes(directory: epath.Path, prefix: str = "") -> dict[str, int]:
    """Name -> bytes of every file that a checkpoint's list has."""
    sizes = {}
    for path in directory.iterdir():
        if path.is_dir():
            sizes |= list_sizes(path, f"{prefix}{path.name}/")
        elif prefix or path.name not in UNLISTED:
            sizes[prefix + path.name] = path.stat().length
    return sizes


def damage(path: epath.Path) -> str | None:
    """Say what a checkpoint lacks; None where it is complete."""
    try:
        if not (path / COMMIT).exists():
            return INTERRUPTED
        expected = json.loads((path / FILES).read_text())
        sizes = list_sizes(path)
    except (OSError, ValueError) as error:
        return f"its list of files cannot be read: {reason(error)}"
    for name, size in expected.items():
        if name not in sizes:
            return f"{name} is missing"
        if sizes[name] != size:
            return f"{name} has {sizes[name]} bytes, expected {size}"
    return None


def reason(error: Exception) -> str:
    """What an error says, in one line of at most 200 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    code = system_error(text)
    if code is not None and not text.startswith("["):  # an OSError begins by it
        text = f"{os.strerror(code)}: {text}"
    # What failed comes first and why last, with paths between.
    return text if len(text) <= 200 else f"{text[:60]} … {text[-140:]}"
