"""Means of steps, and steps whose numbers are none."""

import numpy as np
import pytest

from colorize_jax.errors import UserError
from colorize_jax.training.monitoring.history import MetricsHistory


def metrics(loss, norm=1.0):
    return {"loss": np.float32(loss), "gradient_norm": np.float32(norm)}


def test_means():
    history = MetricsHistory()
    for step, loss in enumerate((1.0, 3.0)):
        history.add(step, metrics(loss))
    assert history.means() == {"loss": 2.0, "gradient_norm": 1.0}


def test_a_step_that_is_no_number_names_its_pictures():
    history = MetricsHistory(names=lambda indices: [f"color/{i}.png" for i in indices])
    history.add(0, metrics(1.0), [3, 4])
    history.add(1, metrics(1.0, np.inf), [5, 6])
    message = r"gradient_norm inf at step 2 \(of color/5.png, color/6.png\), expected a finite"
    with pytest.raises(UserError, match=message + r".*: look at these pictures, lower optimizer"):
        history.means()


def test_steps_may_be_skipped_up_to_a_limit():
    history = MetricsHistory(max_skipped=2)
    for step, loss in enumerate((1.0, np.nan, 3.0)):
        history.add(step, metrics(loss))
    assert history.means() == {"loss": 2.0, "gradient_norm": 1.0, "updates_skipped": 1}
    history.add(3, metrics(np.nan))
    history.add(4, metrics(np.inf))
    with pytest.raises(
        UserError, match=r"loss inf at step 5 after 2 skipped updates.*at the data,"
    ):
        history.means()
