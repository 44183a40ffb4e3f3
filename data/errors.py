"""Errors whose messages are for users, and programs that end with them."""

import re
import sys
from collections.abc import Callable

ERROR_STATUS = 2  # exit status of every program that was given bad input
INTERRUPTED_STATUS = 130  # of one that Ctrl-C ended


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


def run_program(
    program: Callable[[], int], *errors: type[Exception], interrupted: str = "interrupted"
) -> int:
    """Run a program; what ends it is one line.

    Args:
        program: returns its exit status.
        errors: whose messages are for users, beside `DataError`.
        interrupted: the line after Ctrl-C.

    Returns:
        The exit status.
    """
    try:
        return program()
    except (DataError, *errors) as error:
        line = str(error)
    except OSError as error:
        line = of_file(error)
    except KeyboardInterrupt:
        print(f"error: {interrupted}", file=sys.stderr)
        return INTERRUPTED_STATUS
    print(f"error: {line}", file=sys.stderr)
    return ERROR_STATUS


def of_file(error: OSError) -> str:
    """What to tell of a file, folder or socket that fails where no part of a program expects it."""
    what = error.filename if error.filename is not None else "a file"
    reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    return (
        f"got {what}, which cannot be read or written ({reason}), expected it to be; look at the "
        "disk, the path and its permissions, and start the same command again"
    )
