"""Results in order, not too far ahead, and workers that end."""

import os
import time

import pytest

from data.errors import DataError
from data.prepare.jobs.workers import workers


def slow_first(number: int) -> int:
    time.sleep(0.05 if number == 0 else 0)
    return number


def ended(number: int) -> int:
    if number == 1:
        os._exit(9)
    return number


def test_results_are_in_order_and_the_source_is_not_read_far_ahead():
    read = []

    def numbers():
        for number in range(50):
            read.append(number)
            yield number

    with workers(1, 2) as mapper:
        for expected, result in enumerate(mapper(slow_first, numbers())):
            assert result == expected
            assert len(read) <= expected + 7


def test_a_worker_that_is_ended_from_outside_is_one_line():
    with workers(2, 1) as mapper, pytest.raises(DataError, match="give fewer processes"):
        list(mapper(ended, range(4)))
