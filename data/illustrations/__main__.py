"""Contact sheets, examples, stored sets, and the speed of the drawing.

python -m data.illustrations --sheet out.png
python -m data.illustrations --example DIR
python -m data.illustrations --build DIR --size 64 --count 20000
python -m data.illustrations --benchmark
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from data.errors import run_program
from data.illustrations.canvas.seeds import example_seed
from data.illustrations.drawing import PART_NAMES, draw, paint, render
from data.illustrations.source import CrossPairSource
from data.illustrations.stored import build
from data.outputs import check_output, whole_file

_PART_COLORS = np.array(
    [
        (235, 235, 235), (205, 205, 205), (250, 205, 170), (120, 80, 200), (40, 160, 240),
        (80, 180, 90), (240, 200, 60), (230, 70, 90), (40, 40, 40),
    ],
    np.uint8,
)  # fmt: skip


def _seeds(index: int) -> tuple[int, int]:
    return tuple(example_seed("train", stream, 0, index) for stream in ("geometry", "identity"))


def sheet(size: int, count: int) -> Image.Image:
    """Columns of examples: image, sketch, parts, and the same geometry in the next identity."""
    columns = []
    for i in range(count):
        geometry, identity = _seeds(i)
        drawing = draw(geometry, size, size)
        own, cross = paint(drawing, identity), paint(drawing, _seeds(i + 1)[1])
        sketch = np.repeat(own.sketch, 3, axis=2)
        parts = _PART_COLORS[own.parts[..., 0]]
        columns.append(np.concatenate([own.image, sketch, parts, cross.image]))
    across = max(1, min(8, 2048 // size))
    columns += [np.full_like(columns[0], 255)] * (-len(columns) % across)
    rows = [np.concatenate(columns[i : i + across], 1) for i in range(0, len(columns), across)]
    return Image.fromarray(np.concatenate(rows))


def write_example(folder: Path, size: int, seed: int, overwrite: bool = False) -> None:
    """A held-out sketch, a reference of an identity in another geometry, and the right answer."""
    pair = CrossPairSource(seed, 1, size, size)[0]
    names = {"sketch": "sketch", "reference": "reference", "answer": "image"}
    for name in names:
        check_output(folder / f"{name}.png", overwrite=overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    for name, field in names.items():
        with whole_file(folder / f"{name}.png", overwrite=overwrite) as place:
            Image.fromarray(pair[field].squeeze()).save(place, "PNG")


def benchmark(size: int, seconds: float = 3.0) -> float:
    """Examples a second of one core's time at `size` px."""
    render(*_seeds(0), size, size)
    start, count = time.process_time(), 0
    while time.process_time() - start < seconds:
        count += 1
        render(*_seeds(count), size, size)
    return count / (time.process_time() - start)


def main() -> int:
    """Draw what the options ask for; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m data.illustrations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sheet", metavar="PNG", help="write a contact sheet")
    parser.add_argument("--size", type=int, default=256, help="size of one picture, px")
    parser.add_argument("--count", type=int, default=24, help="number of examples")
    parser.add_argument("--benchmark", action="store_true", help="print examples a second")
    parser.add_argument("--example", metavar="DIR", help="write a sketch, a reference, the answer")
    parser.add_argument("--build", metavar="DIR", help="store a set (needs the tfds extra)")
    parser.add_argument("--kind", choices=("train", "heldout"), default="train", help="what set")
    parser.add_argument("--seed", type=int, default=0, help="of the stored set")
    parser.add_argument("--overwrite", action="store_true", help="replace pictures that exist")
    options = parser.parse_args()
    return run_program(lambda: run(options))


def run(options: argparse.Namespace) -> int:
    """What the options ask for; returns the exit status."""
    if options.sheet:
        with whole_file(options.sheet, overwrite=options.overwrite) as place:
            sheet(options.size, options.count).save(place, "PNG")
        print(f"wrote {options.sheet}; parts: {', '.join(PART_NAMES)}")
    if options.build:
        built = build(
            options.build, kind=options.kind, seed=options.seed, num_examples=options.count,
            height=options.size, width=options.size,
        )  # fmt: skip
        print(f"stored {options.count} examples in {built}")
    if options.example:
        write_example(Path(options.example), options.size, options.seed, options.overwrite)
        print(f"wrote sketch.png, reference.png and answer.png to {options.example}")
    if options.benchmark:
        for size in (64, 256):
            print(f"{size} px: {benchmark(size):.0f} examples/s on one core")
    return 0


if __name__ == "__main__":
    sys.exit(main())
