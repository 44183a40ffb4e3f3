"""Accessories: one large one, and sometimes a small one."""

from collections.abc import Callable
from dataclasses import dataclass

from data.illustrations.canvas.palette import ACCESSORY, HAIR, SHADE, tone_table
from data.illustrations.canvas.scene import BACK, BODY, HEAD, Points, Scene
from data.illustrations.canvas.seeds import Dice

LARGE = {
    "hair_ribbon": 2.5,
    "hairband": 2.0,
    "beret": 1.2,
    "headphones": 1.2,
    "scarf": 1.2,
    "hair_flower": 1.5,
    "cat_ears": 1.5,
    "witch_hat": 0.8,
}
SMALL = {"": 5.0, "glasses": 1.5, "choker": 1.5, "hairpin": 2.0, "earrings": 1.5}


@dataclass(frozen=True)
class Accessories:
    """Names from `LARGE` and `SMALL`, and the side where one-sided ones sit."""

    large: str
    small: str
    side: int

    @property
    def tags(self) -> tuple[str, ...]:
        return tuple(name for name in (self.large, self.small) if name)


def accessories_of(dice: Dice) -> Accessories:
    """Draws accessories."""
    return Accessories(dice.weighted(LARGE), dice.weighted(SMALL), dice.sign())


def _sided(points: Points, side: int) -> Points:
    return [(side * x, *rest) for x, *rest in points]


def _shade(scene: Scene, points: Points, frame: int) -> None:
    scene.tone(tone_table(SHADE, ACCESSORY), points, frame)


def draw_behind_head(scene: Scene, worn: Accessories) -> None:
    """What sits on the neck or behind the hair's front."""
    if worn.small == "choker":
        band = [
            (-0.34, 1.28, 1), (0.0, 1.4), (0.34, 1.28, 1), (0.35, 1.44, 1), (0.0, 1.56),
            (-0.35, 1.44, 1),
        ]  # fmt: skip
        scene.fill(ACCESSORY, band, BODY, stroke=0.8)
    if worn.large == "scarf":
        wrap = [
            (-0.75, 1.3), (0.0, 1.2), (0.75, 1.3), (0.95, 1.65), (0.6, 2.0), (0.0, 2.12),
            (-0.6, 2.0), (-0.95, 1.65),
        ]  # fmt: skip
        end = [
            (0.25, 1.8, 1), (0.7, 1.8, 1), (0.85, 2.5), (0.9, 3.3, 1), (0.4, 3.35, 1),
            (0.38, 2.5),
        ]  # fmt: skip
        scene.fill(ACCESSORY, _sided(end, worn.side), BODY)
        scene.fill(ACCESSORY, wrap, BODY, stroke=1.1)
        _shade(scene, [(-0.6, 1.3), (0.0, 1.5), (0.6, 1.3), (0.5, 1.15), (-0.5, 1.15)], BODY)
        for side in (-1, 1):
            scene.line([(side * 0.8, 1.6), (side * 0.4, 1.78), (side * 0.05, 1.8)], BODY, 0.7)


def draw_on_head(scene: Scene, worn: Accessories) -> None:
    """What sits before the hair."""
    if worn.small in _SMALL:
        _SMALL[worn.small](scene, worn.side)
    if worn.large in _LARGE:
        _LARGE[worn.large](scene, worn.side)


def _hair_ribbon(scene: Scene, side: int) -> None:
    x, y = 0.92, -0.98
    for turn in (-1, 1):
        loop = [
            (x, y, 1), (x + turn * 0.25, y - 0.42), (x + turn * 0.62, y - 0.38),
            (x + turn * 0.62, y + 0.22), (x + turn * 0.28, y + 0.25),
        ]  # fmt: skip
        scene.fill(ACCESSORY, _sided(loop, side), BACK)
        _shade(
            scene,
            _sided(
                [
                    (x, y), (x + turn * 0.3, y - 0.1), (x + turn * 0.55, y + 0.25),
                    (x + turn * 0.2, y + 0.25),
                ],
                side,
            ),
            BACK,
        )  # fmt: skip
        scene.line(
            _sided([(x + turn * 0.1, y - 0.02), (x + turn * 0.35, y - 0.08)], side), BACK, 0.6
        )
        tail = [
            (x, y, 1), (x + turn * 0.2, y + 0.3), (x + turn * 0.42, y + 0.62, 1),
            (x + turn * 0.1, y + 0.55, 1),
        ]  # fmt: skip
        scene.fill(ACCESSORY, _sided(tail, side), BACK)
    knot = [(x - 0.12, y - 0.13), (x + 0.12, y - 0.13), (x + 0.13, y + 0.13), (x - 0.13, y + 0.13)]
    scene.fill(ACCESSORY, _sided(knot, side), BACK)


def _hairband(scene: Scene, side: int) -> None:
    band = [
        (-1.2, -0.25, 1), (-0.95, -0.88), (-0.5, -1.2), (0.0, -1.3), (0.5, -1.2), (0.95, -0.88),
        (1.2, -0.25, 1),
    ]  # fmt: skip
    band += [
        (1.12, -0.1, 1), (0.86, -0.68), (0.45, -0.98), (0.0, -1.08), (-0.45, -0.98),
        (-0.86, -0.68), (-1.12, -0.1, 1),
    ]  # fmt: skip
    scene.fill(ACCESSORY, band)
    _shade(
        scene,
        [(0.5, -1.2), (0.95, -0.88), (1.2, -0.25), (1.12, -0.1), (0.9, -0.6), (0.6, -1.0)],
        HEAD,
    )


def _beret(scene: Scene, side: int) -> None:
    cap = [
        (-1.2, -0.62), (-1.28, -1.1), (-0.75, -1.6), (0.1, -1.75), (0.95, -1.5), (1.3, -1.0),
        (1.12, -0.66), (0.6, -0.98), (0.0, -1.06), (-0.6, -0.96),
    ]  # fmt: skip
    scene.fill(ACCESSORY, _sided(cap, side), BACK, stroke=1.15)
    _shade(
        scene,
        _sided(
            [
                (1.2, -0.65), (0.6, -1.0), (0.0, -1.08), (-0.6, -1.0), (-1.25, -0.65),
                (-0.7, -1.15), (0.0, -1.25), (0.8, -1.15), (1.25, -1.0),
            ],
            side,
        ),
        BACK,
    )  # fmt: skip
    scene.fill(
        ACCESSORY, _sided([(0.05, -1.72), (0.1, -1.9), (0.2, -1.92), (0.2, -1.7)], side), BACK
    )


def _headphones(scene: Scene, side: int) -> None:
    band = [
        (-1.26, 0.0, 1), (-1.18, -0.9), (-0.6, -1.42), (0.0, -1.54), (0.6, -1.42), (1.18, -0.9),
        (1.26, 0.0, 1),
    ]  # fmt: skip
    band += [
        (1.14, 0.0, 1), (1.05, -0.8), (0.52, -1.28), (0.0, -1.38), (-0.52, -1.28), (-1.05, -0.8),
        (-1.14, 0.0, 1),
    ]  # fmt: skip
    scene.fill(ACCESSORY, band, BACK)
    for turn in (-1, 1):
        cup = [(1.08, -0.25), (1.34, -0.18), (1.4, 0.2), (1.34, 0.58), (1.08, 0.64), (1.0, 0.2)]
        scene.fill(ACCESSORY, _sided(cup, turn), BACK, stroke=1.1)
        scene.line(_sided([(1.14, -0.1), (1.1, 0.2), (1.14, 0.5)], turn), BACK, 0.6)
        _shade(scene, _sided([(1.1, 0.3), (1.4, 0.2), (1.34, 0.6), (1.08, 0.66)], turn), BACK)


def _hair_flower(scene: Scene, side: int) -> None:
    x, y = 0.86, -0.62
    for dx, dy in ((0.0, -0.27), (0.26, -0.08), (0.16, 0.22), (-0.16, 0.22), (-0.26, -0.08)):
        cx, cy = x + dx, y + dy
        petal = [
            (cx + 0.2, cy), (cx + 0.14, cy - 0.15), (cx, cy - 0.2), (cx - 0.15, cy - 0.14),
            (cx - 0.2, cy), (cx - 0.14, cy + 0.15), (cx, cy + 0.2), (cx + 0.14, cy + 0.15),
        ]  # fmt: skip
        scene.fill(ACCESSORY, _sided(petal, side), stroke=0.9)
    heart = [(x + 0.11, y), (x, y - 0.11), (x - 0.11, y), (x, y + 0.11)]
    scene.fill(ACCESSORY + SHADE, _sided(heart, side), stroke=0.8)


def _cat_ears(scene: Scene, side: int) -> None:
    for turn in (-1, 1):
        ear = [
            (0.36, -1.2, 1), (0.55, -1.6), (0.98, -1.95, 1), (1.14, -1.4), (1.1, -0.72, 1),
            (0.72, -1.0),
        ]  # fmt: skip
        scene.fill(HAIR, _sided(ear, turn), BACK, stroke=(1.1, 1.1, 0.0))
        inner = [
            (0.56, -1.22, 1), (0.68, -1.5), (0.93, -1.76, 1), (1.02, -1.35), (1.0, -0.96, 1),
            (0.78, -1.08),
        ]  # fmt: skip
        scene.fill(ACCESSORY, _sided(inner, turn), BACK, stroke=0.8)


def _witch_hat(scene: Scene, side: int) -> None:
    cone = [
        (-0.95, -0.95, 1), (-0.6, -1.7), (-0.1, -2.3), (0.55, -2.6, 1), (0.5, -2.1),
        (0.75, -1.5), (0.95, -0.95, 1),
    ]  # fmt: skip
    scene.fill(ACCESSORY, _sided(cone, side), BACK, stroke=1.1)
    _shade(
        scene,
        _sided(
            [(0.3, -2.5), (0.6, -2.6), (0.8, -1.5), (1.0, -0.9), (0.5, -0.9), (0.35, -1.6)], side
        ),
        BACK,
    )
    brim = [
        (-1.75, -0.78), (-1.0, -1.05), (0.0, -1.12), (1.0, -1.05), (1.75, -0.78), (1.0, -0.72),
        (0.0, -0.8), (-1.0, -0.72),
    ]  # fmt: skip
    scene.fill(ACCESSORY, brim, BACK, stroke=1.1)
    _shade(
        scene,
        [(-1.7, -0.76), (0.0, -0.95), (1.7, -0.76), (1.0, -0.7), (0.0, -0.78), (-1.0, -0.7)],
        BACK,
    )


def _glasses(scene: Scene, side: int) -> None:
    for turn in (-1, 1):
        ring = []
        for x, y in (
            (0.82, 0.2),
            (0.84, 0.5),
            (0.62, 0.66),
            (0.3, 0.64),
            (0.14, 0.46),
            (0.16, 0.18),
            (0.4, 0.08),
            (0.66, 0.08),
        ):
            ring.append((turn * x, y))
        ring.append(ring[0])
        scene.line(ring, HEAD, 1.0, taper=(1.0, 1.0))
        scene.line([(turn * 0.84, 0.28), (turn * 1.05, 0.2)], HEAD, 0.8, taper=(1.0, 1.0))
    scene.line([(-0.14, 0.32), (0.0, 0.28), (0.14, 0.32)], HEAD, 0.8, taper=(1.0, 1.0))


def _hairpin(scene: Scene, side: int) -> None:
    for y in (-0.42, -0.2):
        pin = [(0.45, y, 1), (0.92, y + 0.08, 1), (0.9, y + 0.2, 1), (0.43, y + 0.1, 1)]
        scene.fill(ACCESSORY, _sided(pin, -side), stroke=0.8)


def _earrings(scene: Scene, side: int) -> None:
    for turn in (-1, 1):
        drop = [(1.1, 0.55, 1), (1.2, 0.75), (1.1, 0.88), (1.0, 0.75)]
        scene.fill(ACCESSORY, _sided(drop, turn), stroke=0.8)


_SMALL: dict[str, Callable[[Scene, int], None]] = {
    "glasses": _glasses,
    "hairpin": _hairpin,
    "earrings": _earrings,
}
_LARGE: dict[str, Callable[[Scene, int], None]] = {
    "hair_ribbon": _hair_ribbon,
    "hairband": _hairband,
    "beret": _beret,
    "headphones": _headphones,
    "hair_flower": _hair_flower,
    "cat_ears": _cat_ears,
    "witch_hat": _witch_hat,
}
