"""Hair: behind the body, hanging before it, side locks, bangs and strands that stand up."""

from dataclasses import dataclass

from data.illustrations.canvas.palette import ACCESSORY, HAIR, LIGHT, SHADE, SKIN, tone_table
from data.illustrations.canvas.scene import BACK, HEAD, Points, Scene
from data.illustrations.canvas.seeds import Dice
from data.illustrations.parts.face import mirrored

STYLES = {
    "short_hair": 2.0,
    "bob_cut": 2.5,
    "medium_hair": 2.0,
    "long_hair": 3.0,
    "twintails": 2.5,
    "low_twintails": 1.5,
    "ponytail": 2.0,
    "side_ponytail": 1.5,
    "twin_braids": 1.5,
    "double_bun": 1.5,
    "spiky_hair": 1.5,
}
BANGS = {
    "blunt_bangs": 2.0,
    "crossed_bangs": 2.5,
    "parted_bangs": 1.5,
    "swept_bangs": 2.5,
    "ragged_bangs": 2.0,
}


@dataclass(frozen=True)
class Hair:
    """A hair cut.

    Attributes:
        style, bangs: names from `STYLES` and `BANGS`.
        volume: how far the hair stands off the skull, 1 is usual.
        side_locks: length of the locks before the ears, 0 none.
        ahoge: lean of a strand standing up: -1, 1, or 0 for none.
        side: where one-sided things are.
        wave: how wavy long outlines are, 0..1.
        jitter: small numbers in -1..1 for the tips.
    """

    style: str
    bangs: str
    volume: float
    side_locks: float
    ahoge: int
    side: int
    wave: float
    jitter: tuple[float, ...]


def hair_of(dice: Dice) -> Hair:
    """Draws a hair cut."""
    style = dice.weighted(STYLES)
    locks = {0.0: 1.5, 0.85: 2, 1.2: 2.5, 1.9: 1.5}
    if style in ("short_hair", "spiky_hair"):
        locks = {0.0: 3, 0.7: 2}
    return Hair(
        style=style,
        bangs=dice.weighted(BANGS),
        volume=dice.uniform(0.96, 1.06),
        side_locks=dice.weighted(locks),
        ahoge=dice.weighted({0: 6, 1: 2, -1: 2}),
        side=dice.sign(),
        wave=dice.unit(),
        jitter=tuple(dice.uniform(-1, 1) for _ in range(16)),
    )


def _strands(scene: Scene, lines: list[Points], frame: int, weight: float = 0.55) -> None:
    for points in lines:
        scene.line(points, frame, weight, taper=(0.7, 0.05))


def draw_back_hair(scene: Scene, hair: Hair) -> None:
    """Everything behind neck and shoulders."""
    style = hair.style
    if style in ("ponytail", "side_ponytail"):
        _draw_ponytail(scene, hair)
    if style == "twintails":
        for side in (-1, 1):
            _draw_twintail(scene, hair, side)
    if style == "double_bun":
        for side in (-1, 1):
            _draw_bun(scene, side)
    outline = {
        "bob_cut": _bob,
        "medium_hair": _medium,
        "long_hair": _long,
    }.get(style, _nape)(hair)
    scene.fill(HAIR, outline, BACK, stroke=1.15, taper=(0.7, 0.6))
    inside = [(-0.98, 0.1), (-1.02, 0.9), (-0.9, 2.2), (0.9, 2.2), (1.02, 0.9), (0.98, 0.1)]
    scene.tone(tone_table(SHADE, HAIR), inside, BACK)
    if style in ("long_hair", "medium_hair", "bob_cut"):
        low = {"bob_cut": 1.15, "medium_hair": 1.7, "long_hair": 3.0}[style]
        _strands(
            scene,
            [[(s * 1.26, low), (s * 1.3, low * 0.7), (s * 1.2, low * 0.35)] for s in (-1, 1)],
            BACK,
        )


def _nape(hair: Hair) -> Points:
    v = 1.17 * hair.volume
    right = [(v * 0.8, -1.0), (v, -0.3), (v * 1.02, 0.35), (v * 0.93, 0.95, 1), (0.6, 0.98)]
    return [(0, -1.25), *right, (0.42, 1.12, 1), (0.0, 1.1), (-0.42, 1.12, 1), *_rest(right)]


def _rest(right: Points) -> list[tuple[float, ...]]:
    return mirrored(right)


def _bob(hair: Hair) -> Points:
    v, j = 1.18 * hair.volume, hair.jitter
    right = [
        (v * 0.8, -1.0), (v, -0.3), (v * 1.14, 0.45), (v * 1.14, 1.05),
        (v * 0.86, 1.42 + 0.05 * j[0], 1), (v * 0.72, 1.3), (v * 0.56, 1.34, 1), (v * 0.5, 1.42),
        (v * 0.34, 1.44, 1),
    ]  # fmt: skip
    return [(0, -1.25), *right, (0, 1.36), *mirrored(right)]


def _medium(hair: Hair) -> Points:
    v, j, w = 1.18 * hair.volume, hair.jitter, hair.wave
    right = [
        (v * 0.8, -1.0), (v, -0.3), (v * 1.12, 0.5), (v * (1.08 + 0.08 * w), 1.2),
        (v * (1.2 + 0.12 * w), 2.05 + 0.1 * j[0], 1), (v * 1.02, 1.9), (v * 0.96, 1.85, 1),
        (v * 0.9, 2.1), (v * 0.8, 2.25 + 0.08 * j[1], 1), (v * 0.6, 2.1),
    ]  # fmt: skip
    return [(0, -1.25), *right, (0, 2.1), *mirrored(right)]


def _long(hair: Hair) -> Points:
    v, w = 1.18 * hair.volume, hair.wave
    sides = []
    for s in (1, -1):
        j = hair.jitter[:6] if s > 0 else hair.jitter[6:12]
        side = [
            (v * 0.8, -1.0), (v, -0.3), (v * 1.13, 0.6), (v * (1.22 - 0.08 * w), 1.5),
            (v * (1.3 + 0.12 * w), 2.5), (v * (1.28 - 0.05 * w), 3.4),
            (v * (1.3 + 0.08 * j[0]), 4.2 + 0.2 * j[1], 1), (v * 1.05, 3.9), (v * 0.98, 3.7, 1),
            (v * 0.9, 4.1), (v * (0.75 + 0.08 * j[2]), 4.5 + 0.2 * j[3], 1), (v * 0.5, 4.2),
        ]  # fmt: skip
        sides.append(side)
    return [(0, -1.25), *sides[0], (0, 4.1), *mirrored(sides[1])]


def _draw_ponytail(scene: Scene, hair: Hair) -> None:
    s, j, w = hair.side, hair.jitter, hair.wave
    if hair.style == "ponytail":
        tail = [
            (0.35, -1.15, 1), (0.95, -1.62), (1.7, -1.2), (1.98 + 0.1 * w, -0.2),
            (1.82 - 0.1 * w, 0.9), (1.95 + 0.2 * j[0], 2.1 + 0.2 * j[1], 1), (1.6, 1.7),
            (1.5, 1.45, 1), (1.42, 1.75), (1.38 + 0.1 * j[2], 1.95, 1), (1.2, 0.9), (1.25, 0.0),
            (0.9, -0.7, 1),
        ]  # fmt: skip
        strands = [[(1.62, 1.1), (1.72, 0.1), (1.35, -0.9)], [(1.4, 0.9), (1.5, 0.1), (1.2, -0.75)]]
    else:
        tail = [
            (0.9, -0.75, 1), (1.45, -0.95), (1.85, -0.4), (1.95 + 0.1 * w, 0.6),
            (1.8 - 0.1 * w, 1.6), (1.9 + 0.15 * j[0], 2.7 + 0.2 * j[1], 1), (1.6, 2.3),
            (1.45 + 0.1 * j[2], 2.5, 1), (1.25, 1.5), (1.3, 0.5), (1.05, -0.2, 1),
        ]  # fmt: skip
        strands = [[(1.65, 1.9), (1.6, 0.7), (1.4, -0.4)]]
    scene.fill(HAIR, [(s * x, *rest) for x, *rest in tail], BACK, stroke=1.15)
    shade = [(1.35, -0.5), (1.5, 0.3), (1.45, 1.3), (1.6, 2.2), (1.2, 2.2), (1.0, 0.5), (0.9, -0.5)]
    scene.tone(tone_table(SHADE, HAIR), [(s * x, y) for x, y in shade], BACK)
    _strands(scene, [[(s * x, y) for x, y in line] for line in strands], BACK)


def _draw_twintail(scene: Scene, hair: Hair, side: int) -> None:
    j, w = hair.jitter[4 if side > 0 else 8 :], hair.wave
    tail = [
        (0.95, -0.85, 1), (1.45, -1.05), (1.95, -0.5), (2.12 + 0.1 * w, 0.5),
        (1.98 - 0.12 * w, 1.5), (2.05 + 0.1 * w, 2.2), (1.9 + 0.2 * j[0], 3.1 + 0.25 * j[1], 1),
        (1.7, 2.5), (1.62, 2.3, 1), (1.58, 2.6), (1.45 + 0.1 * j[2], 2.85, 1), (1.38, 1.9),
        (1.42, 0.9), (1.35, 0.1), (1.05, -0.35, 1),
    ]  # fmt: skip
    scene.fill(HAIR, [(side * x, *rest) for x, *rest in tail], BACK, stroke=1.15)
    shade = [(1.2, -0.4), (1.5, 0.3), (1.6, 1.2), (1.6, 2.4), (1.3, 2.4), (1.2, 0.9)]
    scene.tone(tone_table(SHADE, HAIR), [(side * x, y) for x, y in shade], BACK)
    gloss = [(1.5, -0.45), (1.85, -0.2), (1.95, 0.1), (1.8, 0.05), (1.72, 0.2), (1.6, -0.05)]
    scene.tone(tone_table(LIGHT, HAIR), [(side * x, y) for x, y in gloss], BACK)
    lines = [[(1.75, 2.0), (1.78, 0.9), (1.55, -0.4)], [(1.9, 1.2), (1.92, 0.5), (1.7, -0.3)]]
    _strands(scene, [[(side * x, y) for x, y in line] for line in lines], BACK)


def _draw_bun(scene: Scene, side: int) -> None:
    ring = [(1.2, -1.05), (1.12, -1.42), (0.8, -1.58), (0.5, -1.4), (0.5, -1.0), (0.85, -0.75)]
    scene.fill(HAIR, [(side * x, y) for x, y in ring], BACK, stroke=1.15)
    shade = [(1.2, -1.05), (0.95, -0.98), (0.7, -1.1), (0.5, -1.0), (0.85, -0.75)]
    scene.tone(tone_table(SHADE, HAIR), [(side * x, y) for x, y in shade], BACK)
    scene.line([(side * x, y) for x, y in [(0.7, -1.15), (0.85, -1.35), (1.05, -1.2)]], BACK, 0.6)


def draw_hanging_hair(scene: Scene, hair: Hair) -> None:
    """Braids and tails before the shoulders."""
    if hair.style == "low_twintails":
        for side in (-1, 1):
            _draw_low_tail(scene, hair, side)
    if hair.style == "twin_braids":
        for side in (-1, 1):
            _draw_braid(scene, side)


def _draw_low_tail(scene: Scene, hair: Hair, side: int) -> None:
    j = hair.jitter[4 if side > 0 else 8 :]
    tail = [
        (0.82, 1.02, 1), (1.25, 1.15), (1.42, 1.8), (1.32, 2.6),
        (1.2 + 0.1 * j[0], 3.4 + 0.2 * j[1], 1), (1.02, 2.9), (0.9, 3.1 + 0.1 * j[2], 1),
        (0.82, 2.3), (0.86, 1.6), (0.8, 1.2, 1),
    ]  # fmt: skip
    scene.fill(HAIR, [(side * x, *rest) for x, *rest in tail], BACK, stroke=1.15)
    shade = [(0.95, 1.1), (1.05, 1.8), (1.0, 2.8), (0.8, 2.8), (0.75, 1.4)]
    scene.tone(tone_table(SHADE, HAIR), [(side * x, y) for x, y in shade], BACK)
    _strands(scene, [[(side * 1.12, 2.6), (side * 1.2, 2.0), (side * 1.05, 1.3)]], BACK)
    _draw_tie(scene, side * 0.92, 1.08)


def _draw_tie(scene: Scene, x: float, y: float, frame: int = BACK) -> None:
    r = 0.16
    scene.fill(
        ACCESSORY,
        [
            (x - r, y - 0.09), (x, y - 0.13), (x + r, y - 0.09), (x + r, y + 0.09),
            (x, y + 0.13), (x - r, y + 0.09),
        ],
        frame,
        stroke=0.8,
    )  # fmt: skip


def _draw_braid(scene: Scene, side: int) -> None:
    x, y, r = 0.98, 1.1, 0.25
    tip = [(x - 0.1, 2.85, 1), (x + 0.02, 3.0), (x, 3.25, 1), (x + 0.14, 3.0), (x + 0.12, 2.85, 1)]
    scene.fill(HAIR, [(side * a, *b) for a, *b in tip], BACK)
    for i in range(6, -1, -1):
        cy = y + 0.27 * i
        size = r * (1.0 - 0.05 * i)
        lean = 0.07 if i % 2 else -0.07
        knot = [
            (x - size, cy - 0.1 + lean), (x, cy - 0.17), (x + size, cy - 0.1 - lean),
            (x + size * 0.7, cy + 0.14), (x, cy + 0.2), (x - size * 0.7, cy + 0.14),
        ]  # fmt: skip
        scene.fill(HAIR, [(side * a, b) for a, b in knot], BACK)
        low = [
            (x - size * 0.8, cy + 0.05), (x, cy + 0.08), (x + size * 0.8, cy + 0.05),
            (x, cy + 0.22),
        ]  # fmt: skip
        scene.tone(tone_table(SHADE, HAIR), [(side * a, b) for a, b in low], BACK)
    _draw_tie(scene, side * x, 2.83)


def draw_side_locks(scene: Scene, hair: Hair) -> None:
    """Locks before the ears."""
    if not hair.side_locks:
        return
    length = hair.side_locks
    for side in (-1, 1):
        j = hair.jitter[3 if side > 0 else 9]
        lock = [
            (0.72, -0.55, 1), (1.16, -0.25), (1.2, 0.3), (1.12 + 0.06 * hair.wave, length * 0.7),
            (1.0 + 0.08 * j, length + 0.05 * j, 1), (0.92, length * 0.7), (0.83, 0.35),
            (0.86, -0.1, 1),
        ]  # fmt: skip
        scene.fill(HAIR, [(side * x, *rest) for x, *rest in lock], HEAD, stroke=(1.1, 0.9, 0.0))
        shade = [
            (1.14, length * 0.55), (1.06, length * 0.8), (1.0, length * 1.05),
            (0.9, length * 0.7), (0.85, 0.4), (0.98, 0.5),
        ]  # fmt: skip
        scene.tone(tone_table(SHADE, HAIR), [(side * x, y) for x, y in shade])
        _strands(
            scene, [[(side * 1.02, length * 0.75), (side * 1.04, 0.2), (side * 0.98, -0.2)]], HEAD
        )


def _tips(hair: Hair) -> tuple[list[tuple[float, float]], float]:
    """Tips of the bangs from right to left, and the height of the valleys between them."""
    j, s = hair.jitter, hair.side
    if hair.bangs == "blunt_bangs":
        return [
            (x, 0.1 + 0.02 * j[i]) for i, x in enumerate((0.8, 0.48, 0.16, -0.16, -0.48, -0.8))
        ], -0.02
    if hair.bangs == "crossed_bangs":
        tips = [(0.78, 0.34), (0.36, 0.12), (0.04 * s, 0.42), (-0.34, 0.1), (-0.78, 0.34)]
    elif hair.bangs == "parted_bangs":
        tips = [
            (0.92, 0.5), (0.66, 0.26), (0.36, -0.12), (-0.36, -0.12), (-0.66, 0.26),
            (-0.92, 0.5),
        ]  # fmt: skip
    elif hair.bangs == "swept_bangs":
        tips = [(0.85, 0.3), (0.6, -0.05), (0.15, 0.05), (-0.3, 0.2), (-0.78, 0.42)]
    else:
        tips = [
            (0.84, 0.2), (0.56, 0.3), (0.26, 0.08), (-0.02, 0.32), (-0.36, 0.12), (-0.6, 0.34),
            (-0.86, 0.2),
        ]  # fmt: skip
    tips = [(x + 0.05 * j[i], y + 0.05 * j[i + 7]) for i, (x, y) in enumerate(tips)]
    if s < 0 and hair.bangs == "swept_bangs":
        tips = [(-x, y) for x, y in reversed(tips)]
    return tips, -0.28


def _crown(hair: Hair) -> list[tuple[float, ...]]:
    """The skull's silhouette from the left temple to the right one."""
    v = hair.volume
    if hair.style == "spiky_hair":
        j = hair.jitter
        right = []
        for i, (x, y, dx, dy) in enumerate(
            ((0.35, -1.32, 0.12, -0.34), (0.85, -1.08, 0.34, -0.22), (1.16, -0.5, 0.38, -0.02))
        ):
            right.append((x - 0.14, y - 0.06, 1))
            right.append((x + dx * 0.5 + 0.03, y + dy * 0.8))
            right.append((x + dx + 0.06 * j[i], y + dy + 0.06 * j[i + 3], 1))
            right.append((x + dx * 0.4 + 0.07, y + dy * 0.3 + 0.08))
        right.append((1.17, -0.1, 1))
        return [*mirrored(right), *right]
    right = [(0.55, -1.25), (0.97, -0.9), (1.19, -0.35)]
    right = [(x * v, y * v) for x, y in right]
    return [*mirrored(right), (0, -1.36 * v), *right]


def draw_bangs(scene: Scene, hair: Hair) -> None:
    """The cap of hair over the forehead, its shadow, gloss and strands."""
    tips, valley = _tips(hair)
    outline: list[tuple[float, ...]] = [(-1.14, 0.3, 1), *_crown(hair), (1.14, 0.3, 1)]
    strands = []
    at = (1.0, -0.12)
    outline += [((1.06 + at[0]) / 2, 0.02), (*at, 1)]
    for i, (x, y) in enumerate(tips):
        next_x = tips[i + 1][0] if i + 1 < len(tips) else -1.0
        end = ((x + next_x) / 2, valley) if i + 1 < len(tips) else (-1.0, -0.12)
        if hair.bangs == "parted_bangs" and i == 2:
            end = (0.0, -0.78)
        lean = 0.05 if x > 0 else -0.05
        if hair.bangs == "swept_bangs":
            lean = 0.06 * hair.side
        outline.append((at[0] + (x - at[0]) * 0.5 + 0.04 + lean, at[1] + (y - at[1]) * 0.55))
        outline.append((x, y, 1))
        outline.append((end[0] + (x - end[0]) * 0.5 - 0.04 + lean, end[1] + (y - end[1]) * 0.55))
        outline.append((*end, 1))
        if i + 1 < len(tips):
            strands.append(
                [end, (end[0] * 0.9 + lean, end[1] - 0.25), (end[0] * 0.6, end[1] - 0.5)]
            )
        at = end
    outline.append(((-1.06 + at[0]) / 2, 0.02))
    shadow = [(x + 0.02, y + 0.1 if y > -0.6 else y, *c) for x, y, *c in outline]
    scene.tone(tone_table(SHADE, SKIN), shadow)
    scene.fill(HAIR, outline, stroke=[1.2] + [0.9] * 40, taper=(0.8, 0.5))
    rim = [(0.85, -1.1), (1.3, -0.5), (1.3, 0.4), (0.98, 0.45), (1.0, -0.1), (0.9, -0.6)]
    scene.tone(tone_table(SHADE, HAIR), rim)
    scene.tone(tone_table(SHADE, HAIR), _between_bangs(strands))
    _draw_gloss(scene, hair)
    _strands(scene, strands, HEAD)
    if hair.ahoge:
        _draw_ahoge(scene, hair)


def _between_bangs(strands: list[Points]) -> Points:
    """The shadow where two bangs part: a peak up every strand, joined below the tips."""
    outline: list[tuple[float, ...]] = [(0.8, 0.75, 1)]
    for (x, y), _, (top_x, top_y) in strands:
        outline += [(x + 0.11, y + 0.2, 1), (0.5 * (x + top_x), 0.5 * (y + top_y) - 0.08, 1)]
        outline += [(x - 0.03, y + 0.2, 1), (x - 0.03, 0.75, 1), (x - 0.06, 0.75, 1)]
    return [*outline, (-0.8, 0.75, 1)]


def _draw_gloss(scene: Scene, hair: Hair) -> None:
    j = hair.jitter
    upper = [(-0.86, -0.52), (-0.5, -0.72), (0.0, -0.8), (0.5, -0.72), (0.78, -0.58)]
    lower = [(0.66, -0.46, 1), (0.5, -0.58), (0.4, -0.4, 1), (0.26, -0.62), (0.1, -0.48, 1)]
    lower += [(-0.06, -0.66), (-0.26, -0.42, 1), (-0.4, -0.6), (-0.62, -0.3, 1), (-0.7, -0.45)]
    lower = [(x + 0.03 * j[i], y, *c) for i, (x, y, *c) in enumerate(lower)]
    first, *rest = upper
    scene.tone(tone_table(LIGHT, HAIR), [(*first, 1), *rest[:-1], (*rest[-1], 1), *lower])


def _draw_ahoge(scene: Scene, hair: Hair) -> None:
    s = hair.ahoge
    strand = [
        (-0.1, -1.28, 1), (-0.05, -1.62), (0.28, -1.86), (0.62, -1.72, 1), (0.32, -1.7),
        (0.12, -1.5), (0.08, -1.28, 1),
    ]  # fmt: skip
    scene.fill(HAIR, [(s * x, *rest) for x, *rest in strand], BACK, stroke=(1.0, 1.0, 0.0))
