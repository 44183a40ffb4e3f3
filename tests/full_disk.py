"""A disk on which no file may grow beyond a size."""

import contextlib
import resource


@contextlib.contextmanager
def full_disk(limit):
    """Writes beyond `limit` bytes of a file fail, in this process, as long as the context lasts."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
