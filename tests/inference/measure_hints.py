"""Three dots of a colour on one part of a drawing: what they change, and what they leave alone.

    python -m tests.inference.measure_hints RUN [--num 64] [--sheet PNG]

A part of each figure or its background gets the colour of some part of another picture; dots of two
pixels' radius (at 64 px) lie inside it.
"""

import argparse

import numpy as np
from PIL import Image
from tqdm import tqdm

from colorize_jax.evaluation import metrics
from colorize_jax.evaluation.bootstrap import ratio_interval
from colorize_jax.evaluation.color import ciede2000, to_lab
from colorize_jax.evaluation.contact_sheet import contact_sheet
from colorize_jax.evaluation.protocols.controls import dots, large_parts
from colorize_jax.evaluation.protocols.pairs import CROSS, DrawnPairs
from colorize_jax.setup.checkpoints import open_pipeline

SHOWN = 6
MEASURES = ("hinted pixels", "hinted parts", "other parts", "line F1")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", help="workdir of a run on drawn pictures")
    parser.add_argument("--num", type=int, default=64, help="pictures")
    parser.add_argument("--sheet", metavar="PNG", help="draw the first of them")
    args = parser.parse_args()
    pipeline = open_pipeline(args.run)
    side = pipeline.system.limits.default
    options = pipeline.defaults.replace(seed=0)
    pairs = DrawnPairs(CROSS, args.num, side, side)
    random = np.random.default_rng(0)
    scores: dict[str, list[list[float]]] = {"without hints": [], "with hints": []}
    cells = []
    for number in tqdm(range(args.num)):
        pair, other = pairs[number], pairs[(number + 1) % args.num]
        part, color = random.choice(large_parts(pair)), random.choice(large_parts(other))
        wanted = np.median(other.truth[other.parts[..., 0] == color], axis=0)
        inside = pair.parts[..., 0] == part
        mask = dots(inside)
        rgba = np.zeros((*inside.shape, 4), np.uint8)
        rgba[mask] = (*wanted, 255)
        drawn = Image.fromarray(rgba)
        made = {}
        for name, hints in (("without hints", None), ("with hints", drawn)):
            given = pair.sketch[..., 0], pair.references["cross"], options
            pictures = pipeline(*given, color_hints=hints)
            made[name] = np.asarray(pictures[0])
            scores[name].append(score(made[name], pair, part, mask, wanted))
        if number < SHOWN:
            cells.append([pair.sketch, pair.references["cross"], drawn, *made.values()])
    plain, hinted = (np.array(rows) for rows in scores.values())
    for column, measure in enumerate(MEASURES):
        low, high = ratio_interval(hinted[:, column], plain[:, column], seed=0)
        means = np.nanmean(plain[:, column]), np.nanmean(hinted[:, column])
        print(
            f"{measure:14} {means[0]:8.3f} without, {means[1]:8.3f} with hints, "
            f"ratio {means[1] / means[0]:.3f} [{low:.3f}, {high:.3f}]"
        )
    if args.sheet:
        titles = ("sketch", "reference", "hints", "without", "with hints")
        contact_sheet(cells, titles).save(args.sheet)


def score(result: np.ndarray, pair, part: int, mask: np.ndarray, wanted: np.ndarray) -> list[float]:
    """CIEDE2000 of the hinted pixels' and of the part's mean colour to the wanted one; of the other
    parts' to theirs; line F1."""
    image, truth = result / 127.5 - 1, pair.truth / 127.5 - 1
    lab, goal = to_lab(image), to_lab(wanted / 127.5 - 1)
    inside = pair.parts[..., 0] == part
    at_dots, at_part = (float(ciede2000(lab[where].mean(axis=0), goal)) for where in (mask, inside))
    errors = metrics.part_color_errors(image, truth, pair.parts[..., 0])
    others = [error for own, error in errors.items() if own != part]
    sketch = 1 - pair.sketch[..., 0] / 127.5
    return [at_dots, at_part, float(np.mean(others)), metrics.line_f1(image, sketch)]


if __name__ == "__main__":
    main()
