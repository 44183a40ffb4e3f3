"""What is made of one picture: lines, a mask, and what models say of it."""

import io
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data.errors import PictureError
from data.pictures.lines import STYLES, extract_styles
from data.pictures.masks import estimate_foreground, has_solid_alpha
from data.pictures.reading import Picture, opened, read_picture
from data.pictures.stored import StoredPicture
from data.prepare.jobs.options import Options, is_description
from data.prepare.models.uses import draw_lines, embed, score, segment, tag
from data.sources.names import key, stem
from data.sources.store import Listing, Place, list_folder, read_place

_MAX_LINE_PIXELS = 1536 * 1536  # at which lines are found at most; drawn they are at full size
_PNG_LEVEL = 3


@dataclass
class Product:
    """What is made of one picture.

    Attributes:
        name: of its files.
        files: kind ("color", "sketch", "sketch_thick", "mask") -> (suffix, content).
        facts: a row of `FACTS`.
        problem: why it is left out, None where it is not.
    """

    name: str
    files: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None


def sketch_kinds(options: Options) -> dict[str, str]:
    """Style of lines -> folder of its sketches; the first is the published layout's only one."""
    return {
        style: "sketch" if i == 0 else f"sketch_{style}" for i, style in enumerate(options.styles)
    }


def make(options: Options, row: dict[str, Any]) -> Product:
    """Make all of a picture.

    Args:
        options: of the job.
        row: of the plan.
    """
    product = Product(row["name"])
    place = Place(*(row[part] for part in Place._fields))
    try:
        content = read_place(options.pictures, place)
        with opened(content, place.location) as image:
            picture = read_picture(image, place.location)
    except PictureError as error:
        product.problem = error.reason
        return product
    end = place.location[len(stem(place.location)) :].lower()
    product.files["color"] = end, content
    product.facts |= {"width": picture.width, "height": picture.height}
    shown = picture.on(255)
    for kind, lines in drawn_lines(shown, options).items():
        product.files[kind] = ".png", png(lines)
    if options.masks:
        found = find_mask(picture, shown, place, options)
        if found is not None:
            mask, product.facts["mask"] = found
            product.files["mask"] = ".png", png(mask)
            product.facts["foreground"] = float(np.asarray(mask).mean(dtype=np.float64) / 255)
    product.facts |= told(shown, options)
    return product


def told(shown: Image.Image, options: Options) -> dict[str, Any]:
    """What models say of a picture, by names of `units.FACTS`."""
    facts: dict[str, Any] = {}
    if options.tagger:
        tags = tag(shown, options.tagger, options.threads)
        facts |= {"tags": ", ".join(tags.names), "characters": tags.characters}
    if options.embeddings:
        embedding = embed(shown, options.embeddings, options.threads)
        facts["embedding"] = embedding.astype(np.float16)
    if options.score:
        facts["aesthetic_score"] = score(shown, options.score, options.threads)
    return facts


def png(grey: Image.Image) -> bytes:
    """A picture as PNG."""
    file = io.BytesIO()
    grey.save(file, "PNG", compress_level=_PNG_LEVEL)
    return file.getvalue()


# ------------------------------------------------------------------------------- lines


def drawn_lines(shown: Image.Image, options: Options) -> dict[str, Image.Image]:
    """Kind of sketch -> dark lines on white, of the picture's size."""
    kinds = sketch_kinds(options)
    built_in = [style for style in options.lines if style in STYLES]
    drawn = built_in_lines(shown, built_in)
    for line, style in zip(options.lines, options.styles, strict=True):
        if is_description(line):
            drawn[style] = draw_lines(shown, line, options.threads)
    return {kinds[style]: drawn[style] for style in options.styles}


def built_in_lines(shown: Image.Image, styles: list[str]) -> dict[str, Image.Image]:
    """Style -> dark lines on white, of the picture's size, without a model."""
    if not styles:
        return {}
    small, shrink = shown, (_MAX_LINE_PIXELS / (shown.width * shown.height)) ** 0.5
    if shrink < 1:
        size = max(1, int(shown.width * shrink)), max(1, int(shown.height * shrink))
        small = shown.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    levels = np.asarray(small, np.float32) / np.float32(127.5) - np.float32(1)
    drawn = {}
    for style, lines in extract_styles(levels, styles).items():
        grey = Image.fromarray(np.rint(np.float32(255) * (1 - lines)).astype(np.uint8))
        drawn[style] = grey.resize(shown.size, Image.Resampling.BICUBIC) if shrink < 1 else grey
    return drawn


# ------------------------------------------------------------------------------- masks


def find_mask(
    picture: Picture, shown: Image.Image, place: Place, options: Options
) -> tuple[Image.Image, str] | None:
    """The first mask that there is, 255 inside, and what it is by; None where there is none."""
    for by in options.masks:
        mask = None
        if by == "transparency":
            mask = Image.fromarray(picture.alpha) if has_solid_alpha(picture) else None
        elif by == "estimate":
            inside = estimate_foreground(shown)
            mask = Image.fromarray((inside * 255).astype(np.uint8))
        elif is_description(by):
            mask = segment(shown, by, options.threads)
        else:
            mask = given_mask(by, place.location, shown.size)
        if mask is not None:
            return mask, Path(by).stem
    return None


def given_mask(folder: str, location: str, size: tuple[int, int]) -> Image.Image | None:
    """The mask of a picture's name in a folder; None where it is missing, damaged or misshapen."""
    listing, names = _listed(folder)
    i = names.get(key(location), names.get(stem(key(location))))
    if i is None:
        return None
    place = Place(listing.locations[i], listing.offsets[i], listing.sizes[i], listing.crcs[i])
    stored = StoredPicture(partial(read_place, folder, place), place.location, "mask")
    try:
        height, width = stored.shape
        if abs(np.log(width * size[1] / (height * size[0]))) > 0.02 + 1 / min(*size, height, width):
            return None
        return Image.fromarray(stored.whole(size[1], size[0], Image.Resampling.LANCZOS)[..., 0])
    except PictureError:
        return None


@cache
def _listed(folder: str) -> tuple[Listing, dict[str, int]]:
    """What a folder holds, and where a name, with or without a suffix, is in it."""
    listing = list_folder(folder)
    names = {stem(key(location)): i for i, location in enumerate(listing.locations)}
    return listing, names | {key(location): i for i, location in enumerate(listing.locations)}
