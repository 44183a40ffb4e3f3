"""Gestures: a raised arm with its hand, or both hands on a book."""

import math
from dataclasses import dataclass

from data.illustrations.canvas.palette import (
    ACCESSORY,
    CLOTHES,
    LIGHT,
    SCLERA,
    SHADE,
    SKIN,
    tone_table,
)
from data.illustrations.canvas.scene import BODY, Points, Scene
from data.illustrations.canvas.seeds import Dice

GESTURES = {
    "": 5.0,
    "waving": 1.0,
    "peace_sign": 1.2,
    "pointing_up": 0.8,
    "clenched_hand": 0.9,
    "holding_book": 0.7,
}
_RAISED = {  # where the wrist is, and how far the hand leans outwards (degrees)
    "waving": ((1.72, 1.72), 12.0),
    "peace_sign": ((1.42, 1.78), 4.0),
    "pointing_up": ((1.55, 1.75), -4.0),
    "clenched_hand": ((1.02, 1.66), -24.0),
}


@dataclass(frozen=True)
class Gesture:
    """A name from `GESTURES` (empty: arms at rest) and the side of the raised arm."""

    name: str
    side: int

    @property
    def raised(self) -> int:
        """The side of the raised arm: -1, 1, or 0 when none is."""
        return self.side if self.name in _RAISED else 0


def gesture_of(dice: Dice) -> Gesture:
    """Draws a gesture."""
    return Gesture(dice.weighted(GESTURES), dice.sign())


class _Limb:
    """Moves points given around a wrist (fingers upwards, thumb towards the head) to the body."""

    def __init__(self, wrist: tuple[float, float], degrees: float, side: int):
        self._wrist, self._side = wrist, side
        self._cos, self._sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))

    def __call__(self, points: Points) -> Points:
        (wx, wy), c, s = self._wrist, self._cos, self._sin
        return [
            (self._side * (wx + c * x - s * y), wy + s * x + c * y, *corner)
            for x, y, *corner in points
        ]


def draw_gesture(scene: Scene, gesture: Gesture, bare_arms: bool) -> None:
    """The arm and hand before everything else; `bare_arms` have no sleeve."""
    if gesture.name == "holding_book":
        _draw_book(scene, bare_arms)
    elif gesture.name in _RAISED:
        wrist, lean = _RAISED[gesture.name]
        elbow = (1.62 + 0.2 * (wrist[0] - 1.4), 3.75)
        _draw_forearm(scene, wrist, elbow, gesture.side, bare_arms)
        _HANDS[gesture.name](scene, _Limb(wrist, lean, gesture.side))
        if not bare_arms:
            _draw_cuff(scene, wrist, elbow, gesture.side)


def _draw_forearm(scene: Scene, wrist, elbow, side: int, bare: bool) -> None:
    length = math.hypot(elbow[0] - wrist[0], elbow[1] - wrist[1])
    limb = _Limb(wrist, -math.degrees(math.atan2(elbow[0] - wrist[0], elbow[1] - wrist[1])), side)
    near, far = (0.2, 0.34) if bare else (0.32, 0.5)
    slot = SKIN if bare else CLOTHES
    outline = [
        (near, 0.0 if bare else 0.12, 1), (near * 1.15, 0.4 * length), (far, length),
        (0.0, length + far), (-far, length), (-near * 1.15, 0.4 * length),
        (-near, 0.0 if bare else 0.12, 1),
    ]  # fmt: skip
    scene.fill(slot, limb(outline), BODY, stroke=(1.1, 0.0 if bare else 1.0))
    shade = [
        (near * 0.55, 0.1), (near * 2, 0.3 * length), (far * 2, length), (0.0, length + 2 * far),
        (far * 0.3, length), (near * 0.5, 0.5 * length),
    ]  # fmt: skip
    scene.tone(tone_table(SHADE, slot), limb(shade), BODY)


def _draw_cuff(scene: Scene, wrist, elbow, side: int) -> None:
    limb = _Limb(wrist, -math.degrees(math.atan2(elbow[0] - wrist[0], elbow[1] - wrist[1])), side)
    band = [
        (-0.33, 0.08, 1), (0.0, 0.02), (0.33, 0.08, 1), (0.36, 0.34, 1), (0.0, 0.28),
        (-0.36, 0.34, 1),
    ]  # fmt: skip
    scene.fill(CLOTHES, limb(band), BODY, stroke=1.0)
    scene.tone(
        tone_table(SHADE, CLOTHES), limb([(0.15, 0.0), (0.4, 0.0), (0.4, 0.4), (0.2, 0.4)]), BODY
    )


def _draw_palm(scene: Scene, limb: _Limb, fingers: Points) -> None:
    """A hand whose outline runs from the little finger's side over `fingers` to the thumb's."""
    outline = [(0.17, 0.12, 1), (0.25, -0.22), *fingers, (-0.17, 0.12, 1)]
    scene.fill(SKIN, limb(outline), BODY, stroke=[1.0] * (len(fingers) + 1), taper=(0.8, 0.8))
    shade = [(0.1, 0.12), (0.3, 0.1), (0.4, -0.5), (0.24, -0.55), (0.18, -0.2)]
    scene.tone(tone_table(SHADE, SKIN), limb(shade), BODY)


_THUMB_OUT = [(-0.25, -0.34, 1), (-0.42, -0.56), (-0.52, -0.5), (-0.4, -0.2)]


def _draw_waving(scene: Scene, limb: _Limb) -> None:
    fingers = [
        (0.33, -0.5), (0.42, -0.76), (0.33, -0.8), (0.21, -0.54, 1), (0.27, -0.92), (0.17, -0.97),
        (0.08, -0.58, 1), (0.07, -1.02), (-0.04, -1.02), (-0.06, -0.58, 1), (-0.15, -0.95),
        (-0.25, -0.9), *_THUMB_OUT,
    ]  # fmt: skip
    _draw_palm(scene, limb, fingers)
    scene.line(limb([(-0.18, -0.28), (-0.06, -0.18), (-0.02, 0.02)]), BODY, 0.5)
    scene.line(limb([(0.16, -0.38), (0.0, -0.36), (-0.12, -0.42)]), BODY, 0.5)


_CURLED = [(0.29, -0.42), (0.2, -0.58), (0.07, -0.56, 1)]


def _draw_knuckles(scene: Scene, limb: _Limb) -> None:
    """Curled ring and little finger, and the thumb across them."""
    scene.line(limb([(0.07, -0.55), (0.05, -0.42), (0.08, -0.32)]), BODY, 0.6)
    thumb = [(-0.24, -0.14), (-0.2, -0.34), (0.02, -0.38), (0.12, -0.3), (0.04, -0.2), (-0.1, -0.1)]
    scene.fill(SKIN, limb(thumb), BODY, stroke=0.8)


def _draw_peace(scene: Scene, limb: _Limb) -> None:
    fingers = [
        *_CURLED, (0.2, -0.98), (0.13, -1.1), (0.06, -1.04), (-0.05, -0.58, 1), (-0.17, -1.04),
        (-0.26, -1.07), (-0.3, -0.96), (-0.23, -0.5, 1), (-0.27, -0.25),
    ]  # fmt: skip
    _draw_palm(scene, limb, fingers)
    _draw_knuckles(scene, limb)


def _draw_pointing(scene: Scene, limb: _Limb) -> None:
    fingers = [
        *_CURLED, (-0.02, -0.61), (-0.08, -0.58, 1), (-0.09, -1.0), (-0.16, -1.08), (-0.23, -1.0),
        (-0.24, -0.5, 1), (-0.27, -0.25),
    ]  # fmt: skip
    _draw_palm(scene, limb, fingers)
    _draw_knuckles(scene, limb)


def _draw_fist(scene: Scene, limb: _Limb) -> None:
    fingers = [(0.3, -0.42), (0.2, -0.62), (-0.06, -0.68), (-0.28, -0.56), (-0.31, -0.26)]
    _draw_palm(scene, limb, fingers)
    for x in (-0.12, 0.02, 0.15):
        scene.line(limb([(x, -0.62), (x - 0.03, -0.46), (x, -0.36)]), BODY, 0.6)


_HANDS = {
    "waving": _draw_waving,
    "peace_sign": _draw_peace,
    "pointing_up": _draw_pointing,
    "clenched_hand": _draw_fist,
}


def _draw_book(scene: Scene, bare_arms: bool) -> None:
    for side in (-1, 1):
        _draw_forearm(scene, (0.86, 2.95), (1.5, 4.0), side, bare_arms)
    pages = [(-0.8, 2.16, 1), (0.84, 2.16, 1), (0.84, 3.5, 1), (-0.8, 3.5, 1)]
    scene.fill(SCLERA, pages, BODY, straight=True)
    cover = [(-0.84, 2.22, 1), (0.78, 2.22, 1), (0.78, 3.56, 1), (-0.84, 3.56, 1)]
    scene.fill(ACCESSORY, cover, BODY, straight=True)
    scene.tone(
        tone_table(SHADE, ACCESSORY), [(-0.9, 2.2), (-0.7, 2.2), (-0.7, 3.6), (-0.9, 3.6)], BODY
    )
    label = [(-0.3, 2.5), (0.4, 2.5), (0.4, 2.8), (-0.3, 2.8)]
    scene.fill(ACCESSORY + LIGHT, label, BODY, stroke=0.7, straight=True)
    for side in (-1, 1):
        limb = _Limb((0.92, 3.0), 0.0, side)
        for y in (-0.2, -0.06, 0.08, 0.22):
            finger = [(0.06, y - 0.07), (-0.26, y - 0.06), (-0.33, y), (-0.26, y + 0.07)]
            scene.fill(SKIN, limb([*finger, (0.06, y + 0.07)]), BODY, stroke=0.8)
