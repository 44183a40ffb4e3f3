"""The format of a record, and helpers of all sources.

Every source yields, under these names, numpy arrays:

    image            (H, W, 3) uint8   the colour picture
    sketch           (H, W, 1) uint8   its line art, paper 255, line 0
    sketch_mask      (H, W, 1) uint8   foreground of the picture, 255 inside
    reference        (h, w, 3) uint8   the picture whose colours are wanted
    reference_mask   (h, w, 1) uint8   its foreground
    size             () float32        size embedding's first input, px
    aesthetic_score  () float32        about 0..10

Drawn illustrations add `parts` and `tags`; cross pairs add further references.
"""

import operator
from typing import Protocol, SupportsIndex

import numpy as np
from PIL import Image

Record = dict[str, np.ndarray]

RECORD_KEYS = (
    "image",
    "sketch",
    "sketch_mask",
    "reference",
    "reference_mask",
    "size",
    "aesthetic_score",
)


class Source(Protocol):
    """Random access to records."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...


def checked_index(index: SupportsIndex, length: int) -> int:
    """`index` as an int.

    Raises:
        IndexError: unless 0 <= index < length.
    """
    index = operator.index(index)
    if not 0 <= index < length:
        raise IndexError(f"got index {index}, expected 0 <= index < {length}")
    return index


def resize(
    picture: np.ndarray,
    height: int,
    width: int,
    method: Image.Resampling = Image.Resampling.LANCZOS,
) -> np.ndarray:
    """(H, W, C) uint8, C 1 or 3 -> (height, width, C); itself where it fits already."""
    if picture.shape[:2] == (height, width):
        return picture
    bands = Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)
    resized = np.asarray(bands.resize((width, height), method))
    return resized[..., None] if resized.ndim == 2 else resized
