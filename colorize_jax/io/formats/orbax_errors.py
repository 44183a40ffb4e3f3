"""What Orbax raises where it cannot write, and what its threads print of it."""

import errno
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Orbax logs the traceback of every thread; tasks that are left over find their loop closed.
THREAD_FAILED = "_SignalingThread.run() raised an exception"
LOOP_CLOSED = "Event loop is closed"


@contextmanager
def told_once() -> Iterator[None]:
    """While it lasts, failed writes of Orbax are told by who catches them alone."""
    logger, before = logging.getLogger("absl"), sys.unraisablehook

    def is_new(record: logging.LogRecord) -> bool:
        return THREAD_FAILED not in record.getMessage()

    def hook(unraisable: Any) -> None:
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and LOOP_CLOSED in str(error)):
            before(unraisable)

    logger.addFilter(is_new)
    sys.unraisablehook = hook
    try:
        yield
    finally:
        logger.removeFilter(is_new)
        sys.unraisablehook = before


def system_error(text: str) -> int | None:
    """Why a file could not be written: TensorStore quotes the system's error within its own."""
    found = re.search(r"os_error_code='(\d+)'", text)
    if found:
        return int(found[1])
    return next((code for code in errno.errorcode if os.strerror(code) in text), None)
