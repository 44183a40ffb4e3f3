"""Where the time of a run goes: seconds by part, and traces of single steps."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
from etils import epath


class Stopwatch:
    """Sums up the seconds of parts of a run; time outside of all parts is the steps' own."""

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
            steps: first step, from 0, and the one after the last; None: no trace.
            folder: the run's; the trace is written to its plugins/profile/.
        """
        self._steps, self._folder = steps or (-1, -1), folder
        self._running = False

    def __enter__(self) -> "Trace":
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._running:
            jax.profiler.stop_trace()

    def before(self, step: int) -> None:
        """Call before step number `step`: starts the trace if it is the first one."""
        if step == self._steps[0]:
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def after(self, step: int, results: Any) -> None:
        """Call after step number `step`: ends the trace if it was the last one, when it is done."""
        if self._running and step + 1 >= self._steps[1]:
            jax.block_until_ready(results)
            jax.profiler.stop_trace()
            self._running = False
