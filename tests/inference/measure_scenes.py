"""Two figures in one picture, each by its own reference: what the regions are worth.

    python -m tests.inference.measure_scenes RUN [--num 64] [--sheet PNG]

Drawn pairs stand side by side, so that the right answer is known. Each is coloured with a region
for each reference, with both references everywhere, and by one attention over the tokens of both
(concatenated), and each figure alone, the best that the run can do.
"""

import argparse

import numpy as np
from tqdm import tqdm

from colorize_jax.evaluation import backgrounds, metrics
from colorize_jax.evaluation.bootstrap import interval
from colorize_jax.evaluation.contact_sheet import contact_sheet
from colorize_jax.evaluation.protocols.pairs import CROSS, DrawnPairs
from colorize_jax.inference.controls.scenes import RegionReference, Scene
from colorize_jax.setup.checkpoints import open_pipeline

WAYS = ("regions", "everywhere", "concatenated", "alone")
SHOWN = 5


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", help="workdir of a run on drawn pictures")
    parser.add_argument("--num", type=int, default=64, help="pictures of two figures")
    parser.add_argument("--sheet", metavar="PNG", help="draw the first of them")
    args = parser.parse_args()
    pipeline = open_pipeline(args.run)
    side = pipeline.system.limits.default
    options = pipeline.defaults.replace(seed=0, height=side, width=2 * side)
    pairs = DrawnPairs(CROSS, 2 * args.num, side, side)
    rows: dict[str, list[tuple[float, ...]]] = {way: [] for way in WAYS}
    cells = []
    for number in tqdm(range(args.num)):
        left, right = pairs[2 * number], pairs[2 * number + 1]
        made = color(pipeline, options, left, right)
        for way in WAYS:
            rows[way].append(score(made[way], left, right))
        if number < SHOWN:
            sketch = np.concatenate([left.sketch, right.sketch], axis=1)
            truth = np.concatenate([left.truth, right.truth], axis=1)
            references = [pair.references["cross"] for pair in (left, right)]
            both = np.concatenate(references, axis=1)
            cells.append([sketch, both, *(made[way] for way in WAYS), truth])
    print(f"{'':14}{'colour error':>24}{'in colours of the other figure':>34}")
    for way, scores in rows.items():
        errors, leaked = np.array(scores).T
        low, high = interval(errors, seed=0)
        print(f"{way:14}{errors.mean():10.2f} [{low:.2f}, {high:.2f}]{leaked.mean():26.4f}")
    if args.sheet:
        titles = ("sketch", "references", *WAYS, "truth")
        contact_sheet(cells, titles, cell_size=(128, 256)).save(args.sheet)


def color(pipeline, options, left, right) -> dict[str, np.ndarray]:
    """Colour two figures in every way: way -> (H, 2W, 3) uint8."""
    height, width = left.truth.shape[:2]
    sketch = np.concatenate([left.sketch, right.sketch], axis=1)[..., 0]
    mask = np.zeros((height, 2 * width), np.uint8)
    mask[:, :width] = 255
    one, other = (pair.references["cross"] for pair in (left, right))
    regions = Scene((RegionReference(one, mask), RegionReference(other, 255 - mask)))
    both = Scene((RegionReference(one), RegionReference(other)))
    made = {"regions": pipeline(sketch, regions, options)[0]}
    made["everywhere"] = pipeline(sketch, both, options)[0]
    read = pipeline.read_reference(both, options)
    picture = pipeline.read_sketch(sketch, read, options)
    # Without weights the tokens of both are one context.
    inputs = pipeline.condition([picture], options, [options.seed])
    inputs = inputs.replace(region_weights=None, region_strengths=None)
    image = pipeline.decode(pipeline.denoise(inputs, options), options)[0]
    made["concatenated"] = np.rint(image * 127.5 + 127.5)
    single = options.replace(width=width)
    alone = pipeline([left.sketch[..., 0], right.sketch[..., 0]], [one, other], single)
    made["alone"] = np.concatenate([np.asarray(image) for image in alone], axis=1)
    return {way: np.asarray(image).astype(np.uint8) for way, image in made.items()}


def score(result: np.ndarray, left, right) -> tuple[float, float]:
    """Mean colour error of the figures, and share of them in colours of the other one."""
    image = result / 127.5 - 1
    truth = np.concatenate([left.truth, right.truth], axis=1) / 127.5 - 1
    width = left.truth.shape[1]
    errors = [
        metrics.part_color_error(image[:, part], truth[:, part], pair.parts[..., 0])
        for part, pair in ((np.s_[:width], left), (np.s_[width:], right))
    ]
    mask = np.zeros(image.shape[:2])
    mask[:, :width] = 1
    return float(np.mean(errors)), float(np.nanmean(backgrounds.leakage(image, truth, mask)))


if __name__ == "__main__":
    main()
