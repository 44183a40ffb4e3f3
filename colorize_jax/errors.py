"""The one exception that a user is meant to read."""


class UserError(Exception):
    """Bad input: one line saying what was got, what was expected and what to do; exit status 2."""
