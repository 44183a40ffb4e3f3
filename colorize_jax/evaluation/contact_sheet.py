"""Contact sheets: rows of pictures with thin margins and small captions."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_SHEET = (250, 250, 250)
_INK = (70, 70, 70)
_FRAME = (222, 222, 222)
_MARGIN = 8  # px around and between cells
_TITLE_SIZE = 15  # px, column titles
_CAPTION_SIZE = 12  # px
_LEADING = 6  # px between text and picture

Cell = Image.Image | np.ndarray | None


def contact_sheet(
    rows: Sequence[Sequence[Cell]],
    columns: Sequence[str] = (),
    captions: Sequence[str | Sequence[str]] = (),
    cell_size: int | tuple[int, int] | None = None,
) -> Image.Image:
    """Lay pictures out on one page.

    Args:
        rows: pictures, row by row; rows may differ in length. A cell is a PIL picture, an array
            (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8, or of floats in [-1, 1], or None
            for an empty one. Pictures keep their aspect; transparency shows the page.
        columns: a title above each column.
        captions: for each row either one text under the whole row or one text under each cell; a
            text that does not fit ends in an ellipsis.
        cell_size: side of a square cell or its (height, width), px; by default the size of the
            largest picture, between 128 and 384 px along its longer side.

    Returns:
        An RGB picture.

    Raises:
        ValueError: there is no row, or an array is no picture.
    """
    if not rows or not any(len(row) for row in rows):
        raise ValueError("got no pictures, expected at least one row; pass some")
    pictures = [[None if cell is None else _as_picture(cell) for cell in row] for row in rows]
    height, width = _cell_size(pictures, cell_size)
    title_font, caption_font = (
        ImageFont.load_default(size) for size in (_TITLE_SIZE, _CAPTION_SIZE)
    )
    num_columns = max(len(columns), *(len(row) for row in pictures))
    title_height = _line_height(title_font) if any(columns) else 0
    caption_heights = [
        _line_height(caption_font) if i < len(captions) and captions[i] else 0
        for i in range(len(pictures))
    ]
    sheet = Image.new(
        "RGB",
        (
            _MARGIN + num_columns * (width + _MARGIN),
            _MARGIN + title_height + sum(height + _MARGIN + extra for extra in caption_heights),
        ),
        _SHEET,
    )
    draw = ImageDraw.Draw(sheet)
    lefts = [_MARGIN + i * (width + _MARGIN) for i in range(num_columns)]
    for left, title in zip(lefts, columns, strict=False):
        text = _shorten(title, width, title_font)
        middle = left + (width - title_font.getlength(text)) / 2
        draw.text((middle, _MARGIN), text, _INK, title_font)
    top = _MARGIN + title_height
    for i, row in enumerate(pictures):
        for left, picture in zip(lefts, row, strict=False):
            if picture is not None:
                _place(sheet, draw, picture, (left, top), (width, height))
        if caption_heights[i]:
            whole = isinstance(captions[i], str)
            room = sheet.width - 2 * _MARGIN if whole else width
            texts = [captions[i]] if whole else captions[i]
            for left, text in zip(lefts, texts, strict=False):
                place = (left, top + height + _LEADING / 2)
                draw.text(place, _shorten(text, room, caption_font), _INK, caption_font)
        top += height + _MARGIN + caption_heights[i]
    return sheet


def _as_picture(cell: Image.Image | np.ndarray) -> Image.Image:
    if isinstance(cell, Image.Image):
        return cell if cell.mode in ("RGB", "RGBA") else cell.convert("RGBA")
    values = np.asarray(cell)
    if np.issubdtype(values.dtype, np.floating):
        values = np.rint(np.clip(np.nan_to_num(values) * 127.5 + 127.5, 0, 255)).astype(np.uint8)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    is_picture = values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (3, 4))
    if values.dtype != np.uint8 or not is_picture or not values.size:
        raise ValueError(
            f"got an array {values.shape} of {values.dtype}, expected (H, W), (H, W, 1), (H, W, 3) "
            "or (H, W, 4) of uint8 or floats in [-1, 1]; convert it"
        )
    picture = Image.fromarray(values)
    return picture if picture.mode == "RGBA" else picture.convert("RGB")


def _cell_size(
    pictures: list[list[Image.Image | None]], cell_size: int | tuple[int, int] | None
) -> tuple[int, int]:
    if isinstance(cell_size, int):
        return cell_size, cell_size
    if cell_size is not None:
        return cell_size
    sizes = [picture.size for row in pictures for picture in row if picture is not None]
    width, height = (max(sides) for sides in zip(*sizes, strict=True)) if sizes else (128, 128)
    longer = max(width, height)
    scale = min(max(longer, 128), 384) / longer
    return max(1, round(height * scale)), max(1, round(width * scale))


def _place(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    picture: Image.Image,
    corner: tuple[int, int],
    room: tuple[int, int],
) -> None:
    """Put a picture in the middle of its cell, with a hairline that shows where white ends."""
    scale = min(room[0] / picture.width, room[1] / picture.height)
    size = tuple(max(1, round(side * scale)) for side in picture.size)
    if size != picture.size:
        # Small pictures are enlarged by whole factors without interpolation, to show their pixels.
        is_whole = scale >= 2 and scale == int(scale)
        grow = Image.Resampling.NEAREST if is_whole else Image.Resampling.BICUBIC
        picture = picture.resize(size, grow if scale > 1 else Image.Resampling.LANCZOS)
    left, top = (c + (r - s) // 2 for c, r, s in zip(corner, room, size, strict=True))
    sheet.paste(picture, (left, top), picture if picture.mode == "RGBA" else None)
    draw.rectangle((left - 1, top - 1, left + size[0], top + size[1]), outline=_FRAME)


def _line_height(font: ImageFont.FreeTypeFont) -> int:
    return round(font.getbbox("Ågjy")[3]) + _LEADING


def _shorten(text: str, room: float, font: ImageFont.FreeTypeFont) -> str:
    """Return `text`, or as much of it as fits with an ellipsis."""
    text = " ".join(text.split())
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(text + "…") > room:
        text = text[:-1]
    return text.rstrip() + "…"
