"""Metrics of steps that may still be running on the device."""

import math
from collections.abc import Mapping

import jax
import numpy as np

from colorize_jax.errors import UserError


class MetricsHistory:
    """The metrics of steps whose numbers are still on the device."""

    def __init__(self) -> None:
        self._steps: list[tuple[int, Mapping[str, jax.Array]]] = []

    def add(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Keep the metrics of update number `step`, from 0; does not wait for them."""
        self._steps.append((step, metrics))

    def means(self) -> dict[str, float]:
        """Wait for the steps since the last call and return each metric's mean.

        Raises:
            UserError: a loss or gradient is not finite; the first such step is named.
        """
        steps, self._steps = jax.device_get(self._steps), []
        for step, metrics in steps:
            for name in ("loss", "gradient_norm"):
                if not math.isfinite(metrics[name]):
                    raise UserError(
                        f"got {name} {float(metrics[name])} at step {step + 1}, expected a finite "
                        "number; the checkpoints before it are kept: lower "
                        "optimizer.learning_rate or set optimizer.clip_norm, and start again"
                    )
        return {name: float(np.mean([m[name] for _, m in steps])) for name in steps[0][1]}
