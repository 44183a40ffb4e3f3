"""Measure a trained colorizer on held-out pairs with known ground truth.

    python eval.py --workdir=DIR [--config.evaluation.num_pairs=64 ...]

Every pair is a sketch of one geometry, an identity, and four references: the answer itself
(aligned), the identity in a second geometry (cross) and in a third one (moved), and another
identity (other). A run of the second stage is measured with its plugin and without it (plain), on
pairs whose truth stands in front of the reference's own background. Writes
DIR/evaluation/report.json and pairs.png.
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from scipy import ndimage
from tqdm import tqdm

from colorize_jax.config.load import config_from_dict
from colorize_jax.config.options import Config
from colorize_jax.errors import USER_ERROR_STATUS, UserError
from colorize_jax.evaluation import backgrounds, metrics, quality
from colorize_jax.evaluation.contact_sheet import contact_sheet
from colorize_jax.io.formats.atomic import atomic_output, check_output
from colorize_jax.io.runs.run_weights import RunWeights
from colorize_jax.setup import datasets, platform
from colorize_jax.setup.networks import build_colorize, build_train_system
from colorize_jax.training.augment import to_batch
from data.illustrations import PART_NAMES
from data.records import Record

# Kind of result -> the reference's field of a pair, and whether the plugin takes part.
COLORIZER = {
    "aligned": ("aligned_reference", False),
    "cross": ("reference", False),
    "moved": ("moved_reference", False),
    "other": ("other_reference", False),
}
PLUGIN = {"plain": ("reference", False), "plugin": ("reference", True)}
COLUMNS = ("sketch", "reference", "result", "truth", "other reference", "its result")
PLUGIN_COLUMNS = ("sketch", "reference", "without plugin", "with plugin", "truth")
FIGURE = range(PART_NAMES.index("skin"), len(PART_NAMES))
SHEET_ROWS = 12
REPORT, SHEET = "report.json", "pairs.png"


def evaluate(
    weights: RunWeights, config: Config, folder: Path, overwrite: bool = False
) -> dict[str, float]:
    """Colour the pairs of the config, score them and write the report.

    Args:
        weights: of the run.
        config: sampling and evaluation options; the networks' are the run's.
        folder: where the report goes.
        overwrite: replace one that is there.

    Returns:
        Means over pairs; see `score_colorizer` and `score_plugin`.
    """
    outputs = folder / REPORT, folder / SHEET
    for output in outputs:
        check_output(output, overwrite=overwrite)
    pairs = datasets.make_pairs(config, config.evaluation.num_pairs, config.evaluation.seed)
    records = [pairs[i] for i in tqdm(range(len(pairs)), "drawing pairs", leave=False)]
    start = time.perf_counter()
    refined = config.refine.enabled
    kinds, score = (PLUGIN, score_plugin) if refined else (COLORIZER, score_colorizer)
    results = color_pairs(weights, config, records, kinds)
    seconds = time.perf_counter() - start
    scores = [
        score(record, {kind: results[kind][i] for kind in kinds})
        for i, record in enumerate(tqdm(records, "scoring", leave=False))
    ]
    means = {name: float(np.nanmean([s[name] for s in scores])) for name in scores[0]}
    if refined:
        for name in ("background_error", "figure_error"):
            means[f"{name}_ratio"] = means[f"{name}_plugin"] / means[f"{name}_plain"]
    else:
        means["color_error_ratio"] = means["color_error_cross"] / means["color_error_other"]
    report = {
        "step": weights.step,
        "averaged_parameters": weights.averaged,
        "num_pairs": len(records),
        "seconds_per_picture": seconds / (len(records) * len(kinds)),
        "sampling": config.to_dict()["sampling"],
        "means": means,
    }
    draw_sheet = draw_plugin_sheet if refined else draw_colorizer_sheet
    sheet = draw_sheet(records[:SHEET_ROWS], results)
    with atomic_output(outputs[0], nbytes=1, overwrite=overwrite) as place:
        place.write_text(json.dumps(report, indent=2) + "\n")
    with atomic_output(outputs[1], nbytes=1, overwrite=overwrite) as place:
        sheet.save(place, "PNG")
    return means


def color_pairs(
    weights: RunWeights,
    config: Config,
    records: Sequence[Record],
    kinds: Mapping[str, tuple[str, bool]],
) -> dict[str, np.ndarray]:
    """Colour every sketch in each way: kind -> images (N, H, W, 3) in [-1, 1]."""
    system = build_train_system(config)
    colorize = {
        plugin: build_colorize(system, plugin=plugin)
        for plugin in {plugin for _, plugin in kinds.values()}
    }
    params = jax.device_put(weights.read_all())
    size = min(config.evaluation.batch_size, len(records))
    keys = jax.random.split(jax.random.key(config.evaluation.seed), len(records))
    results = {kind: np.zeros((len(records), *records[0]["image"].shape)) for kind in kinds}
    starts = [*range(0, len(records) - size, size), len(records) - size]  # the last may overlap
    for start in tqdm(starts, "colouring", leave=False):
        rows = slice(start, start + size)
        for kind, (field, plugin) in kinds.items():
            chosen = [r | {"reference": r[field]} for r in records[rows]]
            batch = {name: np.stack([r[name] for r in chosen]) for name in datasets.RECORD_KEYS}
            results[kind][rows] = colorize[plugin](params, to_batch(batch), keys[rows])
    return results


def score_colorizer(record: Record, results: dict[str, np.ndarray]) -> dict[str, float]:
    """Score the results (H, W, 3) of one pair against its truth.

    Returns:
        color_error_KIND: CIEDE2000 between mean colours of parts, mean over parts; line_f1 of the
        cross result; entanglement: difference of cross and moved result away from lines; psnr_KIND
        in dB.
    """
    truth = record["image"] / 127.5 - 1
    sketch = 1 - record["sketch"] / 127.5
    parts = record["parts"][..., 0]
    scores = {
        f"color_error_{kind}": metrics.part_color_error(result, truth, parts)
        for kind, result in results.items()
    }
    scores["line_f1"] = metrics.line_f1(results["cross"], sketch)
    scores["line_f1_truth"] = metrics.line_f1(truth, sketch)
    scores["entanglement"] = metrics.entanglement(results["cross"], results["moved"], sketch)
    for kind in ("aligned", "cross"):
        scores[f"psnr_{kind}"] = quality.psnr(results[kind], truth)
    return scores


def score_plugin(record: Record, results: dict[str, np.ndarray]) -> dict[str, float]:
    """Score the results (H, W, 3) with the plugin and without it.

    Returns:
        For each KIND: background_error_KIND, CIEDE2000 of pixels outside the figure;
        gradient_correlation_KIND there; figure_error_KIND, CIEDE2000 of its parts' mean colours;
        line_f1_KIND of the figure's lines; leaked_in_KIND and leaked_out_KIND, shares of the figure
        in colours of the background and of the background in colours of the figure.
    """
    truth = record["image"] / 127.5 - 1
    sketch = 1 - record["sketch"] / 127.5
    mask = record["sketch_mask"] / 255
    around = ndimage.binary_dilation(mask[..., 0] > 0.5, iterations=2)
    scores = {"line_f1_truth": metrics.line_f1(truth, sketch, around)}
    for kind, result in results.items():
        parts = metrics.part_color_errors(result, truth, record["parts"][..., 0])
        leaked_in, leaked_out = backgrounds.leakage(result, truth, mask)
        own = {
            "background_error": backgrounds.background_error(result, truth, mask),
            "gradient_correlation": backgrounds.gradient_correlation(result, truth, mask),
            "figure_error": np.mean([parts[part] for part in FIGURE if part in parts]),
            "line_f1": metrics.line_f1(result, sketch, around),
            "leaked_in": leaked_in,
            "leaked_out": leaked_out,
        }
        scores |= {f"{name}_{kind}": float(value) for name, value in own.items()}
    return scores


def draw_plugin_sheet(records: Sequence[Record], results: dict[str, np.ndarray]):
    """One page: what the model saw, what it made of it without and with the plugin, the truth."""
    rows = [
        (r["sketch"], r["reference"], results["plain"][i], results["plugin"][i], r["image"])
        for i, r in enumerate(records)
    ]
    return contact_sheet(rows, PLUGIN_COLUMNS)


def draw_colorizer_sheet(records: Sequence[Record], results: dict[str, np.ndarray]):
    """One page: what the model saw, what it made of it, and the truth."""
    rows = [
        (
            record["sketch"],
            record["reference"],
            results["cross"][i],
            record["image"],
            record["other_reference"],
            results["other"][i],
        )
        for i, record in enumerate(records)
    ]
    return contact_sheet(rows, COLUMNS)


def print_plugin_report(means: dict[str, float]) -> None:
    """What the numbers of a second stage say, in words."""
    names = {
        "background_error": "background error (CIEDE2000 of pixels outside the figure)",
        "gradient_correlation": "correlation of edges there",
        "figure_error": "figure's colour error (CIEDE2000 of parts' mean colours)",
        "line_f1": "line F1 of the figure",
        "leaked_in": "share of the figure in colours of the background",
        "leaked_out": "share of the background in colours of the figure",
    }
    for name, text in names.items():
        plain, plugin = means[f"{name}_plain"], means[f"{name}_plugin"]
        ratio = f"  (ratio {means[f'{name}_ratio']:.2f})" if f"{name}_ratio" in means else ""
        print(f"{text}: {plugin:.3f} with the plugin, {plain:.3f} without{ratio}")
    print(f"line F1 of the truth itself: {means['line_f1_truth']:.3f}")


def print_report(means: dict[str, float]) -> None:
    """What the numbers say, in words."""
    if "background_error_plugin" in means:
        print_plugin_report(means)
        return
    print(
        f"colour error (CIEDE2000 of parts' mean colours), right identity: "
        f"{means['color_error_cross']:.2f}"
    )
    print(
        f"                                              another identity: "
        f"{means['color_error_other']:.2f}  (ratio {means['color_error_ratio']:.2f})"
    )
    print(
        f"                                           the answer itself: "
        f"{means['color_error_aligned']:.2f}"
    )
    print(f"line F1: {means['line_f1']:.3f}  (the truth's own: {means['line_f1_truth']:.3f})")
    print(f"entanglement: {means['entanglement']:.2f}")
    print(f"PSNR: {means['psnr_cross']:.2f} dB, aligned {means['psnr_aligned']:.2f} dB")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and evaluate; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--workdir", required=True, metavar="DIR", help="a training run's folder")
    parser.add_argument(
        "--raw", action="store_true", help="the parameters themselves, not their running average"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier report")
    options, overrides = parser.parse_known_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    for line in platform.configure():
        print(line)
    try:
        weights = RunWeights(options.workdir, raw=options.raw)
        config = config_from_dict(weights.config, overrides)
        folder = Path(options.workdir) / "evaluation"
        print_report(evaluate(weights, config, folder, options.overwrite))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR_STATUS
    print(f"written: {folder / REPORT}, {folder / SHEET}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
