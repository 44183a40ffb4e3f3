"""The reference projection: golden case, and token counts that do not fit."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from colorize_jax.errors import UserError
from colorize_jax.models.reference_projection import ReferenceProjection
from colorize_jax.verify import verify_folder

GOLDEN = Path(__file__).parents[1] / "golden"


def test_golden() -> None:
    checks = list(verify_folder(GOLDEN, "reference_projection"))
    assert checks and all(check.passed for check in checks), checks


@pytest.mark.parametrize(
    ("clip", "tagger"),
    [((3, 16), (4, 8)), ((9, 16), (5, 8)), ((9, 12), (4, 8))],
    ids=["too few of CLIP", "too many of the tagger", "heads do not divide"],
)
def test_misfits_are_named(clip: tuple[int, int], tagger: tuple[int, int]) -> None:
    module = ReferenceProjection(4, 24, head_dim=8)
    with pytest.raises(UserError, match=r"got .*expected"):
        module.init(jax.random.key(0), jnp.zeros((1, *clip)), jnp.zeros((1, *tagger)))
