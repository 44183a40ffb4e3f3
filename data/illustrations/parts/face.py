"""Head, ears, eyes, brows, nose and mouth."""

from dataclasses import dataclass

from data.illustrations.canvas.palette import (
    BLUSH,
    GLINT,
    IRIS,
    LASH,
    LIGHT,
    MOUTH,
    PUPIL,
    SCLERA,
    SHADE,
    SKIN,
    TONGUE,
    tone_table,
)
from data.illustrations.canvas.scene import Points, Scene
from data.illustrations.canvas.seeds import Dice


def mirrored(points: Points) -> list[tuple[float, ...]]:
    """The outline on the other side, in the same sense of rotation."""
    return [(-x, y, *corner) for x, y, *corner in reversed(points)]


@dataclass(frozen=True)
class Face:
    """Proportions and expression.

    Attributes:
        chin: height of the chin below the middle of the face.
        jaw: width of the jaw, 1 is usual.
        eye_width, eye_height: half sizes of an eye.
        eye_gap: distance of an eye from the middle.
        slant: outer corners up (negative) or down.
        open: how far the lids are open, 1 is usual.
        closed: sides whose eyes are closed: any of -1 and 1.
        gaze: (x, y) shift of the irises.
        mouth, brows: names of shapes.
        blush: 0 none, 1 soft, 2 strong.
    """

    chin: float
    jaw: float
    eye_width: float
    eye_height: float
    eye_gap: float
    slant: float
    open: float
    closed: tuple[int, ...]
    gaze: tuple[float, float]
    mouth: str
    brows: str
    blush: int


MOUTHS = {
    "smile": 5,
    "open_smile": 3,
    "laugh": 2,
    "small_open": 2,
    "flat": 2,
    "cat": 1.2,
    "frown": 1.2,
    "grin": 1.5,
    "smirk": 1.2,
    "pout": 1,
}
BROWS = {"calm": 5, "raised": 3, "worried": 2, "stern": 2}


def face_of(dice: Dice) -> Face:
    """Draws proportions and an expression."""
    return Face(
        chin=dice.uniform(1.16, 1.27),
        jaw=dice.uniform(0.92, 1.06),
        eye_width=dice.uniform(0.27, 0.32),
        eye_height=dice.uniform(0.27, 0.34),
        eye_gap=dice.uniform(0.44, 0.48),
        slant=dice.uniform(-0.05, 0.04),
        open=dice.weighted({1.0: 6, 0.72: 1.6, 1.12: 1.4}),
        closed=dice.weighted({(): 12, (1,): 1, (-1,): 1, (-1, 1): 1.6}),
        gaze=(dice.uniform(-0.045, 0.045), dice.uniform(-0.015, 0.03)),
        mouth=dice.weighted(MOUTHS),
        brows=dice.weighted(BROWS),
        blush=dice.weighted({0: 3, 1: 5, 2: 2}),
    )


def head_outline(face: Face) -> list[tuple[float, ...]]:
    """Closed outline of the head, with the chin a soft corner."""
    jaw, chin = face.jaw, face.chin
    right = [
        (0.0, -1.2), (0.72, -0.98), (1.0, -0.3), (0.99, 0.22), (0.86 * jaw, 0.64),
        (0.52 * jaw, 0.98), (0.16 * jaw, chin - 0.035),
    ]  # fmt: skip
    return [*right, *[(-x, y) for x, y in reversed(right[1:])]]


def draw_head(scene: Scene, face: Face) -> None:
    """Head with ears, before the hair in front of it."""
    for side in (-1, 1):
        ear = [(0.95, 0.08), (1.1, 0.06), (1.16, 0.24), (1.08, 0.46), (0.93, 0.56)]
        scene.fill(SKIN, [(side * x, y) for x, y in ear], stroke=0.9)
        inner = [(1.08, 0.16), (1.03, 0.26), (1.05, 0.4)]
        scene.line([(side * x, y) for x, y in inner], weight=0.5)
    scene.fill(SKIN, head_outline(face), stroke=1.15)
    cheek = [(0.99, 0.2, 1), (0.86 * face.jaw, 0.66), (0.5 * face.jaw, 1.0), (0.14, face.chin, 1)]
    cheek += [(0.4 * face.jaw, 0.98), (0.72 * face.jaw, 0.66)]
    scene.tone(tone_table(SHADE, SKIN), cheek)
    if face.blush:
        for side in (-1, 1):
            x, y = side * 0.62, 0.7
            scene.tone(_blush_table(LIGHT), _ellipse(x, y, 0.21, 0.11))
            if face.blush > 1:
                scene.tone(_blush_table(0), _ellipse(x, y, 0.15, 0.075))
                for i in (-1, 0, 1):
                    top = x + 0.08 * i + 0.03
                    scene.line([(top, y - 0.05), (top - 0.05, y + 0.05)], weight=0.45)


def draw_features(scene: Scene, face: Face) -> None:
    """Eyes, brows, nose and mouth."""
    scene.tone(tone_table(SHADE, SKIN), [(0.01, 0.62), (0.075, 0.72), (-0.02, 0.73)])
    scene.line([(0.03, 0.63), (0.055, 0.7), (-0.005, 0.725)], weight=0.6)
    _draw_mouth(scene, face.mouth)
    for side in (-1, 1):
        if side in face.closed:
            _draw_closed_eye(scene, face, side)
        else:
            _draw_eye(scene, face, side)
        _draw_brow(scene, face, side)


def _blush_table(tone: int) -> list[int]:
    table = list(range(256))
    for slot in (SKIN, SKIN + SHADE, BLUSH + LIGHT):
        table[slot] = BLUSH + tone
    return table


def _ellipse(x: float, y: float, rx: float, ry: float) -> Points:
    k = 0.7071
    ring = ((1, 0), (k, k), (0, 1), (-k, k), (-1, 0), (-k, -k), (0, -1), (k, -k))
    return [(x + rx * a, y + ry * b) for a, b in ring]


class _Eye:
    """Lids as functions of t in [-1, 1] from the inner to the outer corner."""

    def __init__(self, face: Face, side: int):
        self.side, self.width = side, face.eye_width
        self.x, self.y = side * face.eye_gap, 0.36
        self.slant = face.slant
        self.top = face.eye_height * face.open
        self.bottom = face.eye_height * 0.86 * min(face.open, 1.0)

    def upper(self, t: float) -> float:
        return self.slant * t - self.top * (1.0 - abs(t + 0.08) ** 2.6 / 1.25)

    def lower(self, t: float) -> float:
        return self.slant * t + self.bottom * (1.0 - abs(t - 0.1) ** 2.8 / 1.3)

    def at(self, t: float, y: float) -> tuple[float, float]:
        return self.x + self.side * self.width * t, self.y + y

    def disc(self, dx: float, dy: float, rx: float, ry: float, margin: float) -> Points:
        """An ellipse around the iris' middle, cut off by the lids."""
        ring = []
        for x, y in _ELLIPSE16:
            t = self.side * (dx + rx * x) / self.width
            t = max(-0.93, min(0.93, t))
            y = max(self.upper(t) + margin, min(self.lower(t) - margin, dy + ry * y))
            ring.append((self.x + self.side * self.width * t, self.y + y))
        return ring


_ELLIPSE16 = [
    (1.0, 0.0), (0.924, 0.383), (0.707, 0.707), (0.383, 0.924),
    (0.0, 1.0), (-0.383, 0.924), (-0.707, 0.707), (-0.924, 0.383),
    (-1.0, 0.0), (-0.924, -0.383), (-0.707, -0.707), (-0.383, -0.924),
    (0.0, -1.0), (0.383, -0.924), (0.707, -0.707), (0.924, -0.383),
]  # fmt: skip


def _draw_eye(scene: Scene, face: Face, side: int) -> None:
    eye = _Eye(face, side)
    steps = [i / 5 for i in range(-5, 6)]
    white = [eye.at(t, eye.upper(t)) for t in steps]
    white += [eye.at(t, eye.lower(t)) for t in reversed(steps)]
    scene.fill(SCLERA, white, stroke=0, straight=True)
    dx, dy = face.gaze
    rx, ry = eye.width * 0.66, face.eye_height * 0.98
    scene.fill(IRIS, eye.disc(dx, dy, rx, ry, 0.0), stroke=0.7, straight=True)
    shade = tone_table(SHADE, IRIS)
    scene.tone(shade, eye.disc(dx, dy - 0.45 * ry, rx, 0.6 * ry, 0.0))
    scene.tone(
        tone_table(LIGHT, IRIS), _ellipse(eye.x + dx, eye.y + dy + 0.6 * ry, 0.55 * rx, 0.22 * ry)
    )
    scene.fill(PUPIL, eye.disc(dx, dy - 0.02, 0.36 * rx, 0.45 * ry, 0.02), stroke=0, straight=True)
    band = [eye.at(t, eye.upper(t)) for t in steps]
    band += [eye.at(t, eye.upper(t) + 0.07) for t in reversed(steps)]
    scene.tone(tone_table(SHADE, SCLERA), band)
    scene.fill(
        GLINT,
        _ellipse(eye.x + dx - 0.4 * rx, eye.y + dy - 0.42 * ry, 0.3 * rx, 0.24 * ry),
        stroke=0,
    )
    scene.fill(
        GLINT,
        _ellipse(eye.x + dx + 0.42 * rx, eye.y + dy + 0.45 * ry, 0.15 * rx, 0.12 * ry),
        stroke=0,
    )
    lash = [eye.at(t, eye.upper(t) + 0.02) for t in (-1.0, -0.6, -0.2, 0.2, 0.6, 0.95)]
    outer = eye.at(1.2, eye.upper(1.0) - 0.05)
    over = [eye.at(t, eye.upper(t) - 0.03 - 0.03 * (t + 1)) for t in (0.9, 0.5, 0.1, -0.3, -0.7)]
    first = (*eye.at(-1.06, eye.upper(-1.0) + 0.04), 1)
    scene.ink(LASH, [first, *lash[1:], (*outer, 1), *over])
    low = [eye.at(t, eye.lower(t)) for t in (-0.25, 0.15, 0.5, 0.8)]
    scene.line([*low, eye.at(1.0, eye.upper(1.0) + 0.06)], weight=0.7, taper=(0.2, 0.8))
    crease = [eye.at(t, eye.upper(t) - 0.13) for t in (-0.5, 0.0, 0.55)]
    scene.line(crease, weight=0.45)


def _draw_closed_eye(scene: Scene, face: Face, side: int) -> None:
    eye = _Eye(face, side)
    y = 0.08
    arc = [
        (*eye.at(-1.0, y + 0.05), 1),
        eye.at(-0.5, y - 0.1),
        eye.at(0, y - 0.14),
        eye.at(0.5, y - 0.1),
    ]
    arc += [
        (*eye.at(1.1, y + 0.1), 1),
        eye.at(0.5, y - 0.02),
        eye.at(0, y - 0.07),
        eye.at(-0.5, y - 0.04),
    ]
    scene.ink(LASH, arc)


def _draw_brow(scene: Scene, face: Face, side: int) -> None:
    inner, middle, outer = {
        "calm": (-0.14, -0.2, -0.12),
        "raised": (-0.2, -0.3, -0.2),
        "worried": (-0.24, -0.2, -0.08),
        "stern": (-0.04, -0.14, -0.18),
    }[face.brows]
    x = face.eye_gap
    points = [(x - 0.24, inner), (x + 0.02, middle), (x + 0.3, outer)]
    scene.line([(side * a, b + 0.02) for a, b in points], weight=1.3, taper=(0.6, 0.1))


def _draw_mouth(scene: Scene, mouth: str) -> None:
    y = 0.93
    if mouth == "open_smile":
        lip = [
            (-0.2, y - 0.06, 1), (0, y - 0.02), (0.2, y - 0.06, 1), (0.12, y + 0.1),
            (0, y + 0.14),
        ]  # fmt: skip
        scene.fill(MOUTH, [*lip, (-0.12, y + 0.1)], stroke=0.8)
        scene.fill(TONGUE, _ellipse(0, y + 0.1, 0.09, 0.04), stroke=0)
    elif mouth == "laugh":
        lip = [
            (-0.27, y - 0.1, 1), (0, y - 0.06), (0.27, y - 0.1, 1), (0.19, y + 0.1),
            (0, y + 0.18),
        ]  # fmt: skip
        scene.fill(MOUTH, [*lip, (-0.19, y + 0.1)], stroke=0.9)
        teeth = [(-0.2, y - 0.08), (0.2, y - 0.08), (0.17, y - 0.02), (-0.17, y - 0.02)]
        scene.fill(SCLERA, teeth, stroke=0, straight=True)
        scene.fill(TONGUE, _ellipse(0, y + 0.12, 0.12, 0.05), stroke=0)
    elif mouth == "small_open":
        scene.fill(MOUTH, _ellipse(0, y, 0.07, 0.06), stroke=0.8)
    elif mouth == "grin":
        lip = [
            (-0.2, y - 0.06, 1), (0, y - 0.03), (0.2, y - 0.06, 1), (0.1, y + 0.05),
            (-0.1, y + 0.05),
        ]  # fmt: skip
        scene.fill(SCLERA, lip, stroke=0.8)
    else:
        lines = {
            "smile": [(-0.17, y - 0.04), (0, y + 0.025), (0.17, y - 0.04)],
            "flat": [(-0.11, y), (0, y - 0.005), (0.11, y)],
            "frown": [(-0.12, y + 0.03), (0, y - 0.02), (0.12, y + 0.03)],
            "pout": [(-0.09, y + 0.02), (-0.02, y - 0.02), (0.09, y + 0.03)],
            "smirk": [(-0.12, y + 0.01), (0.04, y + 0.015), (0.17, y - 0.05)],
            "cat": [
                (-0.18, y - 0.03), (-0.09, y + 0.03), (0, y - 0.02), (0.09, y + 0.03),
                (0.18, y - 0.03),
            ],
        }  # fmt: skip
        scene.line(lines[mouth], weight=0.9)
