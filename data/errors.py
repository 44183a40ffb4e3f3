"""Errors whose messages are for users."""

import re


class DataError(ValueError):
    """Bad data: one line saying what was got, what was expected and what to do."""


class PictureError(DataError):
    """One picture that cannot be used; a run goes on without it.

    Attributes:
        reason: what is wrong with it, without its name.
    """

    @property
    def reason(self) -> str:
        """E.g. "is damaged (image file is truncated)"."""
        found = re.search(r", which (.*), expected ", str(self))
        return found[1] if found else str(self)
