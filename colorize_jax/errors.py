"""The exception whose message is for users, and suggestions for misspelt names."""

import difflib
from collections.abc import Iterable

USER_ERROR_STATUS = 2  # exit status of every program that was given bad input


class UserError(Exception):
    """Bad input: one line saying what was got, what was expected and what to do."""


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Return the candidate that is spelt most like `name`; there must be one."""
    return difflib.get_close_matches(str(name), list(candidates), n=1, cutoff=0.0)[0]


def nearest_hint(name: str, candidates: Iterable[str], cutoff: float = 0.6) -> str:
    """Return " (nearest: NAME)" if a candidate's similarity, 0..1, reaches `cutoff`, else ""."""
    match = difflib.get_close_matches(str(name), list(candidates), n=1, cutoff=cutoff)
    return f" (nearest: {match[0]})" if match else ""
