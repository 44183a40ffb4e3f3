"""One interface to parameters in folders of weights and in training runs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from colorize_jax.errors import UserError
from colorize_jax.io.formats.weights_folder import (
    METADATA_FILE,
    WeightsMetadata,
    WeightsReader,
    is_weights_dir,
)
from colorize_jax.io.runs.run_weights import RunWeights
from colorize_jax.io.runs.workdir import CHECKPOINTS, CONFIG_FILE, FROZEN_FOLDER, is_workdir
from colorize_jax.io.shipped import find_checkpoint
from colorize_jax.types import Params


class Weights(Protocol):
    """Parameters that are read network by network, or module by module.

    Attributes:
        metadata: what they are.
        abstract: network -> tree of `jax.ShapeDtypeStruct`.
    """

    metadata: WeightsMetadata
    abstract: Mapping[str, Params]

    def read(self, component: str, module: str | None = None) -> Params:
        """Read one network, or the tree with one top-level module of it, as NumPy arrays."""
        ...


class ShardedWeights(Weights, Protocol):
    """Parameters that can be read onto devices, too, each process its own shards."""

    def read_sharded(self, component: str, target: Params) -> Params:
        """Read one network into arrays of `target`'s dtypes and shardings."""
        ...


def weights_paths(path: str | Path) -> list[Path]:
    """What is read to open weights at `path`: a run's own parts, or all of a folder or file.

    A file of a model's folder is read with the index and the config that lie beside it.
    """
    path = Path(find_checkpoint(path))
    if is_workdir(path):
        return [path / name for name in (CONFIG_FILE, CHECKPOINTS, FROZEN_FOLDER)]
    if not path.is_file():
        return [path]
    return [path, path.with_name("config.json"), *_shards(path)]


def _shards(path: Path) -> list[Path]:
    """The files that an index names; none where `path` is no index."""
    if path.suffix != ".json":
        return []
    try:
        names = json.loads(path.read_text())["weight_map"].values()
        return [path.with_name(str(name)) for name in set(names)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []  # whoever opens it says so


def open_weights(path: str | Path, *, raw: bool = False) -> ShardedWeights:
    """Open a folder of weights without loading it.

    Args:
        path: a folder that `import` made, or the workdir of a training run.
        raw: of a training run, the parameters themselves and not their running average.

    Raises:
        UserError: there is nothing of this kind, it is damaged, or `raw` has no meaning for it.
    """
    path = find_checkpoint(path)
    if is_weights_dir(path):
        if raw:
            raise UserError(
                f"got --raw for {path}, expected it only for training runs: imported weights have "
                "no running average; leave it out"
            )
        return WeightsReader(path)
    if is_workdir(path):
        return RunWeights(path, raw=raw)
    found = sorted(item.name for item in Path(path).iterdir()) if Path(path).is_dir() else []
    what = f"a folder with {', '.join(found[:6])}" if found else "no such folder"
    what = "a file" if Path(path).is_file() else what
    raise UserError(
        f"got {path} ({what}), expected a folder with {METADATA_FILE} as `import` makes it, or the "
        "workdir of a training run; import a checkpoint first"
    )
