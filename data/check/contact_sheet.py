"""What the trainer gets of some pictures: crop, sketch, masks and reference, side by side."""

import numpy as np
from PIL import Image, ImageDraw

from data.buckets import bucket_of, scaled_buckets
from data.errors import DataError, PictureError
from data.sources.folders import FolderSource
from data.transforms import BucketCrop

ROWS, _CELL, _GAP, _HEAD = 5, 192, 8, 16
_COLUMNS = ("sketch", "sketch_mask", "image", "reference", "reference_mask")


def contact_sheet(source: FolderSource, size: int, seed: int = 0) -> Image.Image:
    """Draw some records, chosen by `seed`, each cut to its bucket of about `size` px.

    Raises:
        DataError: none of them can be read.
    """
    rng = np.random.default_rng(seed)
    buckets, shapes = scaled_buckets(size), source.shapes
    rows = []
    for index in rng.permutation(len(source))[: 4 * ROWS].tolist():
        bucket = buckets[int(bucket_of(shapes[index : index + 1], buckets)[0])]
        try:
            rows.append((source.name(index), BucketCrop(*bucket)(rng, source.draw(index, rng))))
        except PictureError:
            continue
        if len(rows) == ROWS:
            break
    if not rows:
        raise DataError("got no picture that can be used, expected some to draw; check them")
    names = [name for name in _COLUMNS if name in rows[0][1]]
    step = _CELL + _GAP
    sheet = Image.new(
        "RGB", (_GAP + step * len(names), _HEAD + len(rows) * (step + _HEAD)), "#808080"
    )
    pen = ImageDraw.Draw(sheet)
    for column, name in enumerate(names):
        pen.text((_GAP + column * step, 2), name, fill="black")
    for number, (title, record) in enumerate(rows):
        top = _HEAD + number * (step + _HEAD)
        pen.text((_GAP, top + 2), title, fill="white")
        for column, name in enumerate(names):
            picture = record[name].squeeze()
            cell = Image.fromarray(picture).convert("RGB")
            cell.thumbnail((_CELL, _CELL))
            sheet.paste(cell, (_GAP + column * step, top + _HEAD))
    return sheet
