"""The one exception of this room that a user is meant to read."""


class DataError(ValueError):
    """Bad data: one line saying what was got, what was expected and what to do."""
