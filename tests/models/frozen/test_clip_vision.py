"""CLIP's vision tower: golden case and its fields."""

from pathlib import Path

import pytest

from colorize_jax.errors import UserError
from colorize_jax.models.frozen.clip_vision import ClipVision
from colorize_jax.verify import verify_folder

GOLDEN = Path(__file__).parents[2] / "golden"


def test_golden() -> None:
    checks = list(verify_folder(GOLDEN, "clip_vision"))
    assert checks and all(check.passed for check in checks), checks


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(UserError, match="5 heads"):
        ClipVision(hidden_size=64, num_heads=5)
