"""A drawing as an ordered list of operations, and its rasters.

Two indexed rasters are drawn side by side, a few times larger than asked for: `slots`, which names the
paint of every pixel, and `lines`, the pen. Every filled shape rubs out the pen below it, so that only
visible outlines stay. Colours come later, by table: the geometry never sees a colour.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from data.illustrations.curves import CLOSED, OPEN, STRAIGHT, basis, stroke_polygons

HEAD, BACK, BODY, PAGE = range(4)
"""Frames: HEAD turns with the face, BACK tilts with the head only, BODY leans, PAGE is the picture.

HEAD, BACK and BODY are measured in half face widths from the middle of the face; PAGE in the picture's
short side from its top left corner.
"""

Points = Sequence[tuple[float, ...]]
"""Control points (x, y); a third member, `1`, makes the point a corner."""


@dataclass(frozen=True)
class View:
    """Where the head and body stand on the page.

    Attributes:
        height, width: size of the picture, px.
        unit: half a face width as a share of the short side.
        head, body: (x, y) of the frames' origins, in pictures' short sides.
        tilt: rotation of the head, radians, clockwise.
        lean: rotation of the body, radians, clockwise.
        yaw, pitch: how far the middle of the face is turned, half face widths.
    """

    height: int
    width: int
    unit: float
    head: tuple[float, float]
    body: tuple[float, float]
    tilt: float
    lean: float
    yaw: float
    pitch: float

    @property
    def short(self) -> int:
        return min(self.height, self.width)

    def place(self, points: np.ndarray, frames: np.ndarray, scale: int) -> np.ndarray:
        """Moves (R, P, 2) control points of runs in `frames` (R,) to pixels times `scale`."""
        x, y = points[..., 0], points[..., 1]
        over = np.minimum(y + 0.1, 0.0) / 1.36
        turned = np.maximum(1.0 - (x / 1.25) ** 2 - over**2, 0.0) * (frames == HEAD)[:, None]
        x = x + self.yaw * turned
        y = y + self.pitch * turned
        matrices, origins = self._frames(scale)
        matrix, origin = matrices[frames], origins[frames]
        moved = np.empty_like(points)
        for axis in range(2):
            row = matrix[:, axis]
            moved[..., axis] = row[:, :1] * x + row[:, 1:] * y + origin[:, axis, None]
        return moved

    def _frames(self, scale: int) -> tuple[np.ndarray, np.ndarray]:
        pixels = self.short * scale

        def rotation(angle: float) -> list[list[float]]:
            c, s = math.cos(angle), math.sin(angle)
            size = pixels * self.unit
            return [[size * c, -size * s], [size * s, size * c]]

        head, body = rotation(self.tilt), rotation(self.lean)
        page = [[pixels, 0.0], [0.0, pixels]]
        origins = np.array([self.head, self.head, self.body, (0.0, 0.0)]) * pixels
        return np.array([head, head, body, page]), origins


@dataclass(frozen=True)
class Raster:
    """The indexed rasters of a scene, `scale` times the picture's size."""

    slots: Image.Image
    lines: Image.Image
    scale: int


class Scene:
    """Collects shapes from back to front; `rasterise` draws them all."""

    def __init__(self) -> None:
        self._runs: list[tuple[list, int, str, float, tuple[float, float]]] = []
        self._operations: list[tuple] = []

    def fill(
        self,
        slot: int,
        points: Points,
        frame: int = HEAD,
        stroke: float | Sequence[float] = 1.0,
        taper: tuple[float, float] = (0.7, 0.7),
        straight: bool = False,
    ) -> None:
        """A filled shape with its outline.

        Args:
            slot: paint.
            points: closed outline; smooth but at corners.
            frame: one of HEAD, BACK, BODY, PAGE.
            stroke: pen weight, 1 is the usual one, 0 none; or one weight for each run between corners,
                starting at the first corner.
            taper: width at the ends of each run, as a share of the weight.
            straight: join the points by straight lines.
        """
        runs = self._outline(points, frame, stroke, taper, straight)
        self._operations.append(("fill", slot, runs))

    def tone(self, table: Sequence[int], points: Points, frame: int = HEAD) -> None:
        """Repaints the inside of a shape: every slot s below becomes table[s]. Leaves the pen."""
        self._operations.append(("tone", table, self._outline(points, frame, 0.0, (1, 1), False)))

    def line(
        self,
        points: Points,
        frame: int = HEAD,
        weight: float = 0.7,
        taper: tuple[float, float] = (0.25, 0.25),
    ) -> None:
        """An open smooth pen stroke."""
        self._runs.append((list(points), frame, OPEN, weight, taper))
        self._operations.append(("line", [len(self._runs) - 1]))

    def ink(self, slot: int, points: Points, frame: int = HEAD) -> None:
        """A shape filled by the pen itself (lashes), painted `slot` below."""
        self._operations.append(("ink", slot, self._outline(points, frame, 0.0, (1, 1), False)))

    def _outline(self, points, frame, stroke, taper, straight) -> list[int]:
        corners = [i for i, point in enumerate(points) if len(point) > 2]
        first = len(self._runs)
        if not corners:
            flat = [point[:2] for point in points]
            kind = STRAIGHT if straight else CLOSED
            if straight:
                flat.append(flat[0])
            self._runs.append((flat, frame, kind, stroke, (1.0, 1.0)))
            return [first]
        turned = [point[:2] for point in points[corners[0] :]]
        turned += [point[:2] for point in points[: corners[0] + 1]]
        ends = [corner - corners[0] for corner in corners] + [len(points)]
        kind = STRAIGHT if straight else OPEN
        for i in range(len(corners)):
            weight = stroke[i] if isinstance(stroke, (list, tuple)) else stroke
            self._runs.append((turned[ends[i] : ends[i + 1] + 1], frame, kind, weight, taper))
        return list(range(first, len(self._runs)))

    def _curves(self, view: View, scale: int, pen: float, samples: int):
        """Sampled runs and their strokes (None where there is no pen), in pixels of the raster."""
        groups: dict[tuple[int, str], list[int]] = {}
        for i, (points, _, kind, _, _) in enumerate(self._runs):
            groups.setdefault((len(points), kind), []).append(i)
        curves: list = [None] * len(self._runs)
        strokes: list = [None] * len(self._runs)
        for (num_points, kind), members in groups.items():
            runs = [self._runs[i] for i in members]
            frames = np.array([run[1] for run in runs])
            placed = view.place(np.array([run[0] for run in runs], dtype=float), frames, scale)
            value, slope = basis(num_points, kind, samples)
            sampled = value @ placed
            weights = np.array([run[3] for run in runs], dtype=float)
            outlines = stroke_polygons(
                sampled, slope @ placed, weights * pen, np.array([run[4] for run in runs])
            ).astype(np.float32)
            sampled = sampled.astype(np.float32)
            for row, i in enumerate(members):
                curves[i] = sampled[row]
                strokes[i] = outlines[row] if weights[row] > 0 else None
        return curves, strokes

    def rasterise(self, view: View) -> Raster:
        """Draws the scene: `slots` and `lines` (255 pen, 0 paper) in mode P."""
        scale = supersampling(view.short)
        pen = scale * max(1.1, 0.0066 * view.short)
        samples = 5 if view.short * scale <= 320 else 9
        curves, strokes = self._curves(view, scale, pen, samples)
        size = (view.width * scale, view.height * scale)
        slots, lines = Image.new("P", size), Image.new("P", size)
        paint, pencil = ImageDraw.Draw(slots), ImageDraw.Draw(lines)
        for name, *arguments, runs in self._operations:
            if name != "line":
                parts = [curves[i] for i in runs]
                shape = parts[0] if len(parts) == 1 else np.concatenate(parts)
                if name == "tone":
                    _repaint(slots, shape, arguments[0])
                    continue
                paint.polygon(shape, fill=arguments[0])
                pencil.polygon(shape, fill=255 if name == "ink" else 0)
            for i in runs:
                if strokes[i] is not None:
                    pencil.polygon(strokes[i], fill=255)
        return Raster(slots, lines, scale)


def supersampling(short: int) -> int:
    """How many times larger a picture with this short side is drawn."""
    return 4 if short <= 96 else 3 if short <= 384 else 2


def _repaint(slots: Image.Image, shape: np.ndarray, table: Sequence[int]) -> None:
    low = np.maximum(np.floor(shape.min(axis=0)).astype(int), 0)
    high = np.minimum(np.ceil(shape.max(axis=0)).astype(int) + 1, slots.size)
    if (low >= high).any():
        return
    box = (int(low[0]), int(low[1]), int(high[0]), int(high[1]))
    inside = Image.new("1", (box[2] - box[0], box[3] - box[1]))
    ImageDraw.Draw(inside).polygon(shape - low.astype(np.float32), fill=1)
    slots.paste(slots.crop(box).point(table), box, inside)
