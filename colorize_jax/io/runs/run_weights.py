"""The weights of a training run, read from its newest complete checkpoint."""

import logging
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from colorize_jax.errors import UserError
from colorize_jax.io.formats.weights_folder import bounded_handler, sharded_restore
from colorize_jax.io.runs.saved_steps import COMMIT, STORAGE_ERRORS, find_steps
from colorize_jax.io.runs.workdir import (
    CHECKPOINTS,
    FROZEN_FOLDER,
    PathLike,
    absolute,
    read_workdir,
)
from colorize_jax.types import Params

logger = logging.getLogger(__name__)


class RunWeights:
    """Parameters of a run, network by network or module by module; see `io.open_weights.Weights`.

    Attributes:
        workdir: of the run.
        metadata: what the weights are, with their prediction type.
        config: the run's whole config as plain dictionaries.
        step: the checkpoint's step.
        averaged: whether trained parameters are their running average.
        abstract: network -> tree of `jax.ShapeDtypeStruct`.
    """

    def __init__(self, workdir: PathLike, *, raw: bool = False, step: int | None = None):
        """Find the newest complete checkpoint and read what is in it; a damaged one is passed over.

        Args:
            workdir: of a run, which may still go on.
            raw: take the parameters themselves and not their running average.
            step: of another checkpoint than the newest.

        Raises:
            UserError: `workdir` is no run's, or no checkpoint in it is complete.
        """
        self.workdir = workdir = absolute(workdir)
        self.config, self.metadata = read_workdir(workdir)
        steps, damaged = find_steps(workdir)
        if not steps:
            raise UserError(
                f"got {workdir} without a complete checkpoint, expected one; let the run go on "
                "until it saves"
            )
        if step is not None and step not in steps:
            raise UserError(
                f"got step {step} of {workdir}, expected one of {', '.join(map(str, steps))}, "
                "which are complete; name one of them"
            )
        self.step = steps[-1] if step is None else step
        for later, reason in damaged.items():
            if later > steps[-1]:
                logger.warning(
                    "WARNING: the checkpoint of step %d is incomplete (%s); step %d is used",
                    later,
                    reason,
                    self.step,
                )
        folder = workdir / CHECKPOINTS / str(self.step)
        self.averaged = not raw and (folder / "ema").exists()
        self._items = [folder / ("ema" if self.averaged else "params")]
        if (workdir / FROZEN_FOLDER / COMMIT).exists():
            self._items.append(workdir / FROZEN_FOLDER / "params")
        self._trees = [self._metadata(item) for item in self._items]
        self.abstract = {
            component: _join([tree[component] for tree in self._trees if component in tree])
            for component in self.metadata.configs
            if any(component in tree for tree in self._trees)
        }

    def read(self, component: str, module: str | None = None) -> Params:
        """Read one network, or one top-level module of it, as NumPy arrays.

        Returns:
            The network's tree; with `module`, a tree that has that one key.

        Raises:
            UserError: the checkpoint is damaged or gone.
        """
        parts = []
        for item, tree in zip(self._items, self._trees, strict=True):
            wanted = tree.get(component, {})
            if module is not None:
                wanted = {module: wanted[module]} if module in wanted else {}
            if wanted:
                parts.append(self._read(item, {component: wanted})[component])
        return _join(parts)

    def read_sharded(self, component: str, target: Params) -> Params:
        """Read one network onto devices; of an array a process reads what its devices hold.

        Args:
            component: the network.
            target: tree of `jax.ShapeDtypeStruct` with shardings: what is read, and where to.
                Values are cast to its dtypes on the way.

        Raises:
            UserError: the checkpoint is damaged or gone.
        """
        parts = []
        for item, tree in zip(self._items, self._trees, strict=True):
            wanted = _common(target, tree.get(component, {}))
            if wanted:
                parts.append(self._restore(item, sharded_restore({component: wanted}))[component])
        return _join(parts)

    def read_all(self) -> dict[str, Params]:
        """Read every network: network -> tree of NumPy arrays."""
        return {component: self.read(component) for component in self.abstract}

    def _metadata(self, item: epath.Path) -> Params:
        try:
            tree = ocp.PyTreeCheckpointHandler().metadata(item).tree
        except STORAGE_ERRORS as error:
            raise self._unreadable(item, error) from error
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)

    def _read(self, item: epath.Path, tree: Params) -> Params:
        arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        restore = ocp.args.PyTreeRestore(item=tree, restore_args=arguments, partial_restore=True)
        return jax.tree.map(np.asarray, self._restore(item, restore))

    def _restore(self, item: epath.Path, restore: ocp.args.PyTreeRestore) -> Params:
        try:
            return bounded_handler(restore.item).restore(item, args=restore)
        except STORAGE_ERRORS as error:
            raise self._unreadable(item, error) from error

    def _unreadable(self, item: epath.Path, error: Exception) -> UserError:
        reason = " ".join(str(error).split())[:200]
        return UserError(
            f"got {item} that cannot be read ({reason}), expected a complete checkpoint; a run "
            "that goes on may have replaced it: try again"
        )


def _common(tree: Params, other: Params) -> Params:
    """Leaves of a nested dict that another one has too."""
    return {
        name: _common(leaf, other[name]) if isinstance(leaf, dict) else leaf
        for name, leaf in tree.items()
        if name in other
    }


def _join(trees: list[Any]) -> Params:
    """Join nested dicts that share no leaf."""
    joined: dict[str, Any] = {}
    for tree in trees:
        for name, value in tree.items():
            both = name in joined and isinstance(value, dict)
            joined[name] = _join([joined[name], value]) if both else value
    return joined
