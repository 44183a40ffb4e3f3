"""Metrics of steps that may still be running on the device."""

import math
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from colorize_jax.errors import UserError


class MetricsHistory:
    """Metrics since the last report, kept on the device: fetching each would block dispatch.

    Args:
        max_skipped: updates that may be skipped, see `optimizer.max_skipped_updates`.
        names: indices of a batch's records -> what to call them in errors.
    """

    def __init__(
        self, max_skipped: int = 0, names: Callable[[Sequence[int]], Sequence[str]] | None = None
    ) -> None:
        self._steps: list[tuple[int, Mapping[str, jax.Array]]] = []
        self._indices: list[Sequence[int]] = []
        self._max_skipped, self._names = max_skipped, names
        self.num_skipped = 0

    def add(self, step: int, metrics: Mapping[str, jax.Array], indices: Sequence[int] = ()) -> None:
        """Keep the metrics of update number `step`, from 0, without fetching them.

        Args:
            step: number of the update.
            metrics: name -> scalar.
            indices: of its batch's records, of this process.
        """
        self._steps.append((step, metrics))
        self._indices.append(indices)

    def means(self) -> dict[str, float]:
        """Fetch the metrics since the last call and return each one's mean; blocks until then.

        Steps that were skipped count in `updates_skipped` alone.

        Raises:
            UserError: a loss or gradient is not finite, and no more updates may be skipped; the
                step is named.
        """
        steps, self._steps = jax.device_get(self._steps), []
        indices, self._indices = self._indices, []
        sound = []
        for (step, metrics), rows in zip(steps, indices, strict=True):
            wrong = [n for n in ("loss", "gradient_norm") if not math.isfinite(metrics[n])]
            if not wrong:
                sound.append(metrics)
                continue
            self.num_skipped += 1
            if self.num_skipped > self._max_skipped:
                raise self._not_finite(wrong[0], step, metrics, rows)
        means = {name: float(np.mean([m[name] for m in sound or [steps[0][1]]]))
                 for name in steps[0][1]}  # fmt: skip
        return means | ({"updates_skipped": self.num_skipped} if self._max_skipped else {})

    def _not_finite(
        self, name: str, step: int, metrics: Mapping[str, jax.Array], rows: Sequence[int]
    ) -> UserError:
        named = ", ".join(self._names(rows)) if self._names and len(rows) else ""
        pictures = f" (of {named})" if named else ""
        data = "these pictures" if named else "the data"
        skipped = f" after {self._max_skipped} skipped updates" if self._max_skipped else ""
        return UserError(
            f"got {name} {float(metrics[name])} at step {step + 1}{pictures}{skipped}, expected a "
            f"finite number; the checkpoints before it are kept: look at {data}, lower "
            "optimizer.learning_rate, set optimizer.clip_norm or raise "
            "optimizer.max_skipped_updates, and start again"
        )
