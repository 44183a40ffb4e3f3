"""What a user is meant to read of this room."""


class DataError(ValueError):
    """Bad data: one line saying what was got, what was expected and what to do."""


class PictureError(DataError):
    """One picture that cannot be used; a run goes on without it."""
