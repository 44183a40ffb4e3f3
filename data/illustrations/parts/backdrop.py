"""Simple backgrounds, each with a visible shape in the second colour."""

import math
from dataclasses import dataclass

from data.illustrations.canvas.palette import BACKDROP, BACKDROP_ACCENT, BACKDROP_STEPS
from data.illustrations.canvas.scene import PAGE, Scene
from data.illustrations.canvas.seeds import Dice

PATTERNS = {"circle": 2.0, "stripes": 1.2, "dots": 1.2, "horizon": 1.5, "stars": 1.2, "window": 1.2}

BANDS = range(BACKDROP, BACKDROP + BACKDROP_STEPS)
"""The paint of an empty page, from top to bottom."""


@dataclass(frozen=True)
class Backdrop:
    """A pattern from `PATTERNS` and its free numbers in 0..1."""

    pattern: str
    numbers: tuple[float, ...]


def backdrop_of(dice: Dice) -> Backdrop:
    """Draws a background."""
    return Backdrop(dice.weighted(PATTERNS), tuple(dice.unit() for _ in range(24)))


def draw_backdrop(scene: Scene, backdrop: Backdrop, across: float, down: float) -> None:
    """Draws the pattern on a page of `across` by `down` short sides."""
    n = backdrop.numbers
    {
        "circle": _circle,
        "stripes": _stripes,
        "dots": _dots,
        "horizon": _horizon,
        "stars": _stars,
        "window": _window,
    }[backdrop.pattern](scene, n, across, down)


def _disc(scene: Scene, x: float, y: float, r: float) -> None:
    ring = [
        (x + r * math.cos(a * math.pi / 6), y + r * math.sin(a * math.pi / 6)) for a in range(12)
    ]
    scene.fill(BACKDROP_ACCENT, ring, PAGE, stroke=0.6)


def _circle(scene: Scene, n, across: float, down: float) -> None:
    _disc(scene, across * (0.4 + 0.2 * n[0]), down * 0.2 + 0.2 + 0.1 * n[1], 0.36 + 0.08 * n[2])


def _stripes(scene: Scene, n, across: float, down: float) -> None:
    count = 4 + int(3 * n[0])
    step = (across + down) / count
    for i in range(count):
        x = step * i
        box = [(x, 0.0), (x + step / 2, 0.0), (x + step / 2 - down, down), (x - down, down)]
        scene.fill(BACKDROP_ACCENT, box, PAGE, stroke=0.5, straight=True)


def _dots(scene: Scene, n, across: float, down: float) -> None:
    step = 0.24 + 0.06 * n[0]
    for row in range(int(down / step) + 1):
        for column in range(int(across / step) + 2):
            x = (column + 0.5 * (row % 2)) * step
            _disc(scene, x, (row + 0.3) * step, step * 0.22)


def _horizon(scene: Scene, n, across: float, down: float) -> None:
    y, tilt = down * (0.42 + 0.25 * n[0]), 0.12 * (n[1] - 0.5)
    box = [
        (-0.1, y - tilt, 1),
        (across / 2, y - 0.06),
        (across + 0.1, y + tilt, 1),
        (across + 0.1, down + 0.1, 1),
        (-0.1, down + 0.1, 1),
    ]
    scene.fill(BACKDROP_ACCENT, box, PAGE, stroke=0.6)


def _stars(scene: Scene, n, across: float, down: float) -> None:
    for i in range(8):
        x = across * ((i % 4) + 0.2 + 0.6 * n[i]) / 4
        y = down * (0.5 * (i // 4) + 0.05 + 0.3 * n[i + 8])
        r = 0.05 + 0.05 * n[i + 16]
        spark = []
        for k in range(8):
            reach = r if k % 2 == 0 else 0.34 * r
            a = k * math.pi / 4
            spark.append((x + reach * math.cos(a), y + reach * math.sin(a)))
        scene.fill(BACKDROP_ACCENT, spark, PAGE, stroke=0.5, straight=True)


def _window(scene: Scene, n, across: float, down: float) -> None:
    left, top = across * (0.08 + 0.1 * n[0]), down * 0.06
    right, low = across * (0.82 + 0.1 * n[1]), down * (0.6 + 0.1 * n[2])
    x, y = (left + right) / 2, (top + low) / 2
    for a, b in ((left, x - 0.015), (x + 0.015, right)):
        for c, d in ((top, y - 0.015), (y + 0.015, low)):
            box = [(a, c), (b, c), (b, d), (a, d)]
            scene.fill(BACKDROP_ACCENT, box, PAGE, stroke=0.6, straight=True)
