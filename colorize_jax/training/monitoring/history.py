"""Metrics of steps that may still be running on the device."""

import math
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from colorize_jax.errors import UserError


class MetricsHistory:
    """Metrics since the last report, kept on the device: fetching each would block dispatch."""

    def __init__(self, names: Callable[[int], Sequence[str]] = lambda step: ()) -> None:
        """Hold nothing yet.

        Args:
            names: update number, from 0 -> what this process gave to its batch.
        """
        self._names = names
        self._steps: list[tuple[int, Mapping[str, jax.Array]]] = []

    def add(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Keep the metrics of update number `step`, from 0, without fetching them."""
        self._steps.append((step, metrics))

    def means(self) -> dict[str, float]:
        """Fetch the metrics since the last call and return each one's mean; blocks until then.

        Raises:
            UserError: a loss or gradient is not finite; the first such step is named.
        """
        steps, self._steps = jax.device_get(self._steps), []
        for step, metrics in steps:
            for name in ("loss", "gradient_norm"):
                if not math.isfinite(metrics[name]):
                    shown = ", ".join(self._names(step))
                    batch = f" (in the batch: {shown})" if shown else ""
                    raise UserError(
                        f"got {name} {float(metrics[name])} at step {step + 1}, expected a finite "
                        "number; the checkpoints before it are kept: lower "
                        "optimizer.learning_rate or set optimizer.clip_norm, or look at that "
                        f"step's data{batch}, and start again"
                    )
        return {name: float(np.mean([m[name] for _, m in steps])) for name in steps[0][1]}
