"""Drawn truths of hints of colour: what is drawn, and what perfect answers score."""

import json
from pathlib import Path

import numpy as np
import pytest

import eval as evaluation
from colorize_jax.evaluation.protocols.controls import DrawnHints, dots
from colorize_jax.evaluation.protocols.pairs import DrawnPairs
from colorize_jax.evaluation.protocols.scoring import score
from tests import small_run

SIDE = 48


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run.make(tmp_path_factory.mktemp("run") / "run")


def test_dots_lie_in_one_part_in_a_foreign_colour() -> None:
    hints, pairs = DrawnHints(4, SIDE, SIDE), DrawnPairs("cross", 4, SIDE, SIDE)
    for index in range(4):
        pair, plain = hints[index], pairs[index]
        np.testing.assert_array_equal(pair.truth, plain.truth)
        hint, rgba = pair.hint, np.asarray(pair.hint.picture)
        assert (pair.parts[hint.mask] == hint.part).all() and hint.mask.any()
        np.testing.assert_array_equal(rgba[..., 3] > 0, hint.mask)
        assert (rgba[hint.mask][:, :3] == hint.color).all()
    assert len({tuple(hints[index].hint.color) for index in range(4)}) > 1


def test_dots_are_where_there_is_room() -> None:
    inside = np.zeros((64, 64), bool)
    inside[8:56, 8:24] = True
    mask = dots(inside)
    rows, columns = np.nonzero(mask)
    assert 3 * 9 <= mask.sum() <= 3 * 16 and np.ptp(rows) > 10
    assert columns.min() >= 12 and columns.max() <= 20


def test_what_follows_hints_scores() -> None:
    hints = DrawnHints(1, SIDE, SIDE)
    pair = hints[0]
    followed = pair.truth.copy()
    followed[pair.parts[..., 0] == pair.hint.part] = pair.hint.color
    scores = score(pair, hints.kinds, {"hinted": followed, "plain": pair.truth})
    for measure in ("hinted_error", "hinted_part_error"):
        assert scores[f"{measure}_hinted"] == pytest.approx(0, abs=1e-3)
        assert scores[f"{measure}_plain"] > 1
    assert scores["color_error_hinted"] == scores["color_error_plain"] == 0
    assert scores["line_f1_plain"] == scores["line_f1_truth"]


@pytest.mark.parametrize(
    ("protocol", "ratios"),
    [
        ("hints", {"hinted_error", "hinted_part_error", "other_parts_color_error"}),
    ],
)
def test_protocols_report(run: Path, tmp_path: Path, protocol: str, ratios: set[str]) -> None:
    flags = [f"--checkpoint={run}", f"--output={tmp_path / 'new'}", "--num=2", "--batch-size=2"]
    assert evaluation.main([*flags, f"--protocol={protocol}"]) == 0
    report = json.loads((tmp_path / "new" / "report.json").read_text())
    assert ratios == report["ratios"].keys() and not report["problems"]
    names = [f"color_error_{name}" for name in ("hinted", "plain")]
    found = {name: report["means"][name] for name in names}
    assert all(figure["count"] == 2 for figure in found.values())
    # Every way is another one: each of them did what its name says.
    assert len({figure["value"] for figure in found.values()}) == len(found)
    page = (tmp_path / "new" / "report.html").read_text()
    assert protocol in page and "data:image" in page
