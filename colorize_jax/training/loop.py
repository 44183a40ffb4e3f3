"""What a training loop needs beside its step: when to stop, what went wrong, where time went."""

import logging
import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from colorize_jax.errors import UserError

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Ctrl-C and SIGTERM end the loop after its current step; a second one ends it at once.

        with StopSignals() as stop:
            while not stop.reached(step): ...

    Of several processes any may get SIGTERM: JAX's preemption service takes it, and names a step
    behind which all of them stop.

    Attributes:
        number: of the signal that came, 0 as long as none did.
    """

    def __init__(self) -> None:
        self.number = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._previous = {s: signal.signal(s, self._note) for s in STOP_SIGNALS}
        return self

    def reached(self, step: int) -> int:
        """Return the signal after which to stop behind `step`, 0 where there is none.

        Args:
            step: updates done; every process asks once for each.
        """
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
            self.number = signal.SIGTERM
        return self.number

    def __exit__(self, *exception: Any) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            raise KeyboardInterrupt
        self.number = number
        logger.info("stopping after this step (%s)", signal.Signals(number).name)


class History:
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


class Stopwatch:
    """Where the time of a run goes; what no part claims is the steps' own."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def timing(self, part: str) -> Iterator[None]:
        """Count the time inside for `part`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - start
            self.seconds[part] = self.seconds.get(part, 0.0) + elapsed

    def report(self) -> dict[str, float]:
        """Seconds of every part, of the steps, and in all."""
        total = time.perf_counter() - self._start
        steps = total - sum(self.seconds.values())
        return self.seconds | {"steps": steps, "total": total}


class Trace:
    """Records what the devices do in a range of steps, for TensorBoard or XProf."""

    def __init__(self, steps: tuple[int, int] | None, folder: epath.PathLike):
        """Record nothing yet.

        Args:
            steps: numbers of the first step, from 0, and of the one behind the last; None: none.
            folder: the run's; the trace lies in plugins/profile/ in there.
        """
        self._steps, self._folder = steps or (-1, -1), folder
        self._running = False

    def __enter__(self) -> "Trace":
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._running:
            jax.profiler.stop_trace()

    def before(self, step: int) -> None:
        """Begin to record where step number `step`, which is to come, is the first one."""
        if step == self._steps[0]:
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def after(self, step: int, results: Any) -> None:
        """End where step number `step` was the last one; waits for its results."""
        if self._running and step + 1 >= self._steps[1]:
            jax.block_until_ready(results)
            jax.profiler.stop_trace()
            self._running = False
