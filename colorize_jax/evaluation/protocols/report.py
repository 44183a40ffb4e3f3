"""An evaluation on a page that needs no other file, and as report.json and metrics.jsonl."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from colorize_jax.evaluation.contact_sheet import contact_sheet
from colorize_jax.evaluation.page import image, page, table
from colorize_jax.evaluation.protocols.coloring import NUM_SHOWN
from colorize_jax.evaluation.protocols.pairs import Kind
from colorize_jax.evaluation.protocols.progress import Progress
from colorize_jax.inference.options import InferenceOptions
from colorize_jax.io.formats.atomic import atomic_output

# Measure -> what it says, and which way is better.
MEASURES = {
    "color_error": ("colour error: CIEDE2000 of parts' mean colours", "lower"),
    "background_error": ("background error: CIEDE2000 of pixels outside the figure", "lower"),
    "gradient_correlation": ("correlation of edges outside the figure", "higher"),
    "figure_error": ("figure's colour error: CIEDE2000 of its parts' mean colours", "lower"),
    "leaked_in": ("share of the figure in colours of the background", "lower"),
    "leaked_out": ("share of the background in colours of the figure", "lower"),
    "hinted_error": ("CIEDE2000 of hinted pixels' mean colour to the hints'", "lower"),
    "hinted_part_error": ("CIEDE2000 of hinted parts' mean colour to the hints'", "lower"),
    "line_f1": ("line F1 against the sketch", "higher"),
    "entanglement": (
        "entanglement: CIEDE2000 away from lines, by another reference's geometry",
        "lower",
    ),
    "palette": ("distance of palettes, result and reference, CIELAB", "lower"),
    "psnr": ("PSNR, dB", "higher"),
    "ssim": ("SSIM", "higher"),
    "ms_ssim": ("MS-SSIM", "higher"),
    "lpips": ("LPIPS", "lower"),
    "clip": ("CLIP score: cosine of result and reference", "higher"),
    "tags": ("tags: F1 of result's and reference's", "higher"),
    "fid": ("FID, pictures resized as it was defined", "lower"),
    "clean_fid": ("clean-FID, pictures resized with antialiasing", "lower"),
    "kid": ("KID", "lower"),
    "cmmd": ("CMMD", "lower"),
}
# Table of the paper, 50,000 triplets at 1024 px: system -> its figures.
PAPER = {
    "the paper": {"FID": 8.28, "PSNR": 28.83, "MS-SSIM": 0.70, "CLIP score": 0.912},
    "its predecessor, third version": {
        "FID": 12.09, "PSNR": 28.44, "MS-SSIM": 0.61, "CLIP score": 0.896,
    },
    "its predecessor, second version": {
        "FID": 13.42, "PSNR": 28.04, "MS-SSIM": 0.57, "CLIP score": 0.891,
    },
    "IP-Adapter-XL": {"FID": 36.61},
    "MangaNinja, 512 px": {"FID": 42.85},
}  # fmt: skip
BINS = 24
REPORT, PAGE, LINES = "report.json", "report.html", "metrics.jsonl"


def write_report(
    progress: Progress,
    summary: Mapping[str, Any],
    about: Mapping[str, Any],
    kinds: Mapping[str, Kind],
    *,
    paper: bool = False,
) -> None:
    """Write the three files into the evaluation's folder, in place of earlier ones.

    Args:
        progress: of all pairs.
        summary: of `summarize`.
        about: what was evaluated.
        kinds: how every pair was coloured.
        paper: show the paper's own table beside.
    """
    rows = [progress.rows[index] for index in sorted(progress.rows)]
    report = {"about": about, **summary}
    if paper:
        report["paper"] = PAPER
    files = {
        REPORT: json.dumps(report, indent=2) + "\n",
        LINES: "".join(json.dumps(row) + "\n" for row in rows),
        PAGE: _page(progress, rows, report, kinds),
    }
    for name, text in files.items():
        size = len(text.encode())
        with atomic_output(progress.folder / name, nbytes=size, overwrite=True) as place:
            place.write_text(text)


def describe(name: str) -> str:
    """What a figure called MEASURE_KIND says."""
    measure, kind = _split(name)
    text, _ = MEASURES.get(measure, (measure, ""))
    return f"{text} ({kind})" if kind else text


def in_order(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Figures by what they measure, in the order of `MEASURES`."""
    known = list(MEASURES)
    places = {name: known.index(_split(name)[0]) if _split(name)[0] else -1 for name in figures}
    return {name: figures[name] for name in sorted(figures, key=places.__getitem__)}


def show(figure: Mapping[str, Any]) -> str:
    """A figure with its interval and count."""
    value, low, high = figure["value"], figure["low"], figure["high"]
    if value is None:
        return "none"
    between = "" if low is None else f"  [{low:.4g}, {high:.4g}]"
    return f"{value:.4g}{between}  of {figure['count']}"


def _split(name: str) -> tuple[str, str]:
    measure = max(
        (m for m in MEASURES if name == m or name.startswith(m + "_")), key=len, default=""
    )
    return (measure, name[len(measure) + 1 :]) if measure else (name, "")


def _page(
    progress: Progress,
    rows: Sequence[Mapping[str, Any]],
    report: Mapping[str, Any],
    kinds: Mapping[str, Kind],
) -> str:
    scored = [row for row in rows if "scores" in row]
    sheet = _sheet(progress, scored, kinds)
    ratios = {f"{name}_ratio": figure for name, figure in report["ratios"].items()}
    parts = [
        _facts(report["about"]),
        f"<p>{report['num_pairs']} pairs, {len(report['problems'])} of them unusable. Intervals: "
        "95 %, by bootstrap over pairs.</p>",
        _figures(ratios | in_order(report["distances"] | report["means"])),
        "".join(f"<p class=doubt>{escape(doubt)}</p>" for doubt in report["doubts"]),
        _paper(report.get("paper", {})),
        "<h2>Pairs</h2>" + image(sheet, "pairs") if sheet is not None else "",
        "<h2>Distributions</h2><div class=plots>",
        *(_histogram(name, scored) for name in report["means"]),
        "</div>",
        _problems(report["problems"]),
    ]
    return page("Evaluation", parts)


def _facts(about: Mapping[str, Any]) -> str:
    """What was evaluated; of the options those that are not the defaults."""
    own = InferenceOptions().to_dict()
    changed = {n: v for n, v in about["options"].items() if v != own.get(n)}
    shown = {**about, "options": changed or "the defaults"}
    rows = [(n, v if isinstance(v, str) else json.dumps(v)) for n, v in shown.items() if v]
    return table((), rows)


def _figures(figures: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for name, figure in figures.items():
        between = "" if figure["low"] is None else f"{figure['low']:.4g} … {figure['high']:.4g}"
        better = MEASURES.get(_split(name)[0], ("", ""))[1]
        value = "" if figure["value"] is None else f"{figure['value']:.4g}"
        rows.append((describe(name), value, between, str(figure["count"]), better))
    return "<h2>Figures</h2>" + table(("", "", "95 %", "pairs", "better"), rows)


def _paper(systems: Mapping[str, Mapping[str, float]]) -> str:
    if not systems:
        return ""
    columns = list(dict.fromkeys(name for figures in systems.values() for name in figures))
    rows = [
        (system, *(f"{figures[column]:g}" if column in figures else "" for column in columns))
        for system, figures in systems.items()
    ]
    return (
        "<h2>The paper's own figures</h2><p>As published (arXiv 2603.05971), of 50,000 triplets at "
        "1024 px; none of them was measured here.</p>" + table(("", *columns), rows)
    )


def _problems(problems: Mapping[str, str]) -> str:
    return "<h2>Unusable</h2>" + table((), problems.items()) if problems else ""


def _sheet(
    progress: Progress, scored: Sequence[Mapping[str, Any]], kinds: Mapping[str, Kind]
) -> Image.Image | None:
    """Sketch, and reference and result of every kind, and truth, of the first pairs."""
    columns = ["sketch", *(["hints"] if any(kind.hinted for kind in kinds.values()) else [])]
    for name, kind in kinds.items():
        columns += [f"reference-{kind.reference}", f"result-{name}"]
    columns = [*dict.fromkeys(columns), "truth"]
    lines = []
    for row in scored:
        if row["index"] < NUM_SHOWN:
            paths = [progress.picture_path(row["index"], column) for column in columns]
            lines.append([_opened(path) for path in paths])
    titles = [column.replace("-", ": ") for column in columns]
    return contact_sheet(lines, titles) if lines else None


def _opened(path: Path) -> Image.Image | None:
    """A kept picture; None where it is not there or damaged: the page goes without it."""
    try:
        with Image.open(path) as picture:
            return picture.copy()
    except OSError:
        return None


def _histogram(name: str, scored: Sequence[Mapping[str, Any]]) -> str:
    """A small plot, as SVG, of how a score is distributed over the pairs."""
    values = np.array([row["scores"].get(name, np.nan) for row in scored], float)
    values = values[np.isfinite(values)]
    if values.size < 2 or np.ptp(values) == 0:
        return ""
    counts, edges = np.histogram(values, BINS)
    tops = 60 * counts / counts.max()
    bars = "".join(
        f'<rect x="{10 * i}" y="{60 - top:.1f}" width="9" height="{top:.1f}"/>'
        for i, top in enumerate(tops)
    )
    mean = 10 * BINS * (values.mean() - edges[0]) / np.ptp(edges)
    return (
        f'<figure><svg viewBox="0 0 {10 * BINS} 62" width="240">{bars}'
        f'<line x1="{mean:.1f}" x2="{mean:.1f}" y1="0" y2="62"/></svg>'
        f"<figcaption><span>{edges[0]:.3g}</span><b>{escape(name)}</b>"
        f"<span>{edges[-1]:.3g}</span></figcaption></figure>"
    )
