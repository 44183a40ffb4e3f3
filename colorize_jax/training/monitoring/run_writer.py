"""What a run writes for people: numbers, curves and pictures.

    DIR/metrics.jsonl           one JSON object a line: step, then numbers
    DIR/events.out.tfevents.*   the same for TensorBoard, or elsewhere (`trackers`)
    DIR/samples/NAME-STEP.png   pictures

Only the first process writes. A resumed run removes lines of later steps than the one it resumes
from, so that no step is there twice. A write that fails, as on a full disk, is logged as a warning
and does not stop the run.
"""

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from PIL import Image

from colorize_jax.training.monitoring.trackers import Tracker, open_tracker

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
SAMPLES = "samples"
REMOTE_FLUSH_SECONDS = 30  # object stores cannot append: files there are written anew


class Writer:
    """Writes metrics and pictures into a workdir; in all but the first process it does nothing."""

    def __init__(
        self,
        workdir: epath.PathLike,
        *,
        resumed_step: int = 0,
        tracker: str = "tensorboard",
        config: Mapping[str, Any] | None = None,
    ):
        """Open the files of a workdir.

        Args:
            workdir: a local folder or an object store's URL.
            resumed_step: updates done before; what was written for later steps is removed.
            tracker: one of `config.options.TRACKERS`, which receives the same.
            config: of the run, for the tracker.

        Raises:
            UserError: the tracker is not installed, or cannot begin.
        """
        self.enabled = jax.process_index() == 0
        if not self.enabled:
            return
        self._workdir = epath.Path(workdir)
        self._workdir.mkdir(parents=True, exist_ok=True)
        seen = max((record["step"] for record in read_metrics(workdir)), default=0)
        self._tracker: Tracker = open_tracker(tracker, workdir, config, resumed_step, seen)
        self._metrics = _MetricsFile(self._workdir / METRICS_FILE, resumed_step)

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Write scalars of a step; a number that is not finite becomes null.

        Args:
            step: updates done.
            metrics: name -> number or array of shape ().
        """
        if not self.enabled:
            return
        values = {name: float(np.asarray(value)) for name, value in metrics.items()}
        line = {name: value if math.isfinite(value) else None for name, value in values.items()}
        try:
            self._metrics.append(json.dumps({"step": step, **line}) + "\n")
        except OSError as error:
            _tell(f"metrics of step {step}", error)
        self._tracker.log(step, values)

    def write_picture(
        self, step: int, name: str, picture: Image.Image | np.ndarray
    ) -> epath.Path | None:
        """Write a picture.

        Args:
            step: updates done.
            name: e.g. "samples"; begins the file's name.
            picture: PIL picture, or (H, W, 3) uint8.

        Returns:
            Where it is; None in other processes, and where it could not be written.
        """
        if not self.enabled:
            return None
        if not isinstance(picture, Image.Image):
            picture = Image.fromarray(np.asarray(picture))
        path = self._workdir / SAMPLES / f"{name}-{step:07d}.png"
        try:
            path.parent.mkdir(exist_ok=True)
            with path.open("wb") as file:
                picture.save(file, "PNG")
        except OSError as error:
            _tell(f"picture of step {step}", error)
            path.unlink(missing_ok=True)
            return None
        self._tracker.log_picture(step, name, picture)
        return path

    def write_lines(self, name: str, lines: Sequence[str]) -> None:
        """Write a small file of lines, in the place of an earlier one; none without lines."""
        if not self.enabled or not lines:
            return
        try:
            (self._workdir / name).write_text("".join(f"{line}\n" for line in lines))
        except OSError as error:
            _tell(name, error)

    def close(self) -> None:
        """Write everything out and close the files."""
        if not self.enabled:
            return
        try:
            self._metrics.close()
            self._tracker.close()
        except OSError as error:
            _tell("last metrics", error)


class _MetricsFile:
    """Lines that are appended on a disk, and kept in memory for an object store."""

    def __init__(self, path: epath.Path, resumed_step: int):
        self._path, self._remote = path, "://" in str(path)
        self._lines = _lines_until(path, resumed_step)
        self._write()
        self._file = None if self._remote else path.open("a")

    def append(self, line: str) -> None:
        if self._file is not None:
            self._file.write(line)
            self._file.flush()
            return
        self._lines.append(line)
        if time.monotonic() - self._written > REMOTE_FLUSH_SECONDS:
            self._write()

    def close(self) -> None:
        if self._file is None:
            self._write()
        else:
            self._file.close()

    def _write(self) -> None:
        text = "".join(self._lines)
        if self._remote:
            self._path.write_text(text)  # objects appear whole, and are renamed by copying
        else:
            temporary = self._path.with_name(f".{self._path.name}.tmp")
            temporary.write_text(text)
            temporary.replace(self._path)
        self._written = time.monotonic()


def _tell(what: str, error: OSError) -> None:
    logger.warning(
        "WARNING: the %s could not be written (%s); the run goes on", what, error.strerror or error
    )


def read_metrics(workdir: epath.PathLike) -> list[dict[str, Any]]:
    """Return the lines of a workdir's metrics; an incomplete last line is left out."""
    path = epath.Path(workdir) / METRICS_FILE
    if not path.exists():
        return []
    parsed = (_parse(line) for line in path.read_text().splitlines())
    return [record for record in parsed if record is not None]


def _lines_until(path: epath.Path, step: int) -> list[str]:
    """The lines up to a step, without an incomplete one of a run that was killed."""
    if not path.exists():
        return []
    return [
        line
        for line in path.read_text().splitlines(keepends=True)
        if (record := _parse(line)) is not None and record["step"] <= step and line.endswith("\n")
    ]


def _parse(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None
