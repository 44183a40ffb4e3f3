"""What is seen of a picture while its steps run."""

import base64
import io
from functools import cached_property

import numpy as np
from PIL import Image

MAX_SIDE = 160  # px


class Preview:
    """A small picture, encoded when somebody looks."""

    def __init__(self, pixels: np.ndarray):
        """Keep (h, w, 3) uint8, a pixel of each latent."""
        self._pixels = pixels

    @cached_property
    def url(self) -> str:
        """The picture as a PNG in a data URL."""
        image = Image.fromarray(self._pixels)
        image.thumbnail((MAX_SIDE, MAX_SIDE))
        file = io.BytesIO()
        image.save(file, "PNG")
        return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
