"""The folder of a run: what lies where, and whose run it is.

DIR/config.json        the run's config, and what its weights are
DIR/checkpoints/STEP/  see `io.checkpoint`
DIR/frozen/            parameters that are never trained, once
DIR/metrics.jsonl, events..., samples/      see `colorize_jax.training.monitoring.run_writer`
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import jax
from etils import epath

from colorize_jax.config.difference import belongs, difference, flatten
from colorize_jax.errors import UserError
from colorize_jax.io.formats.weights_folder import WeightsMetadata

CONFIG_FILE = "config.json"
CHECKPOINTS = "checkpoints"
FROZEN_FOLDER = "frozen"
FORMAT = "colorize-jax run 1"
REASON_LENGTH = 200

PathLike = epath.PathLike


def claim_workdir(
    workdir: PathLike,
    config: Mapping[str, Any],
    weights: WeightsMetadata,
    *,
    free: Sequence[str] = (),
) -> None:
    """Make the folder of a run, or make sure that it holds this very run.

    Args:
        workdir: a local folder or an object store's URL.
        config: the run's whole config as plain dictionaries.
        weights: what its parameters are.
        free: dotted keys or sections that may differ from the run that is there.

    Raises:
        UserError: another config's run is there, or the folder cannot be read or written.
    """
    workdir = epath.Path(workdir)
    with reaching(workdir):
        if is_workdir(workdir):
            _check_same(workdir, json.loads(json.dumps(config)), free)
        elif workdir.exists() and (workdir / CHECKPOINTS).exists():
            raise UserError(
                f"got workdir {workdir} with checkpoints but without a {CONFIG_FILE} of ours, "
                "expected a run or an empty folder; choose another workdir"
            )
        if jax.process_index() == 0:
            workdir.mkdir(parents=True, exist_ok=True)
            content = {"format": FORMAT, "config": config, "weights": asdict(weights)}
            temporary = workdir / f".{CONFIG_FILE}.tmp"
            temporary.write_text(json.dumps(content, indent=2) + "\n")
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
                "check its name and the credentials (gs://: gcloud auth application-default login; "
                "s3://: aws configure), or choose another"
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
        return content["config"], WeightsMetadata(**content["weights"])


def _check_same(workdir: epath.Path, config: Mapping[str, Any], free: Sequence[str]) -> None:
    there, _ = read_workdir(workdir)
    options = (
        {name: value for name, value in flatten(one).items() if not belongs(name, free)}
        for one in (there, config)
    )
    different = difference(*options)
    if different:
        raise UserError(
            f"got workdir {workdir} of a run with another config ({different}), expected the "
            "same config or an empty folder; choose another workdir"
        )
