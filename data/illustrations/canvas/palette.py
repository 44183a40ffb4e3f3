"""Identity: colours and shading style of one character, and the colour tables made from them.

A slot is one byte: four tones of each material, then the backdrop's steps from top to bottom.
"""

import colorsys
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from data.illustrations.canvas.seeds import Dice

MATERIALS = (
    "skin",
    "hair",
    "iris",
    "clothes_main",
    "clothes_accent",
    "accessory",
    "backdrop_accent",
    "sclera",
    "lash",
    "mouth",
    "blush",
    "pupil",
    "glint",
    "tongue",
)
BASE, SHADE, LIGHT, DEEP = range(4)

SKIN, HAIR, IRIS, CLOTHES, ACCENT, ACCESSORY, BACKDROP_ACCENT = range(0, 28, 4)
SCLERA, LASH, MOUTH, BLUSH, PUPIL, GLINT, TONGUE = range(28, 56, 4)
BACKDROP = 64
BACKDROP_STEPS = 24

PART_NAMES = (
    "background",
    "background_accent",
    "skin",
    "hair",
    "eyes",
    "clothes_main",
    "clothes_accent",
    "accessory",
    "details",
)
_PART_OF_MATERIAL = {
    "skin": "skin",
    "hair": "hair",
    "iris": "eyes",
    "clothes_main": "clothes_main",
    "clothes_accent": "clothes_accent",
    "accessory": "accessory",
    "backdrop_accent": "background_accent",
    "blush": "skin",
}


def _part_table() -> np.ndarray:
    table = np.zeros(256, np.uint8)
    for i, material in enumerate(MATERIALS):
        part = _PART_OF_MATERIAL.get(material, "details")
        table[4 * i : 4 * i + 4] = PART_NAMES.index(part)
    return table


PART_OF_SLOT = _part_table()
FOREGROUND_OF_SLOT = np.where(PART_NAMES.index("skin") <= PART_OF_SLOT, 255, 0).astype(np.uint8)


@lru_cache(maxsize=64)
def tone_table(tone: int, *slots: int) -> list[int]:
    """Table for `Scene.tone`: moves the base and light tones of the given materials to `tone`.

    Shading what is already shaded leaves it so.
    """
    table = list(range(256))
    for slot in slots:
        table[slot + BASE] = slot + tone
        if tone in (SHADE, DEEP):
            table[slot + LIGHT] = slot + tone
    return table


# name: (hue range in degrees, saturation range, value range)
HAIR_COLORS = {
    "black": ((215, 260), (0.15, 0.35), (0.17, 0.25)),
    "dark_brown": ((14, 28), (0.40, 0.60), (0.27, 0.38)),
    "brown": ((18, 30), (0.48, 0.66), (0.46, 0.60)),
    "blonde": ((40, 50), (0.40, 0.62), (0.88, 0.97)),
    "white": ((210, 250), (0.02, 0.07), (0.91, 0.97)),
    "grey": ((215, 240), (0.06, 0.14), (0.58, 0.72)),
    "red": ((352, 366), (0.66, 0.82), (0.66, 0.82)),
    "orange": ((18, 30), (0.66, 0.84), (0.86, 0.96)),
    "pink": ((330, 350), (0.32, 0.52), (0.92, 0.98)),
    "purple": ((265, 285), (0.42, 0.62), (0.52, 0.72)),
    "lavender": ((250, 272), (0.22, 0.36), (0.82, 0.92)),
    "blue": ((214, 232), (0.55, 0.76), (0.58, 0.82)),
    "light_blue": ((192, 206), (0.32, 0.50), (0.88, 0.96)),
    "teal": ((172, 184), (0.52, 0.72), (0.56, 0.74)),
    "green": ((118, 150), (0.38, 0.58), (0.48, 0.68)),
    "mint": ((148, 168), (0.26, 0.40), (0.84, 0.93)),
}
EYE_COLORS = {
    "blue": ((208, 226), (0.65, 0.85), (0.76, 0.94)),
    "aqua": ((178, 192), (0.55, 0.75), (0.80, 0.92)),
    "green": ((120, 152), (0.55, 0.75), (0.60, 0.78)),
    "yellow": ((46, 54), (0.68, 0.86), (0.88, 0.97)),
    "amber": ((28, 38), (0.72, 0.88), (0.82, 0.92)),
    "brown": ((16, 26), (0.52, 0.68), (0.42, 0.56)),
    "red": ((352, 364), (0.70, 0.86), (0.74, 0.88)),
    "pink": ((325, 345), (0.50, 0.68), (0.86, 0.95)),
    "purple": ((264, 284), (0.52, 0.72), (0.62, 0.82)),
    "grey": ((210, 235), (0.10, 0.20), (0.48, 0.62)),
}
SKIN_TONES = {
    "fair": ((18, 26), (0.08, 0.13), (0.98, 1.00)),
    "rosy": ((10, 18), (0.12, 0.17), (0.98, 1.00)),
    "peach": ((22, 28), (0.18, 0.24), (0.96, 0.99)),
    "tan": ((22, 28), (0.32, 0.40), (0.84, 0.90)),
    "brown": ((18, 25), (0.42, 0.50), (0.64, 0.72)),
    "dark": ((15, 22), (0.46, 0.54), (0.46, 0.54)),
}
_SKIN_WEIGHTS = {"fair": 4, "rosy": 3, "peach": 4, "tan": 2, "brown": 1.4, "dark": 1}
CLOTH_COLORS = {
    "white": ((30, 260), (0.01, 0.05), (0.93, 0.98)),
    "black": ((215, 260), (0.10, 0.30), (0.18, 0.26)),
    "grey": ((200, 240), (0.05, 0.14), (0.50, 0.70)),
    "navy": ((220, 234), (0.52, 0.70), (0.30, 0.42)),
    "blue": ((208, 226), (0.55, 0.78), (0.68, 0.88)),
    "light_blue": ((196, 210), (0.26, 0.44), (0.88, 0.96)),
    "teal": ((172, 186), (0.48, 0.70), (0.52, 0.70)),
    "green": ((115, 152), (0.38, 0.60), (0.46, 0.66)),
    "yellow": ((44, 54), (0.52, 0.76), (0.92, 0.98)),
    "orange": ((20, 32), (0.62, 0.82), (0.88, 0.96)),
    "red": ((352, 364), (0.68, 0.84), (0.70, 0.86)),
    "pink": ((332, 350), (0.28, 0.48), (0.92, 0.98)),
    "purple": ((262, 284), (0.38, 0.60), (0.50, 0.70)),
    "brown": ((18, 30), (0.42, 0.58), (0.40, 0.56)),
    "beige": ((34, 44), (0.16, 0.28), (0.86, 0.94)),
}
BACKDROP_COLORS = {
    "white": ((200, 240), (0.00, 0.03), (0.96, 0.99)),
    "cream": ((38, 50), (0.10, 0.20), (0.94, 0.98)),
    "pink": ((335, 352), (0.14, 0.28), (0.94, 0.98)),
    "blue": ((202, 222), (0.20, 0.42), (0.86, 0.96)),
    "green": ((112, 155), (0.16, 0.34), (0.80, 0.92)),
    "purple": ((258, 282), (0.16, 0.34), (0.82, 0.94)),
    "orange": ((22, 36), (0.26, 0.46), (0.94, 0.98)),
    "teal": ((172, 188), (0.28, 0.48), (0.66, 0.82)),
    "grey": ((210, 235), (0.04, 0.12), (0.60, 0.76)),
    "night": ((224, 252), (0.40, 0.58), (0.30, 0.44)),
}

Color = np.ndarray  # (3,) float, 0..255


@dataclass(frozen=True)
class Identity:
    """Colours and shading style of one character.

    Attributes:
        colors: base colour of each of the parts that carry identity, (3,) floats in 0..255.
        names: the colours' names, for tags.
        shade: (3,) factors that turn a base colour into its shadow.
        gloss: how far highlights go towards white, 0..1.
        fade: (3,) colour towards which the backdrop fades at the bottom.
        ink: (3,) colour of the pen.
        tint: how much of the colour below shows through the pen, 0..1.
    """

    colors: dict[str, Color]
    names: dict[str, str]
    shade: Color
    gloss: float
    fade: Color
    ink: Color
    tint: float


def _pick(dice: Dice, table: dict, weights: dict | None = None) -> tuple[str, Color]:
    name = dice.weighted(weights) if weights else dice.choice(tuple(table))
    hue, saturation, value = (dice.uniform(*bounds) for bounds in table[name])
    return name, 255.0 * np.array(colorsys.hsv_to_rgb(hue / 360.0 % 1.0, saturation, value))


def _mix(a: Color, b: Color, share: float) -> Color:
    return a + (b - a) * share


def identity_of(seed: int) -> Identity:
    """The identity of a seed: independent colours for every part, and a shading style."""
    tables = {
        "skin": SKIN_TONES,
        "hair": HAIR_COLORS,
        "eyes": EYE_COLORS,
        "clothes_main": CLOTH_COLORS,
        "clothes_accent": CLOTH_COLORS,
        "accessory": CLOTH_COLORS,
        "background": BACKDROP_COLORS,
        "background_accent": BACKDROP_COLORS,
    }
    colors, names = {}, {}
    for stream, (part, table) in enumerate(tables.items()):
        dice = Dice(seed, stream)
        weights = _SKIN_WEIGHTS if part == "skin" else None
        names[part], colors[part] = _pick(dice, table, weights)
    dice = Dice(seed, len(tables))
    tints = ((0.80, 0.74, 0.86), (0.86, 0.76, 0.76), (0.74, 0.80, 0.90), (0.80, 0.80, 0.80))
    shade = _mix(np.ones(3), np.array(dice.choice(tints)), dice.uniform(0.75, 1.25))
    inks = ((48, 36, 44), (28, 26, 38), (66, 40, 36), (38, 42, 66))
    fades = ((255, 255, 255), (255, 240, 225), (215, 220, 250), (120, 110, 160))
    return Identity(
        colors=colors,
        names=names,
        shade=shade,
        gloss=dice.uniform(0.25, 0.55),
        fade=_mix(
            colors["background"], np.array(dice.choice(fades), float), dice.uniform(0.0, 0.55)
        ),
        ink=np.array(dice.choice(inks), float),
        tint=dice.uniform(0.1, 0.5),
    )


def color_table(identity: Identity) -> np.ndarray:
    """(256, 3) uint8 colour of every slot."""
    colors = identity.colors
    white = np.full(3, 255.0)
    skin, iris, ink = colors["skin"], colors["eyes"], identity.ink
    skin_shade = skin * _mix(identity.shade, np.array([0.90, 0.72, 0.70]), 0.5)
    base = {
        "skin": skin,
        "hair": colors["hair"],
        "iris": iris,
        "clothes_main": colors["clothes_main"],
        "clothes_accent": colors["clothes_accent"],
        "accessory": colors["accessory"],
        "backdrop_accent": colors["background_accent"],
        "sclera": np.array([252.0, 250.0, 250.0]),
        "lash": _mix(ink, colors["hair"] * 0.3, 0.5),
        "mouth": _mix(skin * 0.45, np.array([150.0, 40.0, 50.0]), 0.6),
        "blush": _mix(skin, np.array([250.0, 110.0, 110.0]), 0.30),
        "pupil": iris * 0.28,
        "glint": white,
        "tongue": _mix(skin, np.array([235.0, 90.0, 100.0]), 0.65),
    }
    table = np.zeros((256, 3))
    for i, material in enumerate(MATERIALS):
        color = base[material]
        shade = color * identity.shade
        table[4 * i + BASE] = color
        table[4 * i + SHADE] = shade
        table[4 * i + LIGHT] = _mix(color, white, identity.gloss)
        table[4 * i + DEEP] = shade * identity.shade
    table[SKIN + SHADE] = skin_shade
    table[IRIS + SHADE] = iris * 0.55
    table[IRIS + LIGHT] = _mix(iris, white, 0.42)
    table[BLUSH + LIGHT] = _mix(skin, base["blush"], 0.55)
    steps = np.linspace(0.0, 1.0, BACKDROP_STEPS)[:, None]
    table[BACKDROP : BACKDROP + BACKDROP_STEPS] = _mix(colors["background"], identity.fade, steps)
    return np.clip(np.rint(table), 0, 255).astype(np.uint8)
