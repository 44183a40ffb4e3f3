"""Checkpoints of training: written in the background, whole or not at all, and checked when read.

    DIR/checkpoints/STEP/params     trained parameters
                         ema        their running average, where one is kept
                         optimizer  the optimizer's state and the step
                         iterator   where the data iterator is
                         files.json sizes of all files: what a complete checkpoint holds
    DIR/frozen/                     parameters that are never trained, saved once

Orbax writes; a step gets its name when everything is on the disk. A step whose files are missing or
too short is never taken for a good one.
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
from colorize_jax.io.runs import replica
from colorize_jax.io.runs.workdir import CHECKPOINTS, FROZEN_FOLDER, PathLike, absolute

FILES = "files.json"
COMMIT = "commit_success.txt"  # Orbax's own mark, written last
TEMPORARY = ".orbax-checkpoint-tmp"
DELETING = ".deleting-"
DAMAGED = "damaged-"
# Orbax updates its marks after the list of files is made.
UNLISTED = (FILES, COMMIT, "_CHECKPOINT_METADATA")
# What Orbax and TensorStore raise for full disks, lost networks and damaged files.
STORAGE_ERRORS = (OSError, ValueError, RuntimeError, KeyError)

logger = logging.getLogger(__name__)


class Iterator(Protocol):
    """What resumes a data iterator."""

    def get_state(self) -> Mapping[str, Any]: ...

    def set_state(self, state: Mapping[str, Any]) -> None: ...


class _Handler(ocp.CompositeCheckpointHandler):
    """Orbax's handler of several items, which also lists their files before the step is named."""

    def finalize(self, directory: epath.Path) -> None:
        super().finalize(directory)
        (directory / FILES).write_text(json.dumps(_sizes(directory), indent=0))


@ocp.args.register_with_handler(_Handler, for_save=True, for_restore=True)
class _Items(ocp.args.Composite):
    """Item name -> what to do with it."""


class Checkpoints:
    """The checkpoints of a run; every process of it makes one and calls it at the same steps."""

    def __init__(self, workdir: PathLike, *, keep_last: int = 2, keep_every: int = 0):
        """Open the checkpoints of a workdir and clear away what an interrupted save has left.

        Args:
            workdir: see `io.workdir`.
            keep_last: newest checkpoints kept.
            keep_every: keep those at multiples of so many steps for ever; 0 keeps none for ever.
        """
        self._workdir = absolute(workdir)
        self._directory = self._workdir / CHECKPOINTS
        self._keep_last, self._keep_every = keep_last, keep_every
        self._checkpointer = ocp.AsyncCheckpointer(_Handler())
        self._saving: int | None = None
        self._clear()
        _barrier("clear")

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def save(self, step: int, state: Any, iterator: Iterator | None = None) -> bool:
        """Start saving; returns as soon as the arrays are copied, and they may be donated then.

        A save that fails costs the checkpoint and not the run: a warning tells, and what was saved
        before stays.

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
            self._checkpointer.save(path, args=_Items(**_save_items(step, state, iterator)))
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

    def restore(self, abstract: Any, iterator: Iterator | None = None) -> tuple[Any, int] | None:
        """Read the newest complete checkpoint; newer damaged ones are set aside with a warning.

        Args:
            abstract: `TrainState` of arrays or of `jax.ShapeDtypeStruct`; their shardings are those
                of the result, whatever they were when it was saved.
            iterator: continues where it was.

        Returns:
            The state and its step, or None where nothing was ever saved.

        Raises:
            UserError: the checkpoint is of another architecture, or none is complete.
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
            _check_architecture(path, abstract)
            try:
                state, position = self._read(path, step, abstract)
            except STORAGE_ERRORS as error:
                if jax.process_count() > 1:
                    raise  # the other processes are past it, or wait for this one
                self._set_aside(step, _reason(error))
                continue
            if iterator is not None and position is not None:
                iterator.set_state(position)
            return state, step
        if found or self._agree(int(any(self._directory.glob(f"{DAMAGED}*")))):
            raise UserError(
                f"got {self._directory} in which no checkpoint is complete, expected one; restore "
                "the folder from a copy or start in another workdir"
            )
        return None

    def _read(self, path: epath.Path, step: int, abstract: Any) -> tuple[Any, Any]:
        restored = self._read_trees(path, _trees(abstract.step, abstract))
        items = _Items(iterator=ocp.args.JsonRestore())
        position = self._checkpointer.restore(path, args=items)["iterator"]["state"]
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
        return state, position

    def _read_trees(self, path: epath.Path, trees: Mapping[str, Any]) -> Mapping[str, Any]:
        trees = {name: _with_shardings(tree) for name, tree in trees.items()}
        if replica.reads_once(trees):
            logger.info("one replica reads %s for all", path)
            return {name: replica.read_once(path / name, tree) for name, tree in trees.items()}
        items = {name: ocp.args.StandardRestore(tree) for name, tree in trees.items()}
        return self._checkpointer.restore(path, args=_Items(**items))

    def _save_frozen(self, frozen: Any) -> None:
        path = self._workdir / FROZEN_FOLDER
        if self._agree(int(_damage(path) is None)):
            return
        items = _Items(params=ocp.args.StandardSave(frozen))
        self._checkpointer.save(path, args=items, force=True)
        self._checkpointer.wait_until_finished()

    def _read_frozen(self, frozen: Any) -> Any:
        path = self._workdir / FROZEN_FOLDER
        try:
            return self._read_trees(path, {"params": frozen})["params"]
        except STORAGE_ERRORS as error:
            raise UserError(
                f"got {path} that cannot be read ({_reason(error)}), expected the run's frozen "
                "networks; restore the folder from a copy or start in another workdir"
            ) from error

    def _failed(self, step: int, error: Exception) -> None:
        # Nothing here waits for other processes: they may not have failed.
        steps, _ = find_steps(self._workdir)
        logger.warning(
            "WARNING: the checkpoint of step %d could not be saved (%s); the run goes on, and its "
            "newest checkpoint is that of step %s",
            step,
            _reason(error),
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
        steps, _ = find_steps(self._workdir)
        for step in steps[: -self._keep_last]:
            if not self._keep_every or step % self._keep_every:
                # Renamed first: a step that is half deleted must not look damaged.
                path = self._directory / f"{DELETING}{step}"
                (self._directory / str(step)).rename(path)
                path.rmtree()

    def _set_damaged_aside(self) -> None:
        steps, damaged = find_steps(self._workdir)
        newest = steps[-1] if steps else -1
        for step, reason in damaged.items():
            if step > newest:
                self._set_aside(step, reason)
        _barrier("damaged")

    def _set_aside(self, step: int, reason: str) -> None:
        if jax.process_index() != 0:
            return
        logger.warning(
            "WARNING: the checkpoint of step %d is damaged (%s); the newest complete one before it "
            "is used, and it is now called %s%d",
            step,
            reason,
            DAMAGED,
            step,
        )
        path = self._directory / f"{DAMAGED}{step}"
        if path.exists():
            path.rmtree()
        (self._directory / str(step)).rename(path)

    def _agree(self, value: int) -> int:
        """Return the first process's value: what lies on the disk may change between two looks."""
        if jax.process_count() == 1:
            return value
        return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def find_steps(workdir: PathLike) -> tuple[list[int], dict[int, str]]:
    """List the complete steps of a workdir, ascending, and the damaged ones with the reason."""
    directory = epath.Path(workdir) / CHECKPOINTS
    complete, damaged = [], {}
    if directory.exists():
        for path in directory.iterdir():
            if not path.name.isdigit():
                continue
            reason = _damage(path)
            if reason is None:
                complete.append(int(path.name))
            else:
                damaged[int(path.name)] = reason
    return sorted(complete), dict(sorted(damaged.items()))


def _save_items(step: int, state: Any, iterator: Iterator | None) -> dict[str, Any]:
    items: dict[str, Any] = {
        name: ocp.args.StandardSave(tree) for name, tree in _trees(state.step, state).items()
    }
    position = None if iterator is None else dict(iterator.get_state())
    items["iterator"] = ocp.args.JsonSave({"step": step, "state": position})
    return items


def _trees(step: Any, state: Any) -> dict[str, Any]:
    trees = {"params": state.params, "optimizer": {"step": step, "opt_state": state.opt_state}}
    return trees if state.ema is None else trees | {"ema": state.ema}


def _with_shardings(tree: Any) -> Any:
    """Shapes with shardings; the default device where a leaf names none."""
    default = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def shape(leaf: Any) -> jax.ShapeDtypeStruct:
        sharding = getattr(leaf, "sharding", None) or default
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(shape, tree)


def _check_architecture(path: epath.Path, abstract: Any) -> None:
    there, here = {}, {}
    for name, tree in _trees(abstract.step, abstract).items():
        try:
            there |= _shapes(ocp.StandardCheckpointHandler().metadata(path / name), name)
        except STORAGE_ERRORS:
            return  # damaged: reading it will tell
        here |= _shapes(tree, name)
    different = [
        f"{name} is {there.get(name, 'missing')} there and {here.get(name, 'missing')} here"
        for name in dict.fromkeys([*there, *here])
        if there.get(name) != here.get(name)
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


def _sizes(directory: epath.Path, prefix: str = "") -> dict[str, int]:
    sizes = {}
    for path in directory.iterdir():
        if path.is_dir():
            sizes |= _sizes(path, f"{prefix}{path.name}/")
        elif prefix or path.name not in UNLISTED:
            sizes[prefix + path.name] = path.stat().length
    return sizes


def _damage(path: epath.Path) -> str | None:
    """Say what a checkpoint lacks; None where it is complete."""
    try:
        if not (path / COMMIT).exists():
            return "its save was interrupted"
        expected = json.loads((path / FILES).read_text())
        sizes = _sizes(path)
    except (OSError, ValueError) as error:
        return f"its list of files cannot be read: {_reason(error)}"
    for name, size in expected.items():
        if name not in sizes:
            return f"{name} is missing"
        if sizes[name] != size:
            return f"{name} has {sizes[name]} bytes, expected {size}"
    return None


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    # What failed comes first and why last, with paths between.
    return text if len(text) <= 200 else f"{text[:60]} … {text[-140:]}"


def _barrier(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"colorize_jax.io.runs.checkpoint.{name}")
