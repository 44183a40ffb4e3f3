"""A picture that lies somewhere, and of which only a window is decoded, at the size it is needed.

The window is chosen on the picture as it is looked at, upright. Of a JPEG no more is decoded than
the window's size asks for; only the window is resized, and colours are converted behind that.
"""

import math
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image

from data.errors import PictureError
from data.pictures.masks import read_mask
from data.pictures.reading import (
    SIDEWAYS,
    in_srgb,
    levels,
    on_paper,
    opened,
    orientation,
    turned,
)

# Most bytes that a decoded picture may take in training: threads decode many at a time.
MAX_DECODED = 256 * 2**20
_BYTES = {"1": 2, "L": 1, "P": 6, "PA": 12, "LA": 8, "RGBA": 8, "RGBa": 8}
_BYTES |= {"I;16": 3, "I": 5, "F": 5}
_COLOR_BYTES = 4  # Pillow pads three channels to four
_REDUCING_GAP = 3.0  # shrink by whole factors first, down to so many times the size
_PAPER = 255


class Window(NamedTuple):
    """A part of a picture, in its own pixels; fractions of them too."""

    top: float
    left: float
    height: float
    width: float


class Deferred(Protocol):
    """A picture that is made when a part of it is asked for."""

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) as it is looked at."""
        ...

    def window(
        self, window: Window, height: int, width: int, method: Image.Resampling
    ) -> np.ndarray:
        """A window at (height, width, C) uint8."""
        ...

    def whole(self, height: int, width: int, method: Image.Resampling) -> np.ndarray:
        """All of it at (height, width, C) uint8."""
        ...


class StoredPicture:
    """A picture in a file or an archive.

    Args:
        read: returns the file's content; called when first needed.
        name: what error messages call it.
        kind: "color" -> three channels on white; "sketch" -> greys on white; "mask" -> 255 where
            foreground is.
    """

    def __init__(self, read: Callable[[], bytes], name: str, kind: str) -> None:
        self.name, self.kind, self._read = name, kind, read
        self._decoded: tuple[Image.Image, bytes | None] | None = None
        self._scale = 0.0  # at which it is decoded

    def __repr__(self) -> str:
        return f"StoredPicture({self.name!r}, {self.kind!r})"

    @cached_property
    def content(self) -> bytes:
        """The file."""
        return self._read()

    @cached_property
    def _header(self) -> tuple[tuple[int, int], int]:
        """(H, W) as it is stored, and how it is to be turned."""
        with opened(self.content, self.name, whole=False) as image:
            return (image.height, image.width), orientation(image, self.content)

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) as it is looked at, from its header.

        Raises:
            PictureError: it is missing or no picture.
        """
        stored, turn = self._header
        return stored[::-1] if turn >= SIDEWAYS else stored

    def window(
        self, window: Window, height: int, width: int, method: Image.Resampling
    ) -> np.ndarray:
        """Resize a window to (height, width, C) uint8.

        Raises:
            PictureError: it is missing, damaged, or takes more memory than `MAX_DECODED`.
        """
        full, turn = self._header
        stored, size = self._as_stored(window), (width, height)
        if turn >= SIDEWAYS:
            size = height, width
        scale = max(size[0] / stored.width, size[1] / stored.height)
        with opened(self.content, self.name, whole=False) as image:
            image, profile = self._decode(image, scale)
            part = _resized(image, stored, full, size, method)
            colors, alpha = in_srgb(part, profile, "RGB" if self.kind == "color" else "L")
            array = np.asarray(turned(on_paper(colors, alpha, _PAPER), turn))
        return array if array.ndim == 3 else array[..., None]

    def whole(self, height: int, width: int, method: Image.Resampling) -> np.ndarray:
        """All of it at (height, width, C) uint8; errors as for `window`."""
        return self.window(Window(0, 0, *self.shape), height, width, method)

    def _decode(self, image: Image.Image, scale: float) -> tuple[Image.Image, bytes | None]:
        """Decode, at `scale` at least; twice only where the first time was too small."""
        if self._decoded is None or self._scale < min(scale, 1.0):
            width, height = image.size
            wanted = math.ceil(width * scale), math.ceil(height * scale)
            grey = self.kind != "color" and image.mode == "RGB"
            image.draft("L" if grey else None, wanted)  # does nothing where a format cannot
            self._scale = image.width / width
            _check_memory(image, self.name)
            image.load()
            decoded, profile = levels(image, self.name, mask=self.kind == "mask")
            if self.kind == "mask":
                decoded, profile = read_mask(*in_srgb(decoded, None, "L")), None
            self._decoded = decoded, profile
        return self._decoded

    def _as_stored(self, window: Window) -> Window:
        """The window on the picture as it is stored, before it is turned."""
        (height, width), turn = self.shape, self._header[1]
        top, left, low, right = (
            window.top,
            window.left,
            window.top + window.height,
            window.left + window.width,
        )
        if turn in (2, 3, 6, 7):
            left, right = width - right, width - left
        if turn in (3, 4, 7, 8):
            top, low = height - low, height - top
        if turn >= SIDEWAYS:
            top, left, low, right = left, top, right, low
        return Window(top, left, low - top, right - left)


def _resized(
    image: Image.Image,
    window: Window,
    full: tuple[int, int],
    size: tuple[int, int],
    method: Image.Resampling,
) -> Image.Image:
    """Resize a window of a picture of `full` height and width, decoded perhaps smaller."""
    y, x = image.height / full[0], image.width / full[1]
    box = (
        max(0.0, window.left * x),
        max(0.0, window.top * y),
        min(float(image.width), (window.left + window.width) * x),
        min(float(image.height), (window.top + window.height) * y),
    )
    if box == (0, 0, *image.size) and image.size == size:
        return image
    return image.resize(size, method, box=box, reducing_gap=_REDUCING_GAP)


def _check_memory(image: Image.Image, name: str) -> None:
    needed = image.width * image.height * _BYTES.get(image.mode, _COLOR_BYTES)
    if needed > MAX_DECODED:
        raise PictureError(
            f"got {name} of {image.width}x{image.height} px in mode {image.mode}, which takes "
            f"{needed / 2**20:.0f} MiB to decode, expected at most {MAX_DECODED // 2**20}; scale "
            "it down, or store it as JPEG, which is decoded smaller"
        )
