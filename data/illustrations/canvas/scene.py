"""A drawing as an ordered list of operations, and its rasters.

Two indexed rasters are drawn, with supersampling: `slots`, the index of each pixel's paint, and
`lines`, the pen. A filled shape erases the lines below it, so that only visible outlines remain.
Colours are looked up later, in a table: the geometry does not depend on them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from data.illustrations.canvas.curves import CLOSED, OPEN, STRAIGHT, basis, stroke_polygons

HEAD, BACK, BODY, PAGE = range(4)
"""Frames: HEAD turns with the face, BACK tilts with the head only, BODY leans, PAGE is the picture.

HEAD, BACK and BODY are measured in half face widths from the middle of the face; PAGE in the
picture's short side from its top left corner.
"""

Points = Sequence[tuple[float, ...]]
"""Control points (x, y); a third member, `1`, makes the point a corner."""

Table = Sequence[int]
"""What each of the 256 slots becomes."""


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
        """Moves (N, 2) control points in `frames` (N,) to pixels times `scale`."""
        x, y = points.T
        over = np.minimum(y + 0.1, 0.0) / 1.36
        turned = np.maximum(1.0 - (x / 1.25) ** 2 - over**2, 0.0) * (frames == HEAD)
        turn = turned[:, None] * np.array((self.yaw, self.pitch))
        matrices, origins = self._frames(scale)
        return np.einsum("nij,nj->ni", matrices[frames], points + turn) + origins[frames]

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

    def __init__(self, bands: Sequence[int]) -> None:
        """An empty page whose paint, from top to bottom, is `bands`, in equally high stripes."""
        self._bands = bands
        self._points: list[tuple[float, float]] = []
        self._runs: list[tuple[int, int, int, str, float, tuple[float, float]]] = []
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
            stroke: pen weight, 1 is the usual one, 0 none; or one weight for each run between
                corners, starting at the first corner.
            taper: width at the ends of each run, as a share of the weight.
            straight: join the points by straight lines.
        """
        runs = self._outline(points, frame, stroke, taper, straight)
        self._operations.append(("fill", slot, runs))

    def tone(self, table: Table, points: Points, frame: int = HEAD) -> None:
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
        self._operations.append(("line", [self._run(points, frame, OPEN, weight, taper)]))

    def ink(self, slot: int, points: Points, frame: int = HEAD) -> None:
        """A shape filled by the pen itself (lashes), painted `slot` below."""
        self._operations.append(("ink", slot, self._outline(points, frame, 0.0, (1, 1), False)))

    def _run(self, points, frame, kind, weight, taper) -> int:
        """Stores a run as (first point, number of points, frame, kind, weight, taper)."""
        self._runs.append((len(self._points), len(points), frame, kind, weight, taper))
        self._points.extend(points)
        return len(self._runs) - 1

    def _outline(self, points, frame, stroke, taper, straight) -> list[int]:
        corners = [i for i, point in enumerate(points) if len(point) > 2]
        flat = [point[:2] for point in points]
        if not corners:
            if straight:
                return [self._run([*flat, flat[0]], frame, STRAIGHT, stroke, (1.0, 1.0))]
            return [self._run(flat, frame, CLOSED, stroke, (1.0, 1.0))]
        first = corners[0]
        turned = flat[first:] + flat[: first + 1]
        ends = [corner - first for corner in corners] + [len(points)]
        kind = STRAIGHT if straight else OPEN
        weights = stroke if isinstance(stroke, Sequence) else [stroke] * len(corners)
        return [
            self._run(turned[start : end + 1], frame, kind, weight, taper)
            for start, end, weight in zip(ends, ends[1:], weights, strict=False)
        ]

    def _curves(self, view: View, scale: int, pen: float, samples: int):
        """Sampled runs and their strokes (None where there is no pen), in pixels of the raster."""
        first, lengths, frames, kinds, weights, tapers = zip(*self._runs, strict=True)
        placed = view.place(np.array(self._points), np.repeat(frames, lengths), scale)
        first, weights, tapers = np.array(first), np.array(weights), np.array(tapers)
        finest = 0.58 if view.short < 112 else 0.0
        groups: dict[tuple[int, str], list[int]] = {}
        for i, group in enumerate(zip(lengths, kinds, strict=True)):
            groups.setdefault(group, []).append(i)
        curves: list = [None] * len(self._runs)
        strokes: list = [None] * len(self._runs)
        for (num_points, kind), members in groups.items():
            points = placed[first[members][:, None] + np.arange(num_points)]
            value, slope = basis(num_points, kind, samples)
            sampled = value @ points
            for i, curve in zip(members, sampled.astype(np.float32), strict=True):
                curves[i] = curve
            inked = np.flatnonzero(weights[members] > finest)
            if not inked.size:
                continue
            drawn = [members[i] for i in inked]
            outlines = stroke_polygons(
                sampled[inked], slope @ points[inked], weights[drawn] * pen, tapers[drawn]
            ).astype(np.float32)
            for i, outline in zip(drawn, outlines, strict=True):
                strokes[i] = outline
        return curves, strokes

    def rasterise(self, view: View) -> Raster:
        """Draws the scene: `slots` and `lines` (255 pen, 0 paper) in mode P.

        Below 112 px the finest pen strokes are left out: they would only smudge.
        """
        scale = supersampling(view.short)
        pen = scale * max(1.15, 0.0066 * view.short) - 0.7  # polygons come out a little larger
        curves, strokes = self._curves(view, scale, pen, 5 if view.short < 112 else 9)
        size = (view.width * scale, view.height * scale)
        rows = np.array(self._bands, np.uint8)[np.arange(size[1]) * len(self._bands) // size[1]]
        slots = Image.fromarray(np.repeat(rows[:, None], size[0], axis=1))
        slots.putpalette(bytes(768))  # makes it an indexed picture; the colours come later
        lines = Image.new("P", size)
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
    return 4 if short <= 288 else 3 if short <= 640 else 2


def _repaint(slots: Image.Image, shape: np.ndarray, table: Table) -> None:
    width, height = slots.size
    left, top = shape.min(axis=0).tolist()
    right, low = shape.max(axis=0).tolist()
    right, low = min(int(right) + 2, width), min(int(low) + 2, height)
    box = (max(int(left), 0), max(int(top), 0), right, low)
    if box[0] >= box[2] or box[1] >= box[3]:
        return
    inside = Image.new("1", (box[2] - box[0], box[3] - box[1]))
    ImageDraw.Draw(inside).polygon(shape - np.array(box[:2], np.float32), fill=1)
    slots.paste(slots.crop(box).point(table), box, inside)
