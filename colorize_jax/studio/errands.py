"""What else runs on the device's thread, beside the jobs."""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from colorize_jax.inference.pipeline import ColorizePipeline

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Errand:
    """A function of the pipeline.

    Attributes:
        function: what runs.
        future: of what it returns or raises.
    """

    function: Callable[[ColorizePipeline], Any]
    future: "Future[Any]" = field(default_factory=Future)

    def run(self, pipeline: ColorizePipeline) -> None:
        """Run it, unless nobody waits any more."""
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            self.future.set_result(self.function(pipeline))
        except Exception as error:
            # Whatever it is: whoever waits is told, and the next picture may be a good one.
            logger.info("an errand failed", exc_info=True)
            self.future.set_exception(error)
