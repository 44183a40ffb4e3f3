"""How good the built-in lines are, and how fast a set is made; the figures of docs/prepare.md.

    python tests/data/prepare/measure_prepare.py lines [--count N] [--picture PNG]
    python tests/data/prepare/measure_prepare.py throughput DIR [--count N] [--processes N ...]

Times are of processors, all processes together, so that they do not depend on what else the machine
does; wall times are printed beside them.
"""

import argparse
import io
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from drawn_folder import make
from PIL import Image, ImageDraw
from scipy import ndimage

from colorize_jax.evaluation.metrics import line_f1
from data.illustrations import render
from data.pictures.lines import STYLES, extract_styles
from data.prepare.jobs.options import Options
from data.prepare.stages import products, survey
from data.sources.store import Place

SIZE = 512  # px, of pictures whose lines are judged
REACH = 2  # px, within which lines are the same in the stricter sense
_DRAWN = 0.35  # of a line's darkness, from which on it is drawn
CELL, GAP, HEAD = 256, 6, 18


def flat(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As drawn: flat colours and shadows with hard edges."""
    return image


def shaded(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Soft light, soft shadows, and a glow that bleaches lines."""
    light = ndimage.gaussian_filter(rng.normal(size=image.shape[:2]), SIZE / 16)
    light = 0.85 + 0.3 * light / np.abs(light).max()
    fine = ndimage.gaussian_filter(rng.normal(size=image.shape[:2]), SIZE / 48)
    light = light * (1 - 0.25 * np.clip(fine / fine.std() - 0.5, 0, 1))
    glow = ndimage.gaussian_filter(image.astype(np.float64), (SIZE / 40, SIZE / 40, 0))
    lit = 0.85 * image * light[..., None] + 0.15 * glow
    return np.clip(lit, 0, 255).astype(np.uint8)


def textured(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shaded, on the grain of canvas, with brushed colour, and saved as JPEG of quality 80."""
    lit = shaded(image, rng).astype(np.float64)
    grain = rng.normal(size=image.shape[:2])
    brushed = ndimage.gaussian_filter(grain, (0.6, 4.0)) * 5 + ndimage.gaussian_filter(grain, 1)
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    canvas = np.sin(rows * 1.6) * np.sin(columns * 1.6)
    factor = 1 + 0.06 * brushed / brushed.std() + 0.04 * canvas
    file = io.BytesIO()
    painted = np.clip(lit * factor[..., None], 0, 255).astype(np.uint8)
    Image.fromarray(painted).save(file, "JPEG", quality=80)
    return np.asarray(Image.open(file))


KINDS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "flat": flat, "shaded": shaded, "textured": textured,
}  # fmt: skip


def strict_f1(lines: np.ndarray, truth: np.ndarray) -> float:
    """F1 of drawn pixels within two of true ones; lines and truth (H, W) in [0, 1], 1 = line."""
    drawn, true = lines > _DRAWN, truth > 0.5
    near_true, near_drawn = (ndimage.distance_transform_edt(~m) <= REACH for m in (true, drawn))
    precision = near_true[drawn].mean() if drawn.any() else 1.0
    recall = near_drawn[true].mean()
    return float(2 * precision * recall / (precision + recall))


def judge(count: int) -> dict[tuple[str, str], np.ndarray]:
    """(kind, style) -> mean of (F1 as `line_f1` has it, F1 within two pixels)."""
    scores: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for i in range(count):
        drawn = render(1000 + i, i, SIZE, SIZE)
        truth = 1 - drawn.sketch[..., 0].astype(np.float64) / 255
        for kind, paint in KINDS.items():
            image = paint(drawn.image, np.random.default_rng(i))
            styles = extract_styles(image.astype(np.float32) / np.float32(127.5) - 1, list(STYLES))
            for style, lines in styles.items():
                paper = np.repeat(1 - 2 * lines[..., None], 3, axis=2)
                scores.setdefault((kind, style), []).append(
                    (line_f1(paper, 2 * truth - 1), strict_f1(lines, truth))
                )
    return {key: np.mean(values, axis=0) for key, values in scores.items()}


def sheet(geometry: int = 1003) -> Image.Image:
    """Kinds of pictures by styles of lines, and the true lines."""
    drawn = render(geometry, 3, SIZE, SIZE)
    titles = ["picture", *STYLES, "true lines"]
    step = CELL + GAP
    page = Image.new("RGB", (GAP + step * len(titles), HEAD + step * len(KINDS)), "#d0d0d0")
    pen = ImageDraw.Draw(page)
    for column, title in enumerate(titles):
        pen.text((GAP + column * step, 3), title, fill="black")
    for row, (kind, paint) in enumerate(KINDS.items()):
        image = paint(drawn.image, np.random.default_rng(0))
        shown = products.built_in_lines(Image.fromarray(image), list(STYLES))
        cells = [Image.fromarray(image), *shown.values(), Image.fromarray(drawn.sketch[..., 0])]
        for column, cell in enumerate(cells):
            small = cell.convert("RGB").resize((CELL, CELL), Image.Resampling.BOX)
            page.paste(small, (GAP + column * step, HEAD + row * step))
        pen.text((GAP + 4, HEAD + row * step + 2), kind, fill="black")
    return page


def lines(options: argparse.Namespace) -> None:
    """F1 of every style on every kind of picture."""
    if options.picture:
        sheet().quantize(256, Image.Quantize.FASTOCTREE).save(options.picture, optimize=True)
    for (kind, style), (score, strict) in judge(options.count).items():
        print(f"{kind:9} {style:7} F1 {score:.3f}, within {REACH} px of {SIZE} {strict:.3f}")


def processor_seconds() -> float:
    """Of this process and of its children that have ended."""
    parts = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in parts)


def throughput(options: argparse.Namespace) -> None:
    """Processor seconds of a picture, stage by stage, and of whole jobs of some processes."""
    root = options.dir / "pictures"
    if not root.exists():
        make(root, options.count, options.side)
    stages(root, options.side)
    for processes in options.processes:
        output = options.dir / "set"
        shutil.rmtree(output, ignore_errors=True)
        start, before = time.perf_counter(), processor_seconds()
        words = [str(root), f"--output={output}", f"--processes={processes}"]
        command = [sys.executable, "-m", "data.prepare", *words]
        subprocess.run(command, check=True, capture_output=True)
        count = json.loads((output / "report.json").read_text())["taken"]
        wall, processor = time.perf_counter() - start, processor_seconds() - before
        memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        print(
            f"{processes} processes: {count / wall:.1f} pictures/s, {count / processor:.2f} a "
            f"second of one core ({1000 * processor / count:.0f} ms each, starts included); "
            f"the largest process {memory:.0f} MiB"
        )


def stages(root: Path, side: int) -> None:
    """Processor time of each stage of one picture."""
    options = Options(str(root), str(root.parent / "unused"))
    names = sorted(path for path in root.rglob("*.jpg") if path.stat().st_size > 1000)[:8]
    spent: dict[str, float] = {}

    def timed(name: str, function: Callable[[], object]) -> object:
        start = time.thread_time()
        result = function()
        spent[name] = spent.get(name, 0.0) + time.thread_time() - start
        return result

    for path in names:
        place = Place(str(path.relative_to(root)))
        row = timed("look", lambda place=place: survey.look(str(root), place))
        shown = Image.open(path).convert("RGB")
        drawn = timed("lines", lambda shown=shown: products.built_in_lines(shown, list(STYLES)))
        mask = timed("mask", lambda shown=shown: products.estimate_foreground(shown))
        grey = [*drawn.values(), Image.fromarray((mask * 255).astype(np.uint8))]
        timed("PNGs", lambda grey=grey: [products.png(one) for one in grey])
        row |= {"name": "x"}
        timed("all of make", lambda row=row: products.make(options, row))
    for name, seconds in spent.items():
        print(f"{name}: {1000 * seconds / len(names):.0f} ms a picture of about {side} px")


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="what", required=True)
    judged = commands.add_parser("lines")
    judged.add_argument("--count", type=int, default=12)
    judged.add_argument("--picture", type=Path, help="draw styles by kinds here")
    timed = commands.add_parser("throughput")
    timed.add_argument("dir", type=Path)
    timed.add_argument("--count", type=int, default=96)
    timed.add_argument("--side", type=int, default=1024)
    timed.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    {"lines": lines, "throughput": throughput}[options.what](options)


if __name__ == "__main__":
    main()
