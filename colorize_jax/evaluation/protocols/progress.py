"""What is known of every pair so far, kept so that an evaluation goes on where it was killed.

    FOLDER/evaluation.json    what is evaluated; another one is refused
    FOLDER/parts/K.jsonl      one line a pair, written by process K
    FOLDER/parts/NAME.f32     (N, D) float32, features of which distances of whole sets are made
    FOLDER/parts/INDEX-NAME.png   pictures for the report, of the first pairs

A pair is done when its line is whole; its features are on disk before that.
"""

import json
import operator
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from colorize_jax.config.difference import difference, flatten
from colorize_jax.errors import UserError
from colorize_jax.io.formats.atomic import NOTHING, Reads, atomic_output

ABOUT, PARTS = "evaluation.json", "parts"
FILES = ("report.json", "report.html", "metrics.jsonl", ABOUT)
_PART = re.compile(r"\d+\.jsonl|\w+\.f32|\d{6,}-[\w-]+\.png")
FORMAT = "colorize-jax evaluation 1"
FLOAT = np.dtype(np.float32)


class Progress:
    """The results of an evaluation, pair by pair.

    Attributes:
        rows: index -> what a line says: scores, or the problem of a pair that cannot be used.
        folder: where they lie.
    """

    def __init__(
        self,
        folder: str | Path,
        about: Mapping[str, Any],
        num_pairs: int,
        *,
        process: int = 0,
        overwrite: bool = False,
        reads: Reads = NOTHING,
    ):
        """Open a folder, new or of the same evaluation.

        Args:
            folder: of the evaluation.
            about: what is evaluated, as JSON has it; the same for a call that goes on.
            num_pairs: how many pairs there are.
            process: number of this process; each writes a file of its own.
            overwrite: begin anew where the folder holds another evaluation.
            reads: what must not be written to.

        Raises:
            UserError: the folder holds something else, or another evaluation.
        """
        self.folder, self._num, self._process = Path(folder), num_pairs, process
        reads.check(self.folder)
        told = {"format": FORMAT, **json.loads(json.dumps(about))}
        if process == 0:
            self._claim(told, overwrite)
        self._parts = self.folder / PARTS
        try:
            self._parts.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        self.rows: dict[int, dict[str, Any]] = {}
        self.refresh()
        # What could not be used may have been mended.
        self.rows = {index: row for index, row in self.rows.items() if "scores" in row}
        self._file = self._parts / f"{process}.jsonl"
        _cut_torn_line(self._file)

    def _claim(self, told: dict[str, Any], overwrite: bool) -> None:
        path = self.folder / ABOUT
        if path.is_file():
            changed = difference(flatten(_read_about(path)), flatten(told))
            if not overwrite and not changed:
                return
            if not overwrite:
                raise UserError(
                    f"got output {self.folder}, another evaluation ({changed}), expected a new "
                    "folder or the same evaluation; name another, or pass --overwrite"
                )
            self._clear()
        elif self.folder.is_dir() and any(self.folder.iterdir()):
            raise UserError(
                f"got output {self.folder}, a folder with other files, expected a new or empty one "
                "or an evaluation to go on with; name another"
            )
        with atomic_output(path, nbytes=2**16) as place:
            place.write_text(json.dumps(told, indent=2) + "\n")

    def _clear(self) -> None:
        """Remove an evaluation, and nothing else."""
        parts = self.folder / PARTS
        foreign = [path.name for path in parts.glob("*") if not _PART.fullmatch(path.name)]
        if foreign:
            raise UserError(
                f"got output {self.folder} whose {PARTS} holds {foreign[0]}, which no evaluation "
                "wrote, expected nothing else; remove it or name another folder"
            )
        for path in (*parts.glob("*"), *(self.folder / name for name in FILES)):
            path.unlink(missing_ok=True)

    def refresh(self) -> None:
        """Read what all processes have written.

        Raises:
            UserError: a line is none that an evaluation writes.
        """
        for path in sorted(self._parts.glob("*.jsonl")):
            for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
                if not line.endswith(b"\n"):
                    continue
                row = _parse(line, self._num)
                if row is None:
                    raise UserError(
                        f"got {path} with a damaged line {number}, expected what an evaluation "
                        "writes; remove that line, and its pair is coloured again"
                    )
                known = self.rows.get(row["index"], {})
                if "scores" in row or "scores" not in known:
                    self.rows[row["index"]] = row

    def add(
        self,
        index: int,
        row: Mapping[str, Any],
        features: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Note that a pair is done.

        Args:
            index: of the pair.
            row: its name, and scores or a problem.
            features: name -> (D,).

        Raises:
            UserError: it cannot be written.
        """
        row = {"index": index, **row}
        try:
            for name, values in (features or {}).items():
                self._write_features(name, index, np.asarray(values, FLOAT))
            with open(self._file, "ab") as file:
                file.write(json.dumps(row).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise _unwritable(self._file, error) from error
        self.rows[index] = row

    def _write_features(self, name: str, index: int, values: np.ndarray) -> None:
        path = self._parts / f"{name}.f32"
        with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
            file.truncate(self._num * values.nbytes)
            file.seek(index * values.nbytes)
            file.write(values.tobytes())
            file.flush()
            os.fsync(file.fileno())

    def feature_names(self) -> list[str]:
        """Names of the features that there are."""
        return sorted(path.stem for path in self._parts.glob("*.f32"))

    def features(self, name: str) -> np.ndarray:
        """(N, D) features, mapped from their file, of all pairs; only those done have any."""
        path = self._parts / f"{name}.f32"
        width = path.stat().st_size // (self._num * FLOAT.itemsize)
        return np.memmap(path, FLOAT, "r", shape=(self._num, width))

    def keep_picture(self, index: int, name: str, picture: Image.Image) -> None:
        """Keep a picture of a pair for the report."""
        path = self.picture_path(index, name)
        try:
            picture.save(path)
        except OSError as error:
            raise _unwritable(path, error) from error

    def picture_path(self, index: int, name: str) -> Path:
        """Where a picture of a pair is kept."""
        return self._parts / f"{index:06d}-{name}.png"


def _read_about(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
        if content["format"] == FORMAT:
            return content
    except (OSError, ValueError, KeyError, TypeError):
        pass  # told below
    raise UserError(
        f"got {path}, which is not what an evaluation writes, expected its own; remove its folder "
        "or name another"
    )


def _parse(line: bytes, num_pairs: int) -> dict[str, Any] | None:
    """A line's row; None where it is none."""
    try:
        row = json.loads(line)
        scores = row.get("scores", {})
        sound = 0 <= operator.index(row["index"]) < num_pairs and isinstance(row["name"], str)
        sound &= all(isinstance(value, float | int) for value in scores.values())
        return row if sound and ("scores" in row or isinstance(row["problem"], str)) else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _cut_torn_line(path: Path) -> None:
    """Drop what a killed process left of its last line."""
    try:
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"got {path}, which cannot be written ({error.strerror or error}), expected a folder with "
        "room; make some or choose another output"
    )
