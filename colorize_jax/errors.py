"""The exception whose message is for users, and suggestions for misspelt names."""

import difflib
import os
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn

from data import errors


class UserError(Exception):
    """Bad input: one line saying what was got, what was expected and what to do."""


def run_program(program: Callable[[], int], *, interrupted: str = "interrupted") -> int:
    """`data.errors.run_program`, of a program that raises `UserError` too."""
    return errors.run_program(program, UserError, interrupted=interrupted)


def leave(status: int) -> NoReturn:
    """End the process; after Ctrl-C at once, because XLA may be compiling in another thread, which
    the interpreter's own end would pull its ground from."""
    if status == errors.INTERRUPTED_STATUS:
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
