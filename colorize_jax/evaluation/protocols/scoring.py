"""From the results of one pair to its scores: what needs no network.

A score is called MEASURE_KIND, after the kind of result that it is of; `entanglement` compares two
kinds. Scores that a pair does not allow (too small, a reference that is missing) are left out.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage

from colorize_jax.evaluation import backgrounds, metrics, palettes, quality
from colorize_jax.evaluation.color import ciede2000, to_lab
from colorize_jax.evaluation.protocols.pairs import Kind, Pair
from colorize_jax.inference.pictures.arrays import to_array
from data.illustrations import PART_NAMES
from data.records import resize

FIGURE = range(PART_NAMES.index("skin"), len(PART_NAMES))
MAIN_KINDS = ("aligned", "cross", "shuffled", "plugin", "plain")

MAX_PSNR = 100.0  # dB; of equal pictures, whose own is infinite

Scores = dict[str, float]


def score(pair: Pair, kinds: Mapping[str, Kind], results: Mapping[str, np.ndarray]) -> Scores:
    """Score the results of a pair.

    Args:
        pair: what was coloured.
        kinds: how.
        results: name of a kind -> (H, W, 3) uint8, all of one size.

    Returns:
        psnr_KIND (dB), ssim_KIND, ms_ssim_KIND: against the truth, where it is the answer.
        line_f1_KIND: lines of the result against the sketch's; line_f1_truth: of the truth.
        palette_KIND: distance of the result's palette from its reference's (CIELAB).
        entanglement: CIEDE2000 away from lines between results of `cross` and `moved`.
        color_error_KIND: CIEDE2000 of parts' mean colours, of drawn pairs.
        With the plugin see `_score_sides`, with hints `_score_hints`.
    """
    images = {name: to_array(result) for name, result in results.items()}
    size = next(iter(images.values())).shape[:2]
    truth = to_array(resize(pair.truth, *size))
    sketch = 1 - resize(pair.sketch, *size)[..., 0] / 127.5
    if pair.hint is not None:
        return _score_hints(pair, images, truth, sketch)
    scores: Scores = {}
    with_sides = pair.sketch_mask is not None
    for name, image in images.items():
        if kinds[name].answered:
            scores |= _compare(name, image, truth)
        reference = to_array(pair.references[kinds[name].reference])
        scores[f"palette_{name}"] = palettes.palette_distance(image, reference)
        if pair.parts is not None and not with_sides:
            parts = pair.parts[..., 0]
            scores[f"color_error_{name}"] = metrics.part_color_error(image, truth, parts)
    if with_sides:
        return scores | _score_sides(pair, images, truth, sketch)
    for name in images:
        if name in MAIN_KINDS:
            scores[f"line_f1_{name}"] = metrics.line_f1(images[name], sketch)
    scores["line_f1_truth"] = metrics.line_f1(truth, sketch)
    if {"cross", "moved"} <= images.keys():
        scores["entanglement"] = metrics.entanglement(images["cross"], images["moved"], sketch)
    return scores


def mean_score(scores: Sequence[Scores], name: str) -> float:
    """Mean of a score over the pairs that have it."""
    return float(np.nanmean([one.get(name, np.nan) for one in scores]))


def _compare(name: str, image: np.ndarray, truth: np.ndarray) -> Scores:
    scores = {
        f"psnr_{name}": min(quality.psnr(image, truth), MAX_PSNR),
        f"ssim_{name}": quality.ssim(image, truth),
    }
    if min(image.shape[:2]) >= quality.MS_SSIM_SIDE:
        scores[f"ms_ssim_{name}"] = quality.ms_ssim(image, truth)
    return scores


def _score_hints(
    pair: Pair, images: Mapping[str, np.ndarray], truth: np.ndarray, sketch: np.ndarray
) -> Scores:
    """Score pictures with and without hints of colour.

    Returns:
        hinted_error_KIND and hinted_part_error_KIND, CIEDE2000 of the mean colour of the hinted
        pixels, and of the part that they lie on, to the hints' colour; color_error_KIND of all
        other parts to their own; line_f1_KIND.
    """
    scores = {"line_f1_truth": metrics.line_f1(truth, sketch)}
    wanted, inside = to_lab(to_array(pair.hint.color)), pair.parts[..., 0] == pair.hint.part
    for name, image in images.items():
        lab = to_lab(image)
        at_hints, at_part = (
            float(ciede2000(lab[where].mean(axis=0), wanted)) for where in (pair.hint.mask, inside)
        )
        parts = metrics.part_color_errors(image, truth, pair.parts[..., 0])
        others = [error for part, error in parts.items() if part != pair.hint.part]
        own = {
            "hinted_error": at_hints,
            "hinted_part_error": at_part,
            "color_error": float(np.mean(others)),
            "line_f1": metrics.line_f1(image, sketch),
        }
        scores |= {f"{measure}_{name}": value for measure, value in own.items()}
    return scores


def _score_sides(
    pair: Pair, images: Mapping[str, np.ndarray], truth: np.ndarray, sketch: np.ndarray
) -> Scores:
    """Score figures and backgrounds apart.

    Returns:
        background_error_KIND, CIEDE2000 of pixels outside the figure; gradient_correlation_KIND
        there; figure_error_KIND, CIEDE2000 of its parts' mean colours; line_f1_KIND of the figure's
        lines; leaked_in_KIND and leaked_out_KIND, shares of the figure in colours of the background
        and of the background in colours of the figure.
    """
    mask = pair.sketch_mask / 255
    around = ndimage.binary_dilation(mask[..., 0] > 0.5, iterations=2)
    scores = {"line_f1_truth": metrics.line_f1(truth, sketch, around)}
    for name, image in images.items():
        parts = metrics.part_color_errors(image, truth, pair.parts[..., 0])
        leaked_in, leaked_out = backgrounds.leakage(image, truth, mask)
        own = {
            "background_error": backgrounds.background_error(image, truth, mask),
            "gradient_correlation": backgrounds.gradient_correlation(image, truth, mask),
            "figure_error": np.mean([parts[part] for part in FIGURE if part in parts]),
            "line_f1": metrics.line_f1(image, sketch, around),
            "leaked_in": leaked_in,
            "leaked_out": leaked_out,
        }
        scores |= {f"{measure}_{name}": float(value) for measure, value in own.items()}
    return scores
