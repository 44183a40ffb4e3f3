"""Many pictures at once, in threads or processes: results in order, and not too many waiting."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import Protocol, TypeVar

from data.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")

_WAITING = 3  # items for each worker


class Mapper(Protocol):
    """What applies a function to many items, as `map` does."""

    def __call__(
        self, function: Callable[[Item], Result], items: Iterable[Item]
    ) -> Iterator[Result]: ...


@contextlib.contextmanager
def workers(processes: int, threads: int) -> Iterator[Mapper]:
    """Start workers; one process is this one.

    Args:
        processes: that items are shared among, one each at a time.
        threads: of the only process.
    """
    if processes == 1:
        with ThreadPoolExecutor(threads) as pool:
            yield lambda function, items: _in_order(pool, function, items, threads)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, initializer=_follow_parent)
    try:
        yield lambda function, items: _in_order(pool, function, items, processes)
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(
    pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], count: int
) -> Iterator[Result]:
    waiting: deque = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= _WAITING * count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise DataError(
            "got a worker that was ended from outside, expected it to go on (most often memory was "
            "short); give fewer processes, and the same command goes on"
        ) from None
    finally:
        for future in waiting:
            future.cancel()


def _follow_parent() -> None:
    """Let this process end when its parent was killed; what is typed is for the parent alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def wait() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
