"""Which pictures a run goes without, and when that is too many.

DIR/skipped.jsonl       {"step", "picture", "reason"}, a line a picture, when first met
DIR/skipped.K.jsonl     the same of process K
"""

import json
import logging
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from colorize_jax.errors import UserError

logger = logging.getLogger(__name__)

SKIPPED_FILE = "skipped.jsonl"
SLACK = 8  # pictures: the first batches of a run say little about a share


class SkippedPictures:
    """Names the pictures that could not be used, each once, in a workdir."""

    def __init__(self, workdir: epath.PathLike, max_share: float):
        """Go on in the file that an earlier start has left.

        Args:
            workdir: a local folder or an object store's URL.
            max_share: of the pictures met, 0..1.
        """
        process = jax.process_index()
        name = SKIPPED_FILE if process == 0 else SKIPPED_FILE.replace(".", f".{process}.", 1)
        self._path, self._max_share = epath.Path(workdir) / name, max_share
        self._lines = self._path.read_text().splitlines() if self._path.exists() else []
        self._known = {_picture(line) for line in self._lines}

    def add(self, step: int, skipped: Sequence[tuple[str, str]]) -> None:
        """Note (name, reason) of pictures.

        Args:
            step: updates done.
            skipped: since the last call.
        """
        new = dict(pair for pair in skipped if pair[0] not in self._known)
        if not new:
            return
        self._known |= new.keys()
        self._lines += [
            json.dumps({"step": step, "picture": name, "reason": reason})
            for name, reason in new.items()
        ]
        logger.warning("WARNING: going on without %s", "; ".join(new.values()))
        try:
            self._path.write_text("".join(f"{line}\n" for line in self._lines))
        except OSError as error:
            reason = error.strerror or error
            logger.warning("WARNING: %s could not be written (%s)", self._path, reason)

    def check(self, num_skipped: int, num_records: int) -> int:
        """Add up what all processes went without; every process asks at the same steps.

        Args:
            num_skipped: of this process, since its start.
            num_records: that it got.

        Returns:
            Pictures that all processes went without.

        Raises:
            UserError: in all of them, when that is more than `max_share` and some slack.
        """
        counts = np.array([num_skipped, num_records])
        if jax.process_count() > 1:
            counts = multihost_utils.process_allgather(counts).sum(axis=0)
        skipped, records = map(int, counts)
        if skipped > self._max_share * (skipped + records) + SLACK:
            raise UserError(
                f"got {skipped} pictures that cannot be used of {skipped + records}, expected at "
                f"most {self._max_share:.0%}; mend those in {self._path} or raise "
                "data.max_skipped_share"
            )
        return skipped


def _picture(line: str) -> Any:
    try:
        return json.loads(line)["picture"]
    except (ValueError, KeyError, TypeError):
        return None
