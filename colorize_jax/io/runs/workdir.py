"""The folder of a run: its layout, its config and its history.

DIR/config.json        the run's config, what its weights are, and how it came to that
DIR/owner.json         who writes to it, see `io.runs.owner`
DIR/checkpoints/STEP/  see `io.checkpoint`
DIR/frozen/            parameters that are never trained, once
DIR/metrics.jsonl, events..., samples/      see `colorize_jax.training.monitoring.run_writer`
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import jax
from etils import epath

from colorize_jax.config.difference import belongs, difference, differing, flatten
from colorize_jax.config.options import Config
from colorize_jax.errors import UserError
from colorize_jax.io.formats.weights_folder import SCHEDULE_FIELDS, WeightsMetadata, system_record

CONFIG_FILE = "config.json"
CHECKPOINTS = "checkpoints"
FROZEN_FOLDER = "frozen"
DAMAGED = "damaged-"  # begins the name of a checkpoint that was set aside
FORMAT = "colorize-jax run 1"
REASON_LENGTH = 200

PathLike = epath.PathLike


def claim_workdir(
    workdir: PathLike,
    config: Mapping[str, Any],
    weights: WeightsMetadata,
    *,
    free: Sequence[str] = (),
    places: Sequence[str] = (),
    allow: Sequence[str] = (),
    origin: str | None = None,
) -> None:
    """Make the folder of a run, or make sure that it holds this very run.

    A folder whose run has no checkpoint yet may be reused: nothing would be lost.

    Args:
        workdir: a local folder or an object store's URL.
        config: the run's whole config as plain dictionaries.
        weights: what its parameters are.
        free: dotted keys or sections that may differ from the run that is there.
        places: keys that say where something lies: of them it only counts whether they are set.
        allow: keys or sections in which the run may change from here on; the history says so.
        origin: what the run starts from, for the history.

    Raises:
        UserError: another config's run is there, or the folder cannot be read or written.
    """
    workdir = epath.Path(workdir)
    with reaching(workdir):
        history: list[dict[str, Any]] = []
        step = newest_step(workdir)
        if step is not None and not is_workdir(workdir):
            raise UserError(
                f"got workdir {workdir} with checkpoints but without a {CONFIG_FILE} of ours, "
                "expected a run or an empty folder; choose another workdir"
            )
        if step is None:
            history.append(_event(0, origin=origin))
        else:
            history += read_history(workdir)
            here = json.loads(json.dumps(config))
            changes = _changes(workdir, here, free, places, allow)
            if changes:
                history.append(_event(step, changes=changes))
        if jax.process_index() == 0:
            workdir.mkdir(parents=True, exist_ok=True)
            content = {"format": FORMAT, "config": config, "weights": asdict(weights)}
            _write_config(workdir, content | {"history": history})


def check_data(
    workdir: PathLike,
    step: int,
    saved: Mapping[str, Any] | None,
    here: Mapping[str, Any],
    *,
    allowed: bool,
) -> None:
    """Compare the data of a checkpoint, as far as it knows them, with this run's.

    Args:
        workdir: of the run.
        step: of the checkpoint.
        saved, here: what tells data from others.
        allowed: whether they may differ; the history says so then.

    Raises:
        UserError: they differ.
    """
    changed = differing(saved, here) if saved else []
    if changed and not allowed:
        raise UserError(
            f"got data that are not those of step {step} in {workdir} "
            f"({difference(saved, here)}), expected the same; pass --allow_changes=data to go on "
            "with them from there, or bring the old ones back"
        )
    if changed:
        changes = {f"data: {name}": [saved.get(name), here.get(name)] for name in changed}
        note_change(workdir, step, changes)


def note_change(workdir: PathLike, step: int, changes: Mapping[str, Any]) -> None:
    """Add an event to a run's history; the first process does."""
    workdir = epath.Path(workdir)
    if jax.process_index() == 0:
        with reaching(workdir):
            content = json.loads((workdir / CONFIG_FILE).read_text())
            events = [*content.get("history", []), _event(step, changes=changes)]
            _write_config(workdir, content | {"history": events})


def read_history(workdir: PathLike) -> list[dict[str, Any]]:
    """What was changed in a run: step, time, and key -> [before, after]."""
    content = json.loads((epath.Path(workdir) / CONFIG_FILE).read_text())
    return list(content.get("history", []))


def newest_step(workdir: PathLike) -> int | None:
    """The newest step of which a workdir has a checkpoint, complete or not; None of none."""
    folder = epath.Path(workdir) / CHECKPOINTS
    if not folder.exists():
        return None
    names = (path.name.removeprefix(DAMAGED) for path in folder.iterdir())
    return max((int(name) for name in names if name.isdigit()), default=None)


def _event(step: int, **content: Any) -> dict[str, Any]:
    time = datetime.now(UTC).isoformat(timespec="seconds")
    said = {name: value for name, value in content.items() if value is not None}
    return {"step": step, "time": time, **said}


def _write_config(workdir: epath.Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=2) + "\n"
    if "://" in str(workdir):
        (workdir / CONFIG_FILE).write_text(text)  # objects appear whole
        return
    temporary = workdir / f".{CONFIG_FILE}.tmp"
    temporary.write_text(text)
    temporary.replace(workdir / CONFIG_FILE)


def absolute(workdir: PathLike) -> epath.Path:
    """The whole path of a workdir, which Orbax insists on; an object store's URL is whole."""
    text = os.fspath(workdir)
    return epath.Path(text if "://" in text else os.path.abspath(text))


@contextmanager
def reaching(workdir: epath.Path) -> Iterator[None]:
    """Turn what a file system or an object store's client raises into one line.

    Raises:
        UserError: the folder cannot be read or written, or there are no credentials for it.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # Every store's client has errors of its own, of no common class.
        remote = "://" in str(workdir)
        if not remote and not isinstance(error, OSError):
            raise
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())[:REASON_LENGTH]
        wanted, remedy = "a writable folder", "choose another"
        if remote:
            wanted = "a bucket that this machine may write"
            remedy = (
                "check its name and the credentials (gcloud auth application-default login), or "
                "choose another"
            )
        raise UserError(
            f"got workdir {workdir} that cannot be used ({reason or type(error).__name__}), "
            f"expected {wanted}; {remedy}"
        ) from error


def is_workdir(path: PathLike) -> bool:
    """Whether `path` is the folder of a run."""
    try:
        return json.loads((epath.Path(path) / CONFIG_FILE).read_text())["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read_workdir(workdir: PathLike) -> tuple[dict[str, Any], WeightsMetadata]:
    """Return the config of a run and what its weights are.

    Raises:
        UserError: `workdir` is no folder of a run.
    """
    with reaching(epath.Path(workdir)):
        if not is_workdir(workdir):
            raise UserError(
                f"got {workdir}, expected the workdir of a training run (there is no {CONFIG_FILE} "
                "of ours in it); check the path"
            )
        content = json.loads((epath.Path(workdir) / CONFIG_FILE).read_text())
        try:
            return dict(content["config"]), _weights(content)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"got {workdir} whose {CONFIG_FILE} is damaged ({type(error).__name__}: {error}), "
                "expected it as train.py wrote it; restore it from a copy"
            ) from error


def _weights(content: Mapping[str, Any]) -> WeightsMetadata:
    """What a run's weights are; earlier runs note part of it in their config alone."""
    config, weights = content["config"], dict(content["weights"])
    if weights.get("schedule") is None and "diffusion" in config:
        weights["schedule"] = {name: config["diffusion"][name] for name in SCHEDULE_FIELDS}
    if weights.get("size") is None and "data" in config:
        weights["size"] = [config["data"].get(side) for side in ("height", "width")]
    if {"encoders", "sampling", "model"} <= config.keys():
        weights["system"] = system_record(config)
    return WeightsMetadata(**weights)


def _changes(
    workdir: epath.Path,
    config: Mapping[str, Any],
    free: Sequence[str],
    places: Sequence[str],
    allow: Sequence[str],
) -> dict[str, list[Any]]:
    """What differs from the run that is there, key -> [before, after], as far as it is allowed.

    Raises:
        UserError: something else differs.
    """

    def identity(content: Mapping[str, Any]) -> dict[str, Any]:
        flat = {name: value for name, value in flatten(content).items() if not belongs(name, free)}
        return {name: bool(value) if name in places else value for name, value in flat.items()}

    there, here = (identity(content) for content in (read_workdir(workdir)[0], config))
    # What that run did not know yet had its default.
    defaults = identity(Config().to_dict())
    there = {name: defaults[name] for name in defaults if name in here} | there
    different = differing(there, here)
    refused = [name for name in different if not belongs(name, allow)]
    if refused:
        named = ({name: c[name] for name in refused if name in c} for c in (there, here))
        raise UserError(
            f"got workdir {workdir} of a run with another config ({difference(*named)}), expected "
            f"the same config; pass --allow_changes={','.join(refused)} to go on with the change, "
            "or choose another workdir"
        )
    return {name: [there.get(name), here.get(name)] for name in different}
