"""Pictures as colouring wants them: read as training reads them, errors in our own words."""

import numpy as np
from PIL import Image

from colorize_jax.errors import UserError
from data.errors import DataError
from data.pictures import reading
from data.pictures.reading import Picture, PictureSource

__all__ = ["Picture", "PictureSource", "read_picture", "to_array"]


def read_picture(source: PictureSource, name: str | None = None, *, mask: bool = False) -> Picture:
    """Read a picture of any mode, size, orientation tag and colour profile.

    Arguments are those of `data.pictures.reading.read_picture`.

    Raises:
        UserError: it is missing, unreadable, truncated, empty or too large.
    """
    try:
        return reading.read_picture(source, name, mask=mask)
    except DataError as error:
        raise UserError(str(error)) from error


def to_array(image: Image.Image | np.ndarray) -> np.ndarray:
    """Return an RGB or L picture, of 8 bits, as float32 in [-1, 1], (H, W, 3) or (H, W)."""
    values = np.asarray(image).astype(np.float32)
    values /= 127.5
    values -= 1
    return values
