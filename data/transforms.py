"""Augmentations of one record, each a pure `(rng, record) -> record` on uint8 arrays.

Lengths in pixels are the published trainer's at 1024 px and scale with the picture's size,
sqrt(height * width). Meant to be applied in the order of this module.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from data.errors import DataError
from data.pictures.stored import Deferred, Window
from data.records import Record

PUBLISHED_SIZE = 1024
PAPER = 255

# Most pictures are shrunk, where Hamming is nearly as sharp as a cubic for half the work.
_SHRINKING, _ENLARGING = Image.Resampling.HAMMING, Image.Resampling.BICUBIC
_MASK_SHRINKING, _MASK_ENLARGING = Image.Resampling.BOX, Image.Resampling.BILINEAR
_OWN = ("image", "sketch", "sketch_mask", "parts")
_REFERENCE = ("reference", "reference_mask")
# Means of blocks first shrink by whole factors, down to so many times the size: exact enough for
# references, which encoders shrink again.
_REDUCING_GAP, _REFERENCE_GAP = 3.0, 1.0
_WHOLE = 1e-6  # px, below which a window is one of whole pixels


def _check_rate(name: str, rate: float) -> None:
    if not 0.0 <= rate <= 1.0:
        raise DataError(f"got {name} {rate}, expected 0..1; give a probability")


def _scaled(pixels: float, shape: tuple[int, ...]) -> int:
    """A length at the published size -> at the size of an (H, W, ...) picture, px."""
    return round(pixels * math.sqrt(shape[0] * shape[1]) / PUBLISHED_SIZE)


@dataclass(frozen=True)
class BucketCrop:
    """Resizes until the short side fits the bucket, and crops the long side at random.

    The window is chosen first, and only the window is decoded and resized. Sketch and mask get the
    window of their picture. A reference of equal shape gets the same one, so that a reference that
    is the image stays so. A picture of the other orientation is resized until it covers the bucket.

    Sets `size` to sqrt(h w) * min(H, W) / load_size, with h w the crop, H W the picture as it came
    and load_size its short side after resizing: the side of the crop in the picture's own pixels.

    Args:
        height, width: the bucket, px; None takes them from the record's `bucket`, an (h, w) that
            the loader puts there when it batches by buckets.
        reference_size: side of a square that references and their masks are squeezed to, as their
            encoders do anyway, px; None leaves them at the bucket's size.
        whole_reference: squeeze all of a reference into that, not a window of it, and say what the
            picture's window is: `crop`, (4,) top, left, height, width as shares of the picture.
    """

    height: int | None = None
    width: int | None = None
    reference_size: int | None = None
    whole_reference: bool = False

    def __post_init__(self) -> None:
        if (self.height is None) != (self.width is None):
            raise DataError(
                f"got a bucket of {self.height}x{self.width}, expected both sides or neither; "
                "give the other side"
            )

    def __call__(self, rng: np.random.Generator, record: Record) -> Record:
        """The record with all its pictures (h, w, C), without `bucket`.

        Raises:
            DataError: if neither the transform nor the record knows the bucket.
            PictureError: if one of the pictures cannot be used.
        """
        before, record = record, dict(record)
        bucket = record.pop("bucket", None)
        if self.height is not None:
            bucket = (self.height, self.width)
        if bucket is None:
            raise DataError(
                "got a record without a bucket, expected one for BucketCrop(); "
                "give it a height and width, or the loader a sampler"
            )
        height, width = (int(side) for side in bucket)
        offset = rng.random(2)
        original = before["image"].shape
        shares = _shares(original, height, width, offset)
        for name in _OWN:
            if name in record:
                record[name] = _cut(name, before[name], shares, height, width)
        side = self.reference_size
        size = (height, width) if side is None else (side, side)
        own = {"reference": "image", "reference_mask": "sketch_mask"}
        for name in _REFERENCE:
            if name not in record:
                continue
            if before[name] is before.get(own[name]) and not self.whole_reference:
                record[name] = _cut(name, record[own[name]], _ALL, *size)
                continue
            other = before["reference"].shape
            part = _ALL if self.whole_reference else _shares(other, height, width, offset)
            record[name] = _cut(name, before[name], part, *size)
        load_size = min(_covering(original, height, width))
        record["size"] = np.float32(
            math.sqrt(height * width) * min(original[0], original[1]) / load_size
        )
        if self.whole_reference:
            record["crop"] = np.array(shares, np.float32)
        return record


_ALL = Window(0.0, 0.0, 1.0, 1.0)


def _covering(shape: tuple[int, ...], height: int, width: int) -> tuple[int, int]:
    """The smallest (H', W') of the same aspect as (H, W, ...) that covers height x width."""
    scale = max(height / shape[0], width / shape[1])
    return max(height, round(shape[0] * scale)), max(width, round(shape[1] * scale))


def _shares(shape: tuple[int, ...], height: int, width: int, offset: np.ndarray) -> Window:
    """The window of (height, width) at `offset`, shares of the slack; in shares of the picture."""
    rows, columns = _covering(shape, height, width)
    top = int(offset[0] * (rows - height + 1))
    left = int(offset[1] * (columns - width + 1))
    return Window(top / rows, left / columns, height / rows, width / columns)


def _method(name: str, window: Window, height: int, width: int) -> Image.Resampling:
    """How a window of a picture of this name is resized."""
    if name == "parts":
        return Image.Resampling.NEAREST
    shrinks = window.height >= height and window.width >= width
    if name.endswith("mask"):
        return _MASK_SHRINKING if shrinks else _MASK_ENLARGING
    return _SHRINKING if shrinks else _ENLARGING


def _cut(
    name: str, picture: np.ndarray | Deferred, shares: Window, height: int, width: int
) -> np.ndarray:
    """Resizes a window, in shares of the picture, to (height, width, C)."""
    rows, columns = picture.shape[:2]
    window = Window(
        shares.top * rows, shares.left * columns, shares.height * rows, shares.width * columns
    )
    method = _method(name, window, height, width)
    if not isinstance(picture, np.ndarray):
        return picture.window(window, height, width, method)
    whole = [round(side) for side in window]
    distance = max(abs(a - b) for a, b in zip(window, whole, strict=True))
    if distance < _WHOLE and whole[2:] == [height, width]:
        return picture[whole[0] : whole[0] + height, whole[1] : whole[1] + width]
    bands = Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)
    box = (window.left, window.top, window.left + window.width, window.top + window.height)
    box = (*box[:2], min(box[2], columns), min(box[3], rows))
    gap = _REFERENCE_GAP if name in _REFERENCE else _REDUCING_GAP
    gap = None if method == Image.Resampling.NEAREST else gap
    resized = np.asarray(bands.resize((width, height), method, box=box, reducing_gap=gap))
    return resized[..., None] if resized.ndim == 2 else resized


@dataclass(frozen=True)
class BlankMargins:
    """Blanks the sketch's margins, so that the model learns to paint outside of the sketch.

    Args:
        rate: share of the records it changes.
        margin: most of each of the four margins, px at 1024.
    """

    rate: float
    margin: int = 201

    def __post_init__(self) -> None:
        _check_rate("rate of blank margins", self.rate)

    def __call__(self, rng: np.random.Generator, record: Record) -> Record:
        sketch = record["sketch"]
        happens = rng.random() < self.rate
        top, low, left, right = rng.integers(0, _scaled(self.margin, sketch.shape) + 1, 4)
        if not happens:
            return record
        height, width = sketch.shape[:2]
        blank = np.full_like(sketch, PAPER)
        inner = slice(top, height - low), slice(left, width - right)
        blank[inner] = sketch[inner]
        return {**record, "sketch": blank}


def dilate(mask: np.ndarray, reach: int) -> np.ndarray:
    """(H, W, 1) -> the greatest value within `reach` px along both axes."""
    for axis in (0, 1):
        widths = [(0, 0)] * mask.ndim
        widths[axis] = (reach, reach)
        length = mask.shape[axis]
        wide, span = np.pad(mask, widths), 1  # wide[i]: the greatest of `span` values from i on
        while span < 2 * reach + 1:
            step = min(span, 2 * reach + 1 - span)
            count = wide.shape[axis] - step
            wide = np.maximum(
                wide.take(range(count), axis), wide.take(range(step, step + count), axis)
            )
            span += step
        mask = wide.take(range(length), axis)
    return mask


@dataclass(frozen=True)
class AlterReferenceMask:
    """Makes the reference's mask as coarse as one drawn by hand, in exactly one of four ways.

    Args:
        box_rate: share of the records whose mask fills its bounding box.
        grow_rate: share whose mask grows to all blocks that it touches.
        erase_rate: share with a rectangle of the mask erased. It covers 20..50 % of the picture at
            an aspect of 0.2..3.
        dilation: side of the square that widens all other masks, px at 1024; 0 leaves them.
        block: (height, width) of a block, px at 1024.
    """

    box_rate: float = 0.17
    grow_rate: float = 0.33
    erase_rate: float = 0.33
    dilation: int = 21
    block: tuple[int, int] = (60, 40)

    def __post_init__(self) -> None:
        for name in ("box_rate", "grow_rate", "erase_rate"):
            _check_rate(name, getattr(self, name))
        total = self.box_rate + self.grow_rate + self.erase_rate
        _check_rate("box_rate + grow_rate + erase_rate", total)

    def __call__(self, rng: np.random.Generator, record: Record) -> Record:
        return {**record, "reference_mask": self._alter(rng, record["reference_mask"])}

    def _alter(self, rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
        draw = rng.random()
        if draw < self.box_rate:
            return fill_box(mask)
        draw -= self.box_rate
        if draw < self.grow_rate:
            sides = [max(1, _scaled(side, mask.shape)) for side in self.block]
            return grow_to_blocks(mask, *sides)
        if draw < self.grow_rate + self.erase_rate:
            return _erase(rng, mask)
        return dilate(mask, _scaled(self.dilation // 2, mask.shape))


def fill_box(mask: np.ndarray) -> np.ndarray:
    """(H, W, 1) uint8 -> 255 in the bounding box of what is above the middle; no figure, no box."""
    rows, columns = (np.flatnonzero((mask[..., 0] > 127).any(axis=axis)) for axis in (1, 0))
    filled = np.zeros_like(mask)
    if rows.size:
        filled[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = 255
    return filled


def grow_to_blocks(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W, 1) -> the greatest value within each block of a grid from the top left corner."""
    rows, columns = mask.shape[:2]
    padded = np.pad(mask, ((0, -rows % height), (0, -columns % width), (0, 0)))
    blocks = padded.reshape(padded.shape[0] // height, height, -1, width)
    greatest = blocks.max(axis=(1, 3))
    return greatest.repeat(height, 0).repeat(width, 1)[:rows, :columns, None]


def _erase(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    rows, columns = mask.shape[:2]
    area = rng.uniform(0.2, 0.5) * rows * columns
    aspect = math.exp(rng.uniform(math.log(0.2), math.log(3.0)))
    height = min(rows, max(1, round(math.sqrt(area * aspect))))
    width = min(columns, max(1, round(math.sqrt(area / aspect))))
    top, left = rng.integers(rows - height + 1), rng.integers(columns - width + 1)
    erased = mask.copy()
    erased[top : top + height, left : left + width] = 0
    return erased
