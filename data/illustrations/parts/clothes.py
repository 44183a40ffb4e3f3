"""Neck, body and clothes of several cuts."""

from collections.abc import Callable
from dataclasses import dataclass

from data.illustrations.canvas.palette import ACCENT, CLOTHES, SHADE, SKIN, tone_table
from data.illustrations.canvas.scene import BODY, Points, Scene
from data.illustrations.canvas.seeds import Dice
from data.illustrations.parts.face import mirrored

CUTS = {
    "school_uniform": 2.0,
    "shirt": 1.5,
    "blazer": 1.5,
    "hoodie": 1.5,
    "sweater": 1.5,
    "dress": 1.5,
    "kimono": 1.2,
    "t-shirt": 1.2,
    "cape": 1.0,
    "maid": 1.2,
}


@dataclass(frozen=True)
class Clothes:
    """A cut on a body: `shoulders` is their half width, half face widths."""

    cut: str
    shoulders: float

    @property
    def bare_arms(self) -> bool:
        """Whether raised arms have no sleeve."""
        return self.cut in ("dress", "t-shirt")


def clothes_of(dice: Dice) -> Clothes:
    """Draws a body and a cut."""
    return Clothes(
        cut=dice.weighted(CUTS),
        shoulders=dice.uniform(1.25, 1.55),
    )


def _torso(clothes: Clothes, raised: int) -> Points:
    s = clothes.shoulders
    shoulder = [
        (0.36, 1.6, 1), (0.62, 1.72), (s * 0.86, 1.86), (s + 0.08, 2.12), (s + 0.2, 2.8),
    ]  # fmt: skip
    hanging = [*shoulder, (s + 0.26, 3.8), (s + 0.3, 5.6), (s + 0.3, 7.4, 1)]
    bent = [*shoulder, (s + 0.22, 3.6), (s - 0.2, 4.5), (s - 0.1, 5.8), (s, 7.4, 1)]
    right, left = (bent if raised == side else hanging for side in (1, -1))
    return [*right, *mirrored(left)]


def draw_body(scene: Scene, clothes: Clothes, raised: int) -> None:
    """Neck, shoulders and what they wear; `raised` is the side of a raised arm, 0 for none."""
    neck = [(0.33, 0.8), (0.33, 1.35), (0.46, 1.66), (0.78, 1.92), (0.55, 2.6)]
    scene.fill(SKIN, [*neck, *mirrored(neck)], BODY, stroke=1.0)
    under = [(-0.5, 0.9), (-0.36, 1.3), (0.05, 1.52), (0.36, 1.42), (0.5, 0.9)]
    scene.tone(tone_table(SHADE, SKIN), under, BODY)
    for side in (-1, 1):
        scene.line([(side * 0.12, 1.86), (side * 0.4, 1.8), (side * 0.66, 1.84)], BODY, 0.55)
    _CUTS[clothes.cut](scene, clothes, raised)


def _draw_torso(scene: Scene, clothes: Clothes, raised: int, neckline: Points) -> None:
    """The garment's body and sleeves; `neckline` runs from the right to the left shoulder."""
    outline = [*_torso(clothes, raised), *neckline]
    scene.fill(CLOTHES, outline, BODY, stroke=1.15, taper=(0.8, 0.8))
    s = clothes.shoulders
    for side in (-1, 1):
        arm = [(side * (s - 0.28), 2.5), (side * (s - 0.3), 3.2), (side * (s - 0.22), 4.4)]
        scene.line(arm, BODY, 0.9, taper=(0.3, 1.0))
        scene.line([(side * (s - 0.1), 2.62), (side * (s - 0.3), 2.75)], BODY, 0.5)
    shade = [
        (s - 0.3, 2.4), (s + 0.1, 2.5), (s + 0.4, 3.0), (s + 0.4, 7.4), (s - 0.2, 7.4),
        (s - 0.26, 4.0),
    ]  # fmt: skip
    scene.tone(tone_table(SHADE, CLOTHES), shade, BODY)
    left = [(-s + 0.28, 2.6), (-s + 0.3, 3.4), (-s + 0.2, 7.4), (-s + 0.52, 7.4), (-s + 0.46, 3.4)]
    scene.tone(tone_table(SHADE, CLOTHES), left, BODY)


def _symmetric(scene: Scene, slot: int, right: Points, **keywords) -> None:
    scene.fill(slot, right, BODY, **keywords)
    scene.fill(slot, mirrored(right), BODY, **keywords)


def _shade_accent(scene: Scene, points: Points) -> None:
    scene.tone(tone_table(SHADE, ACCENT), points, BODY)


def _bow(scene: Scene, slot: int, x: float, y: float, r: float) -> None:
    """A ribbon bow on the chest."""
    for side in (-1, 1):
        tail = [
            (x, y, 1), (x + side * 0.35 * r, y + 0.5 * r), (x + side * 0.75 * r, y + 1.3 * r, 1),
            (x + side * 0.2 * r, y + 1.15 * r), (x + side * 0.1 * r, y + 0.6 * r),
        ]  # fmt: skip
        scene.fill(slot, tail, BODY, stroke=0.9)
    for side in (-1, 1):
        loop = [
            (x, y, 1), (x + side * 0.6 * r, y - 0.5 * r), (x + side * 1.05 * r, y - 0.38 * r),
            (x + side * 1.0 * r, y + 0.4 * r), (x + side * 0.5 * r, y + 0.36 * r),
        ]  # fmt: skip
        scene.fill(slot, loop, BODY, stroke=0.9)
        scene.line([(x + side * 0.2 * r, y), (x + side * 0.6 * r, y - 0.08 * r)], BODY, 0.5)
    k = 0.24 * r
    scene.fill(
        slot, [(x - k, y - k), (x + k, y - k), (x + k, y + k), (x - k, y + k)], BODY, stroke=0.9
    )


def _sailor(scene: Scene, clothes: Clothes, raised: int) -> None:
    _draw_torso(scene, clothes, raised, [(-0.2, 2.1), (0.0, 2.5, 1), (0.2, 2.1)])
    s = clothes.shoulders
    collar = [
        (0.36, 1.56, 1), (0.75, 1.74), (s * 0.9, 2.0, 1), (s * 0.72, 2.35), (0.42, 2.62),
        (0.0, 3.0, 1), (0.12, 2.4), (0.3, 1.95),
    ]  # fmt: skip
    _symmetric(scene, ACCENT, collar)
    for side in (-1, 1):
        stripe = [(side * s * 0.8, 2.02), (side * s * 0.6, 2.3), (side * 0.34, 2.54), (0.0, 2.84)]
        scene.line(stripe, BODY, 0.7, taper=(0.9, 0.9))
    _shade_accent(scene, [(0.1, 2.9), (0.5, 2.5), (1.2, 2.1), (1.3, 2.3), (0.6, 2.8)])
    _bow(scene, ACCENT, 0.0, 3.0, 0.42)


def _shirt(scene: Scene, clothes: Clothes, raised: int) -> None:
    _draw_torso(scene, clothes, raised, [(-0.22, 1.75), (0.0, 2.0, 1), (0.22, 1.75)])
    scene.line([(0.0, 2.0), (0.03, 3.0), (0.0, 7.0)], BODY, 0.8)
    tie = [
        (-0.12, 1.98, 1), (0.12, 1.98, 1), (0.1, 2.22), (0.24, 3.2), (0.0, 3.9, 1), (-0.24, 3.2),
        (-0.1, 2.22),
    ]  # fmt: skip
    scene.fill(ACCENT, tie, BODY)
    scene.line([(-0.1, 2.24), (0.1, 2.24)], BODY, 0.7)
    _shade_accent(scene, [(0.0, 2.25), (0.1, 2.25), (0.3, 3.2), (0.0, 3.9), (0.08, 3.0)])
    collar = [
        (0.38, 1.42, 1), (0.5, 1.75), (0.52, 2.1, 1), (0.2, 2.12), (0.0, 1.95, 1), (0.25, 1.8),
    ]  # fmt: skip
    _symmetric(scene, ACCENT, collar)


def _blazer(scene: Scene, clothes: Clothes, raised: int) -> None:
    _draw_torso(scene, clothes, raised, [(-0.3, 2.2), (0.0, 3.6, 1), (0.3, 2.2)])
    front = [(0.3, 1.6, 1), (0.4, 2.2), (0.0, 3.6, 1), (-0.4, 2.2), (-0.3, 1.6, 1), (0.0, 2.0, 1)]
    scene.fill(ACCENT, front, BODY)
    _shade_accent(scene, [(0.05, 2.0), (0.4, 1.9), (0.3, 2.7), (0.0, 3.6), (0.12, 2.6)])
    lapel = [
        (0.34, 1.5, 1), (0.78, 1.72), (0.82, 2.2, 1), (0.68, 2.26, 1), (0.72, 2.5, 1),
        (0.4, 3.0), (0.0, 3.65, 1), (0.22, 2.6),
    ]  # fmt: skip
    _symmetric(scene, CLOTHES, lapel)
    _bow(scene, ACCENT, 0.0, 2.12, 0.34)


def _hoodie(scene: Scene, clothes: Clothes, raised: int) -> None:
    hood = [(0.55, 1.2), (1.05, 1.4), (1.1, 1.85), (0.6, 2.2), (0.0, 2.3)]
    scene.fill(CLOTHES, [*hood, *mirrored(hood[:-1])], BODY, stroke=1.1)
    _draw_torso(scene, clothes, raised, [(-0.25, 1.85), (0.0, 2.05), (0.25, 1.85)])
    lining = [(0.34, 1.35, 1), (0.62, 1.6), (0.5, 2.0), (0.0, 2.35, 1), (0.1, 2.0), (0.3, 1.75)]
    _symmetric(scene, ACCENT, lining)
    for side in (-1, 1):
        rim = [
            (side * 0.62, 1.42, 1), (side * 1.06, 1.62), (side * 0.8, 2.1), (0.0, 2.52, 1),
            (side * 0.42, 2.05), (side * 0.6, 1.75),
        ]  # fmt: skip
        scene.fill(CLOTHES, rim, BODY)
        cord = [(side * 0.26, 2.25), (side * 0.33, 2.25), (side * 0.36, 3.0), (side * 0.27, 3.0)]
        scene.fill(ACCENT, cord, BODY, stroke=0.8)
    pocket = [(0.8, 4.2, 1), (1.0, 5.0), (1.0, 5.4, 1), (-1.0, 5.4, 1), (-1.0, 5.0), (-0.8, 4.2, 1)]
    scene.fill(ACCENT, pocket, BODY)


def _sweater(scene: Scene, clothes: Clothes, raised: int) -> None:
    _draw_torso(scene, clothes, raised, [(0.0, 1.8)])
    neck = [(0.36, 1.24), (0.46, 1.5), (0.42, 1.76), (0.0, 1.86)]
    scene.fill(ACCENT, [(0.0, 1.36), *neck, *mirrored(neck[:-1])], BODY)
    for x in (-0.24, 0.0, 0.24):
        scene.line([(x, 1.42), (x * 1.05, 1.78)], BODY, 0.5)
    _shade_accent(scene, [(0.2, 1.3), (0.5, 1.3), (0.5, 1.8), (0.1, 1.9)])
    s = clothes.shoulders + 0.4
    for y in (2.55, 2.95):
        band = [
            (-s, y, 1), (0.0, y + 0.08), (s, y, 1), (s, y + 0.22, 1), (0.0, y + 0.3),
            (-s, y + 0.22, 1),
        ]  # fmt: skip
        table = tone_table(0, CLOTHES).copy()
        table[CLOTHES], table[CLOTHES + SHADE] = ACCENT, ACCENT + SHADE
        scene.tone(table, band, BODY)
        for dy in (0.0, 0.22):
            scene.line(
                [(1 - s, y + dy + 0.04), (0.0, y + 0.08 + dy), (s - 1, y + dy + 0.04)],
                BODY,
                0.7,
                (0.9, 0.9),
            )


def _dress(scene: Scene, clothes: Clothes, raised: int) -> None:
    s = clothes.shoulders
    shoulder = [(0.36, 1.6, 1), (0.62, 1.72), (s * 0.84, 1.86), (s + 0.02, 2.14), (s + 0.05, 3.0)]
    hanging = [*shoulder, (s + 0.02, 4.2), (s + 0.14, 5.6), (s + 0.1, 7.4, 1), (s - 0.3, 7.4, 1)]
    hanging += [(s - 0.3, 5.4), (s - 0.42, 3.6, 1)]
    bent = [*shoulder, (s + 0.1, 3.7), (s - 0.3, 4.1), (s - 0.42, 3.2, 1)]
    right, left = (bent if raised == side else hanging for side in (1, -1))
    scene.fill(SKIN, [*right, *mirrored(left)], BODY, stroke=1.1)
    scene.tone(
        tone_table(SHADE, SKIN),
        [(s - 0.25, 2.4), (s + 0.2, 2.3), (s + 0.2, 3.8), (s - 0.2, 3.8)],
        BODY,
    )
    for side in (-1, 1):
        scene.line([(side * 0.12, 1.86), (side * 0.4, 1.8), (side * 0.66, 1.84)], BODY, 0.55)
    body = [
        (0.0, 2.72), (0.45, 2.52), (0.86, 2.5, 1), (s - 0.3, 3.0), (0.95, 3.9), (1.35, 5.2),
        (1.7, 7.4, 1),
    ]  # fmt: skip
    scene.fill(CLOTHES, [*body, *mirrored(body[1:])], BODY, stroke=1.1)
    scene.tone(
        tone_table(SHADE, CLOTHES),
        [(0.6, 2.6), (1.2, 2.6), (1.6, 7.4), (0.9, 7.4), (0.5, 4.0)],
        BODY,
    )
    strap = [(0.58, 1.7, 1), (0.74, 1.78, 1), (0.84, 2.54, 1), (0.66, 2.56, 1)]
    _symmetric(scene, CLOTHES, strap, stroke=0.8)
    n = 7
    frill: list[tuple[float, ...]] = [(-0.95, 2.5, 1)]
    for i in range(n):
        x = -0.95 + 1.9 * (i + 0.5) / n
        drop = 2.78 + 0.16 * (1 - x * x)
        frill += [(x, drop + 0.06), (-0.95 + 1.9 * (i + 1) / n, drop - 0.06, 1)]
    frill += [(0.95, 2.5), (0.45, 2.42), (0.0, 2.56), (-0.45, 2.42)]
    scene.fill(ACCENT, frill, BODY, stroke=0.9)
    _bow(scene, ACCENT, 0.0, 2.75, 0.3)


def _kimono(scene: Scene, clothes: Clothes, raised: int) -> None:
    _draw_torso(scene, clothes, raised, [(-0.25, 1.9), (0.0, 2.5, 1), (0.25, 1.9)])
    under = [
        (-0.4, 1.5, 1), (-0.16, 1.9), (0.24, 2.6, 1), (0.5, 3.9), (0.66, 4.0, 1), (0.3, 2.9),
        (-0.3, 2.0), (-0.56, 1.62, 1),
    ]  # fmt: skip
    scene.fill(ACCENT, mirrored(under), BODY)
    scene.fill(ACCENT, under, BODY)
    _shade_accent(scene, [(0.1, 2.5), (0.24, 2.5), (0.6, 4.0), (0.5, 4.0)])
    sash = [
        (-1.15, 3.75, 1), (0.0, 3.85), (1.15, 3.75, 1), (1.2, 4.7, 1), (0.0, 4.8),
        (-1.2, 4.7, 1),
    ]  # fmt: skip
    scene.fill(ACCENT, sash, BODY)
    for side in (-1, 1):
        x, y = side * (clothes.shoulders - 0.5), 2.75
        ring = [
            (x + 0.2, y), (x + 0.06, y - 0.19), (x - 0.16, y - 0.12), (x - 0.16, y + 0.12),
            (x + 0.06, y + 0.19),
        ]  # fmt: skip
        scene.fill(ACCENT, ring, BODY, stroke=0.7)


def _tshirt(scene: Scene, clothes: Clothes, raised: int) -> None:
    _draw_torso(scene, clothes, raised, [(-0.3, 1.95), (0.0, 2.08), (0.3, 1.95)])
    collar = [
        (0.36, 1.56, 1), (0.46, 1.64, 1), (0.3, 2.1), (0.0, 2.24), (-0.3, 2.1), (-0.46, 1.64, 1),
        (-0.36, 1.56, 1), (-0.24, 1.94), (0.0, 2.06), (0.24, 1.94),
    ]  # fmt: skip
    scene.fill(ACCENT, collar, BODY, stroke=0.8)
    star = []
    for i, (x, y) in enumerate(_STAR):
        r = 0.46 if i % 2 == 0 else 0.2
        star.append((x * r, 3.02 + y * r, 1))
    scene.fill(ACCENT, star, BODY, stroke=0.9)
    _shade_accent(scene, [(0.1, 2.5), (0.6, 2.8), (0.4, 3.5), (0.1, 3.3)])


_STAR = (
    (0.0, -1.0), (0.588, -0.809), (0.951, -0.309), (0.951, 0.309), (0.588, 0.809), (0.0, 1.0),
    (-0.588, 0.809), (-0.951, 0.309), (-0.951, -0.309), (-0.588, -0.809),
)  # fmt: skip


def _cape(scene: Scene, clothes: Clothes, raised: int) -> None:
    _draw_torso(scene, clothes, raised, [(-0.3, 1.9), (0.0, 2.0), (0.3, 1.9)])
    s = clothes.shoulders
    shirt = [
        (0.3, 1.55, 1), (0.75, 1.8), (0.7, 4.0), (0.9, 7.4, 1), (-0.9, 7.4, 1), (-0.7, 4.0),
        (-0.75, 1.8), (-0.3, 1.55, 1), (0.0, 1.75),
    ]  # fmt: skip
    scene.fill(ACCENT, shirt, BODY)
    _shade_accent(scene, [(0.3, 1.8), (0.8, 1.8), (0.8, 5.0), (0.5, 5.0), (0.45, 3.0)])
    cape = [
        (0.38, 1.4, 1), (0.8, 1.62), (s + 0.15, 2.0), (s + 0.5, 3.2), (s + 0.6, 7.4, 1),
        (0.75, 7.4, 1), (0.66, 3.4), (0.3, 2.2, 1), (0.5, 1.8),
    ]  # fmt: skip
    _symmetric(scene, CLOTHES, cape, stroke=1.1)
    scene.tone(
        tone_table(SHADE, CLOTHES),
        [(0.4, 2.2), (0.8, 2.6), (0.95, 4.0), (0.95, 7.4), (0.7, 7.4), (0.6, 3.4)],
        BODY,
    )
    scene.tone(
        tone_table(SHADE, CLOTHES),
        [(s + 0.1, 2.2), (s + 0.5, 3.0), (s + 0.7, 7.4), (s + 0.2, 7.4), (s + 0.2, 3.4)],
        BODY,
    )
    _bow(scene, ACCENT, 0.0, 2.12, 0.36)


def _maid(scene: Scene, clothes: Clothes, raised: int) -> None:
    _draw_torso(scene, clothes, raised, [(0.0, 1.75)])
    apron = [
        (0.5, 1.95, 1), (0.62, 2.6), (0.66, 3.8), (1.4, 5.0), (1.5, 7.4, 1), (-1.5, 7.4, 1),
        (-1.4, 5.0), (-0.66, 3.8), (-0.62, 2.6), (-0.5, 1.95, 1), (0.0, 2.35),
    ]  # fmt: skip
    scene.fill(ACCENT, apron, BODY)
    _shade_accent(scene, [(0.35, 2.2), (0.7, 2.0), (0.7, 4.0), (0.42, 4.0)])
    frill = [
        (0.4, 1.72, 1), (0.8, 1.62), (1.16, 1.85), (1.22, 2.15, 1), (1.05, 2.1, 1),
        (0.98, 2.3, 1), (0.82, 2.2, 1), (0.74, 2.4, 1), (0.5, 2.1),
    ]  # fmt: skip
    _symmetric(scene, ACCENT, frill, stroke=0.9)
    collar = [
        (0.0, 1.62), (0.36, 1.46, 1), (0.52, 1.66), (0.42, 1.96, 1), (0.15, 1.9), (0.0, 1.78, 1),
    ]  # fmt: skip
    _symmetric(scene, ACCENT, collar[1:], stroke=0.9)
    _bow(scene, CLOTHES, 0.0, 1.98, 0.34)


_CUTS: dict[str, Callable[[Scene, Clothes, int], None]] = {
    "school_uniform": _sailor,
    "shirt": _shirt,
    "blazer": _blazer,
    "hoodie": _hoodie,
    "sweater": _sweater,
    "dress": _dress,
    "kimono": _kimono,
    "t-shirt": _tshirt,
    "cape": _cape,
    "maid": _maid,
}
