"""What models are used for: lines, masks, tags, embeddings and scores of pictures."""

import csv
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image

from data.errors import DataError
from data.prepare.models.description import read_description
from data.prepare.models.session import Session, as_input, fitted, open_session
from data.prepare.models.tiles import by_tiles

_CHARACTER, _RATING = "4", "9"  # categories of labels
_PROBE = 256  # px, of the blank picture by which models are checked


class Tags(NamedTuple):
    """What a tagger says of a picture.

    Attributes:
        names: of all tags but ratings, likeliest first.
        characters: those that are names of characters.
    """

    names: list[str]
    characters: list[str]


# ------------------------------------------------------------------------------- lines


def draw_lines(image: Image.Image, path: str, threads: int = 1) -> Image.Image:
    """Dark lines on white of a picture by the model of a description, at its own size."""
    session = open_session(path, threads)
    tile = _tile(session, image.height), _tile(session, image.width)
    overlap = min(session.description.overlap, min(tile) // 2)
    values = by_tiles(np.asarray(image), lambda part: _lines(session, part), tile, overlap)
    low, high = session.description.output_range
    grey = np.clip((values - low) / (high - low), 0, 1)
    if session.description.lines == "light":
        grey = 1 - grey
    return Image.fromarray(np.rint(255 * grey).astype(np.uint8))


def _tile(session: Session, side: int) -> int:
    """How much of a side a model sees at a time, px; a file that fixes its sides says it."""
    description, sides = session.description, session.sides
    if sides is not None:
        if sides[0] != sides[1]:
            raise session.wrong("an input that is a square, or of any size")
        return sides[0]
    return min(description.tile, -(-side // description.multiple) * description.multiple)


def _lines(session: Session, part: np.ndarray) -> np.ndarray:
    planes = _planes(session, session.see(part))
    if planes.shape[1:] != part.shape[:2]:
        raise session.wrong(f"lines of the input's {part.shape[0]}x{part.shape[1]} px")
    return planes.max(axis=0)


def _planes(session: Session, output: np.ndarray) -> np.ndarray:
    """An output of pictures of one channel -> (B, H, W)."""
    if output.ndim == 4:
        axis = 1 if output.shape[1] == 1 else 3
        if output.shape[axis] == 1:
            return output.take(0, axis)
    if output.ndim == 3 and 1 in (output.shape[0], session.description.num_channels):
        return output
    raise session.wrong("one channel of pixels (1, 1, H, W) as its output")


# ------------------------------------------------------------------------------- masks


def segment(image: Image.Image, path: str, threads: int = 1) -> Image.Image:
    """The foreground of a picture by the model of a description, 255 inside, at its own size."""
    session = open_session(path, threads)
    description = session.description
    square, box = fitted(image, _square(session), description.fit)
    plane = _planes(session, session.see(np.asarray(square))).max(axis=0)
    low, high = description.output_range
    plane = _activated(plane, description.activation)
    if description.activation == "none":
        plane = (plane - low) / (high - low)
    mask = Image.fromarray(np.clip(plane, 0, 1).astype(np.float32))
    y, x = mask.height / square.height, mask.width / square.width
    part = box[0] * x, box[1] * y, box[2] * x, box[3] * y
    full = mask.resize(image.size, Image.Resampling.BILINEAR, box=part)
    return Image.fromarray(np.rint(255 * np.clip(np.asarray(full), 0, 1)).astype(np.uint8))


def _square(session: Session) -> int:
    """Side of the square that a model sees, px."""
    sides, size = session.sides, session.description.size
    if sides is None and not size:
        raise session.wrong('a "size" in its description, as its input takes any')
    if sides is not None and (sides[0] != sides[1] or size not in (0, sides[0])):
        raise session.wrong(f"a square input of {size or sides[0]} px")
    return size or sides[0]


def _activated(values: np.ndarray, activation: str) -> np.ndarray:
    if activation == "sigmoid":
        return 1 / (1 + np.exp(-np.clip(values, -60, 60)))
    if activation == "minmax":
        low, high = float(values.min()), float(values.max())
        return (values - low) / max(high - low, 1e-6)
    return values


# --------------------------------------------------------------- tags, embeddings, scores


def tag(image: Image.Image, path: str, threads: int = 1) -> Tags:
    """The tags of a picture by the model of a description."""
    session = open_session(path, threads)
    names, categories = _labels(session.description.labels)
    values = _vector(session, image)
    if len(values) != len(names):
        raise session.wrong(f"{len(names)} classes as {session.description.labels} names")
    scores = _activated(values, session.description.activation)
    likely = np.argsort(-scores, kind="stable").tolist()
    chosen = [i for i in likely if scores[i] >= session.description.threshold]
    return Tags(
        [names[i] for i in chosen if categories[i] != _RATING],
        [names[i] for i in chosen if categories[i] == _CHARACTER],
    )


def embed(image: Image.Image, path: str, threads: int = 1) -> np.ndarray:
    """(D,) float32 of length 1, what the model of a description sees in a picture."""
    values = _vector(open_session(path, threads), image)
    return values / max(float(np.linalg.norm(values)), 1e-6)


def score(image: Image.Image, path: str, threads: int = 1) -> float:
    """The score of a picture by a model on embeddings, or by one on pictures."""
    session = open_session(path, threads)
    features = session.description.features
    if features:
        output = session.run(embed(image, features, threads)[None])
    else:
        output = _vector(session, image)
    if output.size != 1:
        raise session.wrong("one number a picture as its output")
    return float(output.reshape(()))


def _vector(session: Session, image: Image.Image) -> np.ndarray:
    description = session.description
    square, _ = fitted(image, _square(session), description.fit)
    output = session.run(as_input(np.asarray(square), description))
    if output.ndim != 2 or output.shape[0] != 1:
        raise session.wrong("one row (1, N) as its output")
    return output[0]


@cache
def _labels(path: str) -> tuple[list[str], list[str]]:
    """Names and categories of classes: CSV with a column "name" and perhaps "category"."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        detail = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise DataError(
            f"got labels {path or 'nowhere'} ({detail}), expected a CSV file; name it in the "
            "tagger's description"
        ) from error
    if not rows or any(not row.get("name") for row in rows):
        raise DataError(
            f'got labels {path} without a column "name" in every row, expected one label a row; '
            "get the tagger's selected_tags.csv"
        )
    return [row["name"] for row in rows], [row.get("category") or "0" for row in rows]


_USES = {"lines": draw_lines, "masks": segment, "tagger": tag, "embeddings": embed, "score": score}


def check_model(use: str, path: str) -> None:
    """Run a model on a blank picture, so that a wrong one is told before anything is written.

    Args:
        use: "lines", "masks", "tagger", "embeddings" or "score".
        path: of its description.

    Raises:
        DataError: it cannot be used so; its input and output are named.
    """
    read_description(path)
    _USES[use](Image.new("RGB", (_PROBE, _PROBE), (255, 255, 255)), path)
