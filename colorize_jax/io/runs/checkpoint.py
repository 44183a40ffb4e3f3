"""Checkpoints of training: written in the background, whole or not at all, and checked when read.

    DIR/checkpoints/STEP/params     trained parameters
                         ema        their running average, where one is kept
                         optimizer  the optimizer's state and the step
                         iterator   where the data iterator is
                         files.json sizes of all files: what a complete checkpoint holds
    DIR/frozen/                     parameters that are never trained, saved once

Orbax writes; a step gets its name when all its files are on the disk. A step with missing or short
files counts as damaged and is never restored.
"""

import contextlib
import json
import logging
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from colorize_jax.errors import UserError
from colorize_jax.io.formats.orbax_errors import told_once
from colorize_jax.io.runs import replica
from colorize_jax.io.runs.saved_steps import (
    COMMIT,
    FILES,
    INTERRUPTED,
    STORAGE_ERRORS,
    check_architecture,
    damage,
    find_steps,
    list_sizes,
    reason,
)
from colorize_jax.io.runs.workdir import (
    CHECKPOINTS,
    DAMAGED,
    FROZEN_FOLDER,
    PathLike,
    absolute,
    check_data,
)

TEMPORARY = ".orbax-checkpoint-tmp"
DELETING = ".deleting-"

logger = logging.getLogger(__name__)


class Iterator(Protocol):
    """A data iterator that can be resumed."""

    def get_state(self) -> Mapping[str, Any]: ...

    def set_state(self, state: Mapping[str, Any]) -> None: ...


class _Handler(ocp.CompositeCheckpointHandler):
    """Orbax's handler of several items, which also lists their files before the step is named."""

    def finalize(self, directory: epath.Path) -> None:
        super().finalize(directory)
        (directory / FILES).write_text(json.dumps(list_sizes(directory), indent=0))


@ocp.args.register_with_handler(_Handler, for_save=True, for_restore=True)
class _Items(ocp.args.Composite):
    """Item name -> what to do with it."""


class Checkpoints:
    """The checkpoints of a run; every process of it makes one and calls it at the same steps."""

    def __init__(
        self,
        workdir: PathLike,
        *,
        keep_last: int = 2,
        keep_every: int = 0,
        data: Mapping[str, Any] | None = None,
        reads_only: bool = False,
    ):
        """Open the checkpoints of a workdir and clear away what an interrupted save has left.

        Args:
            workdir: see `io.workdir`; this process's run owns it.
            keep_last: newest checkpoints kept.
            keep_every: keep those at multiples of so many steps for ever; 0 keeps none for ever.
            data: what tells the run's data from others, saved with their iterator's position.
            reads_only: somebody else may own the workdir: clear nothing.
        """
        self._workdir = absolute(workdir)
        self._directory = self._workdir / CHECKPOINTS
        self._keep_last, self._keep_every = keep_last, keep_every
        self._data = json.loads(json.dumps(dict(data or {})))
        self._remote = "://" in str(self._workdir)
        self._fresh = False  # nothing was ever saved: what is frozen may be of another start
        self._checkpointer = ocp.AsyncCheckpointer(_Handler())
        self._saving: int | None = None
        self.saved: int | None = None  # the newest step that was saved here and is complete
        if not reads_only:
            self._clear()
        _barrier("clear")

    def __enter__(self) -> "Checkpoints":
        self._quiet = told_once()  # a failed save is one warning
        self._quiet.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()
        self._quiet.__exit__(None, None, None)

    def save(self, step: int, state: Any, iterator: Iterator | None = None) -> bool:
        """Start saving; returns as soon as the arrays are copied, and they may be donated then.

        A save that fails does not stop the run: it is logged as a warning, and earlier checkpoints
        are kept.

        Args:
            step: updates done.
            state: a `TrainState`.
            iterator: whose state is saved too.

        Returns:
            Whether a save was started: not where this step is there already.
        """
        self.wait()
        self._clear()
        path = self._directory / str(step)
        if self._agree(int(path.exists())):
            return False
        try:
            if jax.tree.leaves(state.frozen):
                self._save_frozen(state.frozen)
            items = _save_items(step, state, iterator, self._data)
            self._checkpointer.save(path, args=_Items(**items))
            self._saving = step
        except STORAGE_ERRORS as error:
            self._failed(step, error)
            return False
        return True

    def wait(self) -> None:
        """Wait until the running save is complete, then delete what is not kept any more."""
        if self._saving is None:
            return
        step, self._saving = self._saving, None
        try:
            self._checkpointer.wait_until_finished()
        except STORAGE_ERRORS as error:
            self._failed(step, error)
        else:
            self.saved = step
            self._prune()

    def close(self) -> None:
        """Wait and release what the checkpointer holds."""
        self.wait()
        self._checkpointer.close()

    def latest_step(self) -> int | None:
        """Return the newest complete step, or None where there is none."""
        steps, _ = find_steps(self._workdir)
        newest = self._agree(steps[-1] if steps else -1)
        return None if newest < 0 else newest

    def restore(
        self, abstract: Any, iterator: Iterator | None = None, *, allow_data: bool = False
    ) -> tuple[Any, int] | None:
        """Read the newest complete checkpoint; newer damaged ones are set aside with a warning.

        Args:
            abstract: `TrainState` of arrays or of `jax.ShapeDtypeStruct`; their shardings are those
                of the result, whatever they were when it was saved.
            iterator: continues where it was.
            allow_data: go on with other data than those of the checkpoint.

        Returns:
            The state and its step, or None where nothing was ever saved.

        Raises:
            UserError: the checkpoint is of another architecture or other data, or none is
                complete.
        """
        self.wait()
        found = False
        while True:
            self._set_damaged_aside()
            step = self.latest_step()
            if step is None:
                break
            found = True
            path = self._directory / str(step)
            check_architecture(path, _trees(abstract.step, abstract))
            try:
                state, saved = self._read(path, step, abstract)
            except STORAGE_ERRORS as error:
                if jax.process_count() > 1:
                    raise  # the other processes cannot fall back to an earlier step with this one
                self._set_aside(step, reason(error))
                continue
            check_data(self._workdir, step, saved.get("data"), self._data, allowed=allow_data)
            if iterator is not None and saved["state"] is not None:
                iterator.set_state(saved["state"])
            return state, step
        if found or self._agree(int(any(self._directory.glob(f"{DAMAGED}*")))):
            raise UserError(
                f"got {self._directory} in which no checkpoint is complete, expected one; restore "
                "the folder from a copy or start in another workdir"
            )
        self._fresh = True
        return None

    def restore_weights(self, step: int, abstract: Any, *, optimizer: bool = False) -> Any:
        """Read what another run can start from.

        Args:
            step: of a complete checkpoint.
            abstract: as for `restore`.
            optimizer: read the optimizer's state too; without it, it is None.

        Returns:
            A `TrainState` of step 0.

        Raises:
            UserError: the checkpoint is of another architecture, or cannot be read.
        """
        path = self._directory / str(step)
        trees = _trees(abstract.step, abstract)
        left_out = [] if optimizer else ["optimizer"]
        left_out += [] if (path / "ema").exists() else ["ema"]
        trees = {name: tree for name, tree in trees.items() if name not in left_out}
        check_architecture(path, trees)
        try:
            restored = self._read_trees(path, trees)
        except STORAGE_ERRORS as error:
            raise UserError(
                f"got {path} that cannot be read ({reason(error)}), expected a complete "
                "checkpoint; name another step"
            ) from error
        frozen = abstract.frozen
        return abstract.replace(
            step=np.int32(0),
            params=restored["params"],
            opt_state=restored["optimizer"]["opt_state"] if optimizer else None,
            ema=restored.get("ema"),
            frozen=self._read_frozen(frozen) if jax.tree.leaves(frozen) else frozen,
        )

    def _read(self, path: epath.Path, step: int, abstract: Any) -> tuple[Any, Any]:
        restored = self._read_trees(path, _trees(abstract.step, abstract))
        items = _Items(iterator=ocp.args.JsonRestore())
        saved = self._checkpointer.restore(path, args=items)["iterator"]
        frozen = abstract.frozen
        if jax.tree.leaves(frozen):
            frozen = self._read_frozen(frozen)
        state = abstract.replace(
            step=restored["optimizer"]["step"],
            params=restored["params"],
            opt_state=restored["optimizer"]["opt_state"],
            ema=restored["ema"] if abstract.ema is not None else None,
            frozen=frozen,
        )
        return state, saved

    def _read_trees(self, path: epath.Path, trees: Mapping[str, Any]) -> Mapping[str, Any]:
        trees = {name: replica.with_shardings(tree) for name, tree in trees.items()}
        if replica.reads_once(trees):
            logger.info("one replica reads %s for all", path)
            return {name: replica.read_once(path / name, tree) for name, tree in trees.items()}
        items = {name: ocp.args.StandardRestore(tree) for name, tree in trees.items()}
        return self._checkpointer.restore(path, args=_Items(**items))

    def _save_frozen(self, frozen: Any) -> None:
        path = self._workdir / FROZEN_FOLDER
        if self._agree(int(damage(path) is None)) and not self._fresh:
            return
        self._fresh = False
        items = _Items(params=ocp.args.StandardSave(frozen))
        self._checkpointer.save(path, args=items, force=True)
        self._checkpointer.wait_until_finished()

    def _read_frozen(self, frozen: Any) -> Any:
        path = self._workdir / FROZEN_FOLDER
        try:
            return self._read_trees(path, {"params": frozen})["params"]
        except STORAGE_ERRORS as error:
            raise UserError(
                f"got {path} that cannot be read ({reason(error)}), expected the run's frozen "
                "networks; restore the folder from a copy or start in another workdir"
            ) from error

    def _failed(self, step: int, error: Exception) -> None:
        # Nothing here waits for other processes: they may not have failed.
        steps, _ = find_steps(self._workdir)
        logger.warning(
            "WARNING: the checkpoint of step %d could not be saved (%s); the run goes on, and its "
            "newest checkpoint is that of step %s",
            step,
            reason(error),
            steps[-1] if steps else None,
        )
        self._clear()

    def _clear(self) -> None:
        """Delete what interrupted saves and deletions left."""
        if jax.process_index() != 0 or not self._directory.exists():
            return
        for path in self._directory.iterdir():
            if TEMPORARY in path.name or path.name.startswith(DELETING):
                # Other items of a save that has failed may still be being written into it: what is
                # left then goes before the next save.
                with contextlib.suppress(OSError):
                    path.rmtree(missing_ok=True)

    def _prune(self) -> None:
        if jax.process_index() != 0:
            return
        steps, damaged = find_steps(self._workdir)
        if self._remote and steps:
            # What a deletion that was interrupted has left.
            for step in damaged:
                if step < steps[-1]:
                    (self._directory / str(step)).rmtree()
        for step in steps[: -self._keep_last]:
            if not self._keep_every or step % self._keep_every:
                self._delete(step)

    def _delete(self, step: int) -> None:
        """Delete a step; half deleted it is no complete one."""
        path = self._directory / str(step)
        if self._remote:
            # Object stores rename by copying: there, the mark of a complete step goes first.
            (path / COMMIT).unlink()
            path.rmtree()
            return
        path = path.rename(self._directory / f"{DELETING}{step}")
        path.rmtree()

    def _set_damaged_aside(self) -> None:
        steps, damaged = find_steps(self._workdir)
        newest = steps[-1] if steps else -1
        for step, lack in damaged.items():
            if step > newest:
                self._set_aside(step, lack)
        _barrier("damaged")

    def _set_aside(self, step: int, lack: str) -> None:
        if jax.process_index() != 0:
            return
        if self._remote and lack == INTERRUPTED:
            # Object stores have no temporary names: this is what a stopped save has left.
            (self._directory / str(step)).rmtree()
            return
        logger.warning(
            "WARNING: the checkpoint of step %d is damaged (%s); the newest complete one before it "
            "is used, and it is now called %s%d",
            step,
            lack,
            DAMAGED,
            step,
        )
        path = self._directory / f"{DAMAGED}{step}"
        if path.exists():
            path.rmtree()
        (self._directory / str(step)).rename(path)

    def _agree(self, value: int) -> int:
        """Return the first process's value, because the disk may change between two reads."""
        if jax.process_count() == 1:
            return value
        return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def _save_items(
    step: int, state: Any, iterator: Iterator | None, data: Mapping[str, Any]
) -> dict[str, Any]:
    items: dict[str, Any] = {
        name: ocp.args.StandardSave(tree) for name, tree in _trees(state.step, state).items()
    }
    position = None if iterator is None else dict(iterator.get_state())
    items["iterator"] = ocp.args.JsonSave({"step": step, "state": position, "data": data})
    return items


def _trees(step: Any, state: Any) -> dict[str, Any]:
    trees = {"params": state.params, "optimizer": {"step": step, "opt_state": state.opt_state}}
    return trees if state.ema is None else trees | {"ema": state.ema}


def _barrier(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"colorize_jax.io.runs.checkpoint.{name}")
