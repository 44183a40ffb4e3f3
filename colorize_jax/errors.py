"""The exception whose message is for users, and suggestions for misspelt names."""

import difflib
import os
import sys
from collections.abc import Iterable
from typing import NoReturn

USER_ERROR_STATUS = 2  # exit status of every program that was given bad input
INTERRUPTED_STATUS = 130  # of one that Ctrl-C ended


class UserError(Exception):
    """Bad input: one line saying what was got, what was expected and what to do."""


def of_file(error: OSError) -> str:
    """What to tell of a file, folder or socket that fails where no part of a program expects it."""
    what = error.filename if error.filename is not None else "a file"
    reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    return (
        f"got {what}, which cannot be read or written ({reason}), expected it to be; look at the "
        "disk, the path and its permissions, and start the same command again"
    )


def leave(status: int) -> NoReturn:
    """End the process; after Ctrl-C at once, because XLA may be compiling in another thread, which
    the interpreter's own end would pull its ground from."""
    if status == INTERRUPTED_STATUS:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Return the candidate that is spelt most like `name`; there must be one."""
    return difflib.get_close_matches(str(name), list(candidates), n=1, cutoff=0.0)[0]


def nearest_hint(name: str, candidates: Iterable[str], cutoff: float = 0.6) -> str:
    """Return " (nearest: NAME)" if a candidate's similarity, 0..1, reaches `cutoff`, else ""."""
    match = difflib.get_close_matches(str(name), list(candidates), n=1, cutoff=cutoff)
    return f" (nearest: {match[0]})" if match else ""
