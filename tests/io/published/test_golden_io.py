"""The weight formula and the case reader."""

from pathlib import Path

import numpy as np
import pytest

from colorize_jax.errors import UserError
from colorize_jax.verify import golden

CASES = Path(__file__).parents[2] / "golden"


def test_lora_outputs_follow_from_the_formula():
    case = golden.load_case(CASES / "lora")
    tensors = golden.weights(case)
    assert (
        golden.relative_error(case.inputs["x"] @ tensors["weight"].T, case.outputs["none"]) < 1e-6
    )


def test_weights_of_named_neighbours():
    case = golden.load_case(CASES / "unet_split_attention")
    assert set(golden.weights_from(case)) == {"unet"}


def test_logit_scale_has_its_own_formula():
    spec = {"weights": {"seed": 1, "gain": 1.0, "tensors": {"a.logit_scale": [64, 1, 1]}}}
    value = golden.weights(spec)["a.logit_scale"]
    assert value.dtype == np.float32
    assert abs(value.mean() - 2) < 0.2


def test_relative_error_never_hides_a_wrong_shape_or_nan():
    expected = np.ones((2, 2))
    assert golden.relative_error(expected * 1.5, expected) == pytest.approx(0.5)
    assert golden.relative_error(np.ones((1, 2)), expected) == float("inf")
    assert golden.relative_error(np.full((2, 2), np.nan), expected) == float("inf")


def test_unreadable_cases_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="without golden cases"):
        golden.find_cases(tmp_path)
    (tmp_path / "case.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be read"):
        golden.load_case(tmp_path)
