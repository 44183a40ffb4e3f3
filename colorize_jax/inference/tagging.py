"""The tagger by itself: pictures -> tags with their probabilities."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from colorize_jax.errors import UserError
from colorize_jax.inference.pictures.arrays import PictureSource, read_picture
from colorize_jax.inference.pictures.preprocess import prepare_reference

RATING = "9"  # the category of which a picture has exactly one


@dataclass(frozen=True)
class Label:
    """One class of a tagger.

    Attributes:
        name: of the tag.
        category: as the list of labels has it: "9" rating, "0" general, "4" character.
    """

    name: str
    category: str


@dataclass(frozen=True)
class Tag:
    """A label that a picture has, with its probability."""

    name: str
    category: str
    score: float


def read_labels(path: str | Path) -> list[Label]:
    """Read a list of labels: CSV with a column "name" and, where it has one, "category".

    Raises:
        UserError: it cannot be read, or has no such column.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        detail = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(f"got labels {path} ({detail}), expected a CSV file; check it") from error
    if not rows or any(row.get("name") is None for row in rows):
        raise UserError(
            f'got labels {path} without a column "name" in every row, expected one label a row '
            "under such a heading; get the tagger's selected_tags.csv"
        )
    return [Label(row["name"], row.get("category") or "0") for row in rows]


class PictureTagger:
    """Names what is in pictures."""

    def __init__(self, logits: Callable[[np.ndarray], np.ndarray], labels: Sequence[Label]):
        """Use a function from pictures (1, H, W, 3) in [-1, 1] to logits (1, number of labels)."""
        self._logits, self._labels = logits, list(labels)

    def __call__(self, picture: PictureSource, threshold: float = 0.35) -> list[Tag]:
        """Return the likeliest rating, then all other tags from a probability on, likeliest first.

        Raises:
            UserError: the picture is unreadable, or the threshold is no probability.
        """
        if not 0 <= threshold <= 1:
            raise UserError(f"got threshold {threshold}, expected a probability from 0 to 1")
        image = prepare_reference(read_picture(picture))
        scores = 1 / (1 + np.exp(-self._logits(image[None])[0].astype(np.float64)))
        tags = sorted(
            (
                Tag(label.name, label.category, float(score))
                for label, score in zip(self._labels, scores, strict=True)
            ),
            key=lambda tag: -tag.score,
        )
        ratings = [tag for tag in tags if tag.category == RATING][:1]
        others = [tag for tag in tags if tag.category != RATING and tag.score >= threshold]
        return ratings + others
