"""From a seed of geometry and one of identity to a picture with sketch, masks, parts and tags."""

import math
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from data.illustrations.canvas.palette import (
    FOREGROUND_OF_SLOT,
    PART_NAMES,
    PART_OF_SLOT,
    Identity,
    color_table,
    identity_of,
)
from data.illustrations.canvas.scene import Raster, Scene, View
from data.illustrations.canvas.seeds import Dice
from data.illustrations.parts.accessories import (
    Accessories,
    accessories_of,
    draw_behind_head,
    draw_on_head,
)
from data.illustrations.parts.backdrop import BANDS, Backdrop, backdrop_of, draw_backdrop
from data.illustrations.parts.clothes import Clothes, clothes_of, draw_body
from data.illustrations.parts.face import Face, draw_features, draw_head, face_of
from data.illustrations.parts.gesture import Gesture, draw_gesture, gesture_of
from data.illustrations.parts.hair import (
    Hair,
    draw_back_hair,
    draw_bangs,
    draw_hanging_hair,
    draw_side_locks,
    hair_of,
)

__all__ = [
    "PART_NAMES",
    "Drawing",
    "Illustration",
    "draw",
    "draw_figure",
    "draw_in_front",
    "paint",
    "render",
]


@dataclass(frozen=True)
class Illustration:
    """One example.

    Attributes:
        image: (H, W, 3) uint8 colour picture.
        sketch: (H, W, 1) uint8 clean line art of the same geometry, paper 255, line 0.
        mask: (H, W, 1) uint8 foreground, 255 inside.
        parts: (H, W, 1) uint8 index into `PART_NAMES`.
        tags: hair and eye colour, cut, accessories, expression and so on.
        aesthetic_score: about 4.5 to 8.
    """

    image: np.ndarray
    sketch: np.ndarray
    mask: np.ndarray
    parts: np.ndarray
    tags: tuple[str, ...]
    aesthetic_score: float


@dataclass(frozen=True)
class Geometry:
    """All that is not colour: pose, face, hair, clothes, accessories, background (None: paper)."""

    face: Face
    hair: Hair
    clothes: Clothes
    worn: Accessories
    gesture: Gesture
    backdrop: Backdrop | None
    pose: tuple[float, ...]


@dataclass(frozen=True)
class Drawing:
    """A geometry drawn at a size, ready to be painted with any identity."""

    seed: int
    geometry: Geometry
    raster: Raster
    coverage: np.ndarray
    mask: np.ndarray
    parts: np.ndarray


def geometry_of(seed: int) -> Geometry:
    """The geometry of a seed."""
    pose = Dice(seed, 105)
    return Geometry(
        face=face_of(Dice(seed, 100)),
        hair=hair_of(Dice(seed, 101)),
        clothes=clothes_of(Dice(seed, 102)),
        worn=accessories_of(Dice(seed, 103)),
        gesture=gesture_of(Dice(seed, 107)),
        backdrop=backdrop_of(Dice(seed, 104)),
        pose=tuple(pose.unit() for _ in range(8)),
    )


def _view(geometry: Geometry, height: int, width: int) -> View:
    tilt, lean, yaw, pitch, unit, x, y, shift = geometry.pose
    short = min(height, width)
    unit = (0.175 + 0.045 * unit) * min(height / short, 1.7) ** 0.4  # closer on tall pages
    center = width / short / 2 + 0.08 * (x - 0.5)
    top = 0.4 + 0.06 * (y - 0.5) + 0.12 * (height / short - 1)
    tilt = math.radians(22 * (tilt - 0.5))
    return View(
        height=height,
        width=width,
        unit=unit,
        head=(center, top),
        body=(center - unit * (1.1 * tilt + 0.12 * (shift - 0.5)), top),
        tilt=tilt,
        lean=math.radians(5 * (lean - 0.5)),
        yaw=0.5 * (yaw - 0.5),
        pitch=0.14 * (pitch - 0.4),
    )


def _scene(geometry: Geometry, view: View) -> Scene:
    scene = Scene(BANDS)
    short = view.short
    if geometry.backdrop is not None:
        draw_backdrop(scene, geometry.backdrop, view.width / short, view.height / short)
    draw_back_hair(scene, geometry.hair)
    draw_body(scene, geometry.clothes, geometry.gesture.raised)
    draw_behind_head(scene, geometry.worn)
    draw_hanging_hair(scene, geometry.hair)
    draw_head(scene, geometry.face)
    draw_features(scene, geometry.face)
    draw_side_locks(scene, geometry.hair)
    draw_bangs(scene, geometry.hair)
    draw_on_head(scene, geometry.worn)
    draw_gesture(scene, geometry.gesture, geometry.clothes.bare_arms)
    return scene


def draw(geometry: int, height: int, width: int) -> Drawing:
    """Draws a geometry; `paint` gives it the colours of any number of identities."""
    return _draw(geometry, geometry_of(geometry), height, width)


def draw_in_front(geometry: int, background: int, height: int, width: int) -> Drawing:
    """Draws the figure of a geometry in front of the whole background of another one."""
    backdrop = geometry_of(background).backdrop
    return _draw(geometry, replace(geometry_of(geometry), backdrop=backdrop), height, width)


def draw_figure(geometry: int, height: int, width: int) -> Drawing:
    """Draws the figure of a geometry with nothing behind it."""
    return _draw(geometry, replace(geometry_of(geometry), backdrop=None), height, width)


def _draw(geometry: int, described: Geometry, height: int, width: int) -> Drawing:
    view = _view(described, height, width)
    raster = _scene(described, view).rasterise(view)
    k = raster.scale
    slots = np.asarray(raster.slots)
    mask = raster.slots.point(FOREGROUND_OF_SLOT.tolist(), "L").reduce(k)
    lines = Image.frombytes("L", raster.lines.size, raster.lines.tobytes()).reduce(k)
    return Drawing(
        seed=geometry,
        geometry=described,
        raster=raster,
        coverage=np.asarray(lines)[..., None],
        mask=np.asarray(mask)[..., None],
        parts=PART_OF_SLOT[slots[k // 2 :: k, k // 2 :: k]][..., None],
    )


def paint(drawing: Drawing, identity: int) -> Illustration:
    """Colours a drawing."""
    described = identity_of(identity)
    slots = drawing.raster.slots.copy()
    slots.putpalette(color_table(described).tobytes())
    flat = np.asarray(slots.convert("RGB").reduce(drawing.raster.scale), np.float32)
    ink = described.ink.astype(np.float32) + flat * np.float32(described.tint * 0.6)
    cover = drawing.coverage.astype(np.float32) / np.float32(255)
    image = flat + (np.minimum(ink, flat) - flat) * cover
    return Illustration(
        image=np.rint(image).astype(np.uint8),
        sketch=255 - drawing.coverage,
        mask=drawing.mask,
        parts=drawing.parts,
        tags=_tags(drawing.geometry, described),
        aesthetic_score=_score(drawing.seed, identity, described),
    )


def render(geometry: int, identity: int, height: int, width: int) -> Illustration:
    """The character of seed `identity` in the geometry of seed `geometry`.

    Line art, mask and parts depend on the geometry alone.
    """
    return paint(draw(geometry, height, width), identity)


def _tags(geometry: Geometry, identity: Identity) -> tuple[str, ...]:
    names, face = identity.names, geometry.face
    tags = [f"{names['hair']}_hair", f"{names['eyes']}_eyes", geometry.hair.style]
    tags += [geometry.hair.bangs, geometry.clothes.cut, *geometry.worn.tags]
    tags += [geometry.gesture.name] if geometry.gesture.name else []
    tags += [face.mouth, f"{names['background']}_background"]
    optional = {
        "ahoge": geometry.hair.ahoge,
        "wink": len(face.closed) == 1,
        "closed_eyes": len(face.closed) == 2,
        "blush": face.blush,
    }
    tags += [tag for tag, present in optional.items() if present]
    return tuple(tags)


def _score(geometry: int, identity: int, described: Identity) -> float:
    """An invented, deterministic score: contrast of hair and background plus a random term."""
    colors = described.colors
    contrast = float(np.abs(colors["hair"] - colors["background"]).mean()) / 255.0
    taste = Dice(geometry, identity, 106).unit()
    return 4.5 + 1.5 * min(1.0, 2.0 * contrast) + 2.0 * taste
