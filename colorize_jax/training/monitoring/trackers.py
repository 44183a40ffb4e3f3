"""Where a run's numbers and pictures go beside its own files: one interface, several programs.

    tensorboard   event files in the workdir
    wandb         Weights & Biases: WANDB_MODE, WANDB_PROJECT, ... are that program's own variables
    trackio       a local board with the interface of wandb, TRACKIO_DIR is its place
    none

wandb and trackio are extras. Both know a run by an identifier, which the workdir keeps in
`tracker.json`, so that a run that was stopped goes on as the same one. What fails while the run
goes on, such as a network or a disk, is logged as a warning and does not stop it.
"""

import contextlib
import importlib
import json
import logging
import os
import re
import secrets
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from etils import epath
from PIL import Image

from colorize_jax.errors import UserError

logger = logging.getLogger(__name__)

RECORD = "tracker.json"
PROJECT = "colorize-jax"


class Tracker(Protocol):
    """What receives a run's numbers and pictures."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take scalars of a step."""

    def log_picture(self, step: int, name: str, picture: Image.Image) -> None:
        """Take a picture of a step."""

    def close(self) -> None:
        """Send what is left, and end."""


class TensorBoard:
    """Event files; what was written for later steps than the one resumed from is hidden."""

    def __init__(self, workdir: epath.Path, resumed_step: int):
        from tensorboardX import SummaryWriter

        # TensorBoard hides earlier files' events from this step on.
        self._events: Any = SummaryWriter(str(workdir), purge_step=resumed_step + 1, flush_secs=30)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take scalars of a step."""
        if self._lives():
            for name, value in values.items():
                self._events.add_scalar(name, value, step)

    def log_picture(self, step: int, name: str, picture: Image.Image) -> None:
        """Take a picture of a step."""
        if self._lives():
            content = np.asarray(picture.convert("RGB"))
            self._events.add_image(name, content, step, dataformats="HWC")

    def close(self) -> None:
        """Write everything out."""
        if self._events is not None:
            self._events.close()

    def _lives(self) -> bool:
        """Whether the file's thread lives.

        A full disk ends that thread; adding events to its queue would then block forever.
        """
        if self._events is None:
            return False
        thread = getattr(self._events.file_writer.event_writer, "_worker", None)
        if thread is not None and not thread.is_alive():
            logger.warning("WARNING: TensorBoard's file cannot be written any more")
            self._events = None
        return self._events is not None


class Board:
    """A run of wandb, or of trackio, whose interface is the same."""

    def __init__(
        self, library: str, workdir: epath.Path, config: Mapping[str, Any], seen_step: int
    ):
        """Begin a run, or go on with the one that the workdir knows.

        Args:
            library: "wandb" or "trackio".
            workdir: of the run.
            config: what the board shows as the run's settings.
            seen_step: the newest step that the board has had. Those of a run that goes on from an
                earlier one are the same again, and are not sent twice.

        Raises:
            UserError: the library is not installed, or cannot begin.
        """
        self._library, self._seen = library, seen_step
        try:
            self._board = importlib.import_module(library)
        except ImportError as error:
            raise UserError(
                f'got logging.tracker "{library}", which is not installed, expected one that is; '
                "install the extra tracking, or choose tensorboard or none"
            ) from error
        name = identify(workdir, library)
        known = dict(config) | {"git": git_state()}
        try:
            self._run = self._begin(name, workdir, known)
        except Exception as error:  # whatever a program of someone else raises
            raise UserError(
                f"got {library} that cannot begin ({' '.join(str(error).split())[:200]}), expected "
                "it to; set it up, use it offline (WANDB_MODE=offline), or choose another tracker"
            ) from error

    def _begin(self, name: str, workdir: epath.Path, config: Mapping[str, Any]) -> Any:
        project = os.environ.get(f"{self._library.upper()}_PROJECT", PROJECT)
        if self._library == "trackio":
            return self._board.init(
                project=project, name=name, config=flat(config), resume="allow", embed=False
            )
        local = "://" not in str(workdir)
        return self._board.init(
            project=project,
            id=name,
            name=Path(str(workdir)).name,
            config=dict(config),
            resume="allow",
            dir=str(workdir) if local else None,
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take scalars of a step."""
        self._send(step, "metrics", lambda: self._run.log(dict(values), step=step))

    def log_picture(self, step: int, name: str, picture: Image.Image) -> None:
        """Take a picture of a step."""
        self._send(
            step,
            "picture",
            lambda: self._run.log({name: self._board.Image(picture)}, step=step),
        )

    def close(self) -> None:
        """Send what is left."""
        self._send(None, "last metrics", self._run.finish)

    def _send(self, step: int | None, what: str, call: Callable[[], Any]) -> None:
        if step is not None and step <= self._seen:
            return
        try:
            call()
        except Exception as error:  # whatever a program of someone else raises
            logger.warning(
                "WARNING: %s did not take the %s of step %s (%s); the run goes on",
                self._library,
                what,
                step,
                error,
            )


class Silent:
    """Takes nothing."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take nothing."""

    def log_picture(self, step: int, name: str, picture: Image.Image) -> None:
        """Take nothing."""

    def close(self) -> None:
        """Do nothing."""


def open_tracker(
    name: str,
    workdir: epath.PathLike,
    config: Mapping[str, Any] | None = None,
    resumed_step: int = 0,
    seen_step: int = 0,
) -> Tracker:
    """Open one of `config.options.TRACKERS` for a run.

    Args:
        name: which.
        workdir: of the run; it exists.
        config: the run's whole config.
        resumed_step: updates done before.
        seen_step: the newest step that was logged, maybe a later one.

    Raises:
        UserError: it is not installed, or cannot begin.
    """
    workdir = epath.Path(workdir)
    if name == "none":
        return Silent()
    if name == "tensorboard":
        return TensorBoard(workdir, resumed_step)
    return Board(name, workdir, config or {}, seen_step)


def identify(workdir: epath.Path, library: str) -> str:
    """The identifier by which a library knows the run of a workdir; made once and kept there."""
    file = workdir / RECORD
    try:
        known = json.loads(file.read_text())
    except (OSError, ValueError):
        known = {}
    if not isinstance(known, dict):
        known = {}
    if library not in known:
        readable = re.sub(r"[^A-Za-z0-9_-]+", "-", workdir.name)[:60]
        known[library] = f"{readable}-{secrets.token_hex(4)}"
        file.write_text(json.dumps(known, indent=2) + "\n")
    return known[library]


def git_state() -> dict[str, Any]:
    """Commit, branch and whether files differ from it, of the program that runs; empty without."""
    folder = Path(__file__).parent

    def ask(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()

    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return {
            "commit": ask("rev-parse", "HEAD"),
            "branch": ask("rev-parse", "--abbrev-ref", "HEAD"),
            "changed": bool(ask("status", "--porcelain", "--untracked-files=no")),
        }
    return {}


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one with dotted keys, sequences as text."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            plain = value is None or isinstance(value, str | int | float | bool)
            found[f"{prefix}{name}"] = value if plain else str(value)
    return found
