"""What ends a program is one line and a status."""

import errno
import os

import pytest

from colorize_jax.errors import UserError
from data.errors import ERROR_STATUS, INTERRUPTED_STATUS, DataError, run_program

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/a")


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (DataError("got no picture"), ERROR_STATUS, "got no picture"),
        (UserError("got a step of 0"), ERROR_STATUS, "got a step of 0"),
        (
            FULL,
            ERROR_STATUS,
            "got runs/a, which cannot be read or written (No space",
        ),
        (OSError("closed"), ERROR_STATUS, "got a file, which cannot be read or written (closed)"),
        (KeyboardInterrupt(), INTERRUPTED_STATUS, "the same command goes on"),
    ],
)
def test_one_line_and_the_status(error, status, line, capsys) -> None:
    def program() -> int:
        raise error

    assert run_program(program, UserError, interrupted="the same command goes on") == status
    told = capsys.readouterr().err
    assert told.startswith(f"error: {line}") and told.count("\n") == 1


def test_other_errors_are_faults_and_no_error_is_the_programs_own_status() -> None:
    assert run_program(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        run_program(lambda: 1 // 0)
    with pytest.raises(UserError):  # of those that are not named
        run_program(lambda: (_ for _ in ()).throw(UserError("got x")))
