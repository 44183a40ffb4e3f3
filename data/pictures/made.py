"""Sketches and masks computed from the colour picture, where there is no file of them."""

import numpy as np
from PIL import Image

from data.pictures.lines import extract_lines
from data.pictures.masks import WORKING_SIZE, estimate_foreground
from data.pictures.stored import StoredPicture, Window


class _Made:
    """What is made from a colour picture and has its size."""

    def __init__(self, picture: StoredPicture) -> None:
        self._picture = picture

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of the picture."""
        return self._picture.shape


class ExtractedLines(_Made):
    """Dark lines on white of a picture, drawn at the size that is asked for."""

    def window(
        self, window: Window, height: int, width: int, method: Image.Resampling
    ) -> np.ndarray:
        """Lines of a window, (height, width, 1) uint8; PictureError as for the picture."""
        colors = self._picture.window(window, height, width, method)
        lines = extract_lines(colors.astype(np.float32) / 127.5 - 1)
        return np.rint(255 * (1 - lines)).astype(np.uint8)[..., None]

    def whole(self, height: int, width: int, method: Image.Resampling) -> np.ndarray:
        """Lines of all of it."""
        return self.window(Window(0, 0, *self.shape), height, width, method)


class EstimatedMask(_Made):
    """The foreground of a picture by `masks.estimate_foreground`, of all of it, made once."""

    def __init__(self, picture: StoredPicture) -> None:
        super().__init__(picture)
        self._mask: Image.Image | None = None

    def window(
        self, window: Window, height: int, width: int, method: Image.Resampling
    ) -> np.ndarray:
        """A window, (height, width, 1) uint8, 255 = foreground; PictureError as for the picture."""
        if self._mask is None:
            rows, columns = self.shape
            scale = min(1.0, WORKING_SIZE / max(rows, columns))
            size = max(1, round(rows * scale)), max(1, round(columns * scale))
            small = self._picture.whole(*size, Image.Resampling.BOX)
            mask = estimate_foreground(Image.fromarray(small))
            self._mask = Image.fromarray((mask * 255).astype(np.uint8))
        y, x = self._mask.height / self.shape[0], self._mask.width / self.shape[1]
        box = (
            window.left * x,
            window.top * y,
            min((window.left + window.width) * x, self._mask.width),
            min((window.top + window.height) * y, self._mask.height),
        )
        return np.asarray(self._mask.resize((width, height), method, box=box))[..., None]

    def whole(self, height: int, width: int, method: Image.Resampling) -> np.ndarray:
        """All of it."""
        return self.window(Window(0, 0, *self.shape), height, width, method)
