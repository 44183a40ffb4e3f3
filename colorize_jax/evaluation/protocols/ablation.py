"""A grid of runs: what it consists of, and one page of what their evaluations say."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from colorize_jax.errors import UserError
from colorize_jax.evaluation.bootstrap import interval
from colorize_jax.evaluation.contact_sheet import contact_sheet
from colorize_jax.evaluation.page import image, line_plot, page, table
from colorize_jax.evaluation.protocols.report import LINES, describe

SHOWN = ("color_error_cross", "color_error_aligned", "entanglement", "line_f1_cross", "psnr_cross")
CURVES = ("diffusion_loss", "gram_loss", "gram_contrast")
EVALUATION, RUN = "evaluation", "run"
NUM_ROWS = 6  # of pictures
KEYS = {"config", "common", "base", "seeds", "sizes", "num_pairs", "arms"}


@dataclass(frozen=True)
class Cell:
    """One run of the grid.

    Attributes:
        size, arm: names of the grid.
        seed: of the run.
        changes: dotted option -> value.
        start: folder of the run of the same size and seed that it goes on from, or None.
        folder: where run and evaluation lie.
    """

    size: str
    arm: str
    seed: int
    changes: dict[str, Any]
    start: Path | None
    folder: Path

    @property
    def overrides(self) -> list[str]:
        """The changes as arguments of train.py."""
        values = {**self.changes, "seed": self.seed}
        return [f"--config.{name}={_text(value)}" for name, value in values.items()]


def cells(
    grid: Mapping[str, Any],
    output: Path,
    arms: Sequence[str] = (),
    sizes: Sequence[str] = (),
    seeds: Sequence[int] = (),
) -> list[Cell]:
    """The runs of a grid, those first from which others start.

    Args:
        grid: of a config file, see `configs/ablation.py`.
        output: folder of all.
        arms, sizes, seeds: which of them; all by default.

    Raises:
        UserError: the grid is none, or has no such arm or size.
    """
    check_grid(grid)
    for what, chosen, known in (("arm", arms, grid["arms"]), ("size", sizes, grid["sizes"])):
        for name in chosen:
            if name not in known:
                raise UserError(
                    f"got {what} {name!r}, expected some of {', '.join(known)}; correct the name"
                )
    chosen = _with_starts(grid["arms"], list(arms) or list(grid["arms"]))
    found = []
    for size in sizes or grid["sizes"]:
        for seed in seeds or grid["seeds"]:
            for arm in chosen:
                own = dict(grid["arms"][arm])
                start = own.pop("start", None)
                changes = {**grid["common"], **grid["sizes"][size], **own}
                origin = None if start is None else _folder(output, size, start, seed)
                folder = _folder(output, size, arm, seed)
                found.append(Cell(size, arm, seed, changes, origin, folder))
    return found


def check_grid(grid: Any) -> None:
    """Raise UserError where a grid is none: what it lacks, or what is of another kind."""
    if not isinstance(grid, Mapping) or grid.keys() != KEYS:
        found = ", ".join(map(str, grid)) if isinstance(grid, Mapping) else type(grid).__name__
        raise UserError(
            f"got a grid of {found}, expected {', '.join(sorted(KEYS))}; see configs/ablation.py"
        )
    rules = {
        "config": (isinstance(grid["config"], str) and Path(grid["config"]).is_file(), "a file"),
        "common": (_is_changes(grid["common"]), "options and values"),
        "seeds": (_is_seeds(grid["seeds"]), "some whole numbers from 0 up"),
        "sizes": (_is_table(grid["sizes"]), "names, each with options and values"),
        "arms": (_is_table(grid["arms"]), "names, each with options and values"),
        "base": (isinstance(grid["arms"], Mapping) and grid["base"] in grid["arms"], "an arm"),
        "num_pairs": (_is_seeds([grid["num_pairs"]]) and grid["num_pairs"], "a number from 1 up"),
    }
    for name, (sound, expected) in rules.items():
        if not sound:
            raise UserError(
                f"got a grid whose {name} is {grid[name]!r}, expected {expected}; correct it"
            )


def _is_changes(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(map(_is_changes, value.values()))


def _is_seeds(value: Any) -> bool:
    numbers = isinstance(value, list | tuple) and bool(value)
    return numbers and all(type(one) is int and one >= 0 for one in value)


def _with_starts(arms: Mapping[str, Any], chosen: list[str]) -> list[str]:
    """Arms with those that they start from, before them."""
    ordered: dict[str, None] = {}
    for arm in chosen:
        chain = [arm]
        while (start := arms[chain[-1]].get("start")) is not None:
            if start not in arms or start in chain:
                raise UserError(f"got arm {arm!r} that starts from {start!r}, expected another arm")
            chain.append(start)
        ordered |= dict.fromkeys(reversed(chain))
    return list(ordered)


def read_scores(cell: Cell, num_pairs: int) -> dict[str, np.ndarray] | None:
    """Score -> (N,) of a cell's pairs, NaN where one has none; None: it is not evaluated yet.

    Raises:
        UserError: its file is damaged.
    """
    path = cell.folder / EVALUATION / LINES
    if not path.is_file():
        return None
    try:
        rows = {}
        for line in path.read_text().splitlines():
            row = json.loads(line)
            rows[row["index"]] = row.get("scores", {})
        found = {
            name: np.array([rows.get(i, {}).get(name, np.nan) for i in range(num_pairs)], float)
            for name in SHOWN
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"got {path}, which is damaged, expected scores of pairs; remove {cell.folder.name} "
            "and let it run again"
        ) from error
    return found if any(np.isfinite(values).any() for values in found.values()) else None


def summarize(done: Sequence[Cell], base: str, num_pairs: int) -> list[dict[str, Any]]:
    """A row for every size and arm: means over seeds and pairs, and changes against the base arm.

    Intervals are of 95 %, by bootstrap over pairs of the mean over seeds; a change is that of the
    same pairs and seeds, and its share that of the base arm's value: None where that is 0.
    """
    by_arm: dict[tuple[str, str], dict[int, dict[str, np.ndarray]]] = {}
    for cell in done:
        scores = read_scores(cell, num_pairs)
        if scores is not None:
            by_arm.setdefault((cell.size, cell.arm), {})[cell.seed] = scores
    rows = []
    for (size, arm), seeds in by_arm.items():
        row: dict[str, Any] = {"size": size, "arm": arm, "seeds": sorted(seeds), "figures": {}}
        reference = by_arm.get((size, base), {})
        common = sorted(seeds.keys() & reference.keys())
        for name in SHOWN:
            values = np.stack([scores[name] for scores in seeds.values()])
            per_pair = values.mean(axis=0)  # of pairs that every seed could use
            low, high = interval(per_pair, seed=0)
            spread = np.nanmean(values, axis=1)
            figure = {
                "value": float(np.nanmean(per_pair)),
                "low": low,
                "high": high,
                "by_seed": [float(value) for value in spread],
            }
            if common and arm != base:
                both = [(seeds[seed][name], reference[seed][name]) for seed in common]
                change = np.mean([ours - theirs for ours, theirs in both], axis=0)
                figure["change"] = float(np.nanmean(change))
                figure["change_low"], figure["change_high"] = interval(change, seed=0)
                whole = float(np.nanmean([theirs for _, theirs in both]))
                figure["share"] = figure["change"] / whole if whole else None
            row["figures"][name] = figure
        rows.append(row)
    return rows


def write_page(done: Sequence[Cell], rows: Sequence[Mapping[str, Any]], base: str) -> str:
    """The grid on one page: figures, curves, and the same pairs under every arm."""
    parts = [
        f"<p>Means over seeds and pairs with 95 % intervals over pairs; in brackets the change "
        f"against <b>{base}</b>, of the same seeds and pairs.</p>"
    ]
    for size in dict.fromkeys(row["size"] for row in rows):
        own = [row for row in rows if row["size"] == size]
        parts.append(f"<h2>{size}</h2>")
        lines = [[row["arm"], str(len(row["seeds"])), *map(_cell_text, _shown(row))] for row in own]
        parts.append(table(("arm", "seeds", *map(describe, SHOWN)), lines))
        cells_here = [
            cell
            for cell in done
            if cell.size == size and (cell.folder / EVALUATION / LINES).is_file()
        ]
        for name in CURVES:
            curves = {c.arm: _curve(c, name) for c in cells_here if c.seed == cells_here[0].seed}
            parts.append(line_plot(name, {arm: xy for arm, xy in curves.items() if len(xy[0]) > 1}))
        sheet = _sheet(cells_here)
        if sheet is not None:
            parts.append(image(sheet, f"the same pairs under every arm, {size}"))
    return page("Ablation", parts)


def _shown(row: Mapping[str, Any]) -> list[Mapping[str, float]]:
    return [row["figures"][name] for name in SHOWN]


def _cell_text(figure: Mapping[str, Any]) -> str:
    text = f"{figure['value']:.4g} ({figure['low']:.4g} … {figure['high']:.4g})"
    if "change" in figure:
        share = "" if figure["share"] is None else f", {100 * figure['share']:+.1f} %"
        text += f" [{figure['change']:+.3g}{share}]"
    return text


def _curve(cell: Cell, name: str) -> tuple[list[float], list[float]]:
    """Steps and values of a metric of a run."""
    steps, values = [], []
    path = cell.folder / RUN / "metrics.jsonl"
    for line in path.read_text().splitlines() if path.is_file() else ():
        row = json.loads(line)
        if row.get(name) is not None:
            steps.append(row["step"])
            values.append(row[name])
    return steps, values


def _sheet(done: Sequence[Cell]) -> Image.Image | None:
    """Rows of pairs, and a column for every arm, of the first seed."""
    first = [cell for cell in done if cell.seed == done[0].seed] if done else []
    if not first:
        return None

    def picture(cell: Cell, index: int, name: str) -> Image.Image | None:
        path = cell.folder / EVALUATION / "parts" / f"{index:06d}-{name}.png"
        return Image.open(path) if path.exists() else None

    rows = [
        [
            *(picture(first[0], i, name) for name in ("sketch", "reference-cross")),
            *(picture(cell, i, "result-cross") for cell in first),
            picture(first[0], i, "truth"),
        ]
        for i in range(NUM_ROWS)
    ]
    return contact_sheet(rows, ("sketch", "reference", *(cell.arm for cell in first), "truth"))


def _folder(output: Path, size: str, arm: str, seed: int) -> Path:
    name = "-".join(
        "".join(char if char.isalnum() else "_" for char in text)
        for text in (size, arm, f"seed {seed}")
    )
    return output / "runs" / name


def _text(value: Any) -> str:
    return str(tuple(value)) if isinstance(value, list | tuple) else str(value)
