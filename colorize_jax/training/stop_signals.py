"""Ctrl-C, SIGTERM and preemption: a run stops between two steps, after a checkpoint."""

import logging
import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Ctrl-C and SIGTERM end the loop after its current step; a second one ends it at once.

        with StopSignals() as stop:
            while not stop.reached(step): ...

    With several processes, any of them may get SIGTERM: JAX's preemption service handles it, and
    makes all of them stop after the same step.

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
        """Return the signal to stop for after `step`, 0 if there is none.

        Args:
            step: updates done; every process calls this once per step.
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
