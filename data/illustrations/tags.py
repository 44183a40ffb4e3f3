"""Tags as a fixed vocabulary, so that the tags of many examples stack to one array."""

from collections.abc import Iterable

import numpy as np

from data.errors import DataError
from data.illustrations.canvas.palette import BACKDROP_COLORS, EYE_COLORS, HAIR_COLORS
from data.illustrations.parts.accessories import LARGE, SMALL
from data.illustrations.parts.clothes import CUTS
from data.illustrations.parts.face import MOUTHS
from data.illustrations.parts.gesture import GESTURES
from data.illustrations.parts.hair import BANGS, STYLES

TAG_NAMES: tuple[str, ...] = (
    *(f"{color}_hair" for color in HAIR_COLORS),
    *(f"{color}_eyes" for color in EYE_COLORS),
    *STYLES,
    *BANGS,
    *CUTS,
    *LARGE,
    *filter(None, SMALL),
    *filter(None, GESTURES),
    *MOUTHS,
    *(f"{color}_background" for color in BACKDROP_COLORS),
    *("ahoge", "wink", "closed_eyes", "blush"),
)
"""All tags a picture can have."""

_INDEX = {name: i for i, name in enumerate(TAG_NAMES)}


def encode_tags(tags: Iterable[str]) -> np.ndarray:
    """(T,) uint8: 1 for each of `TAG_NAMES` that is among `tags`.

    Raises:
        DataError: on a tag that is not in the vocabulary.
    """
    encoded = np.zeros(len(TAG_NAMES), np.uint8)
    for tag in tags:
        if tag not in _INDEX:
            raise DataError(f"got tag {tag!r}, expected one of TAG_NAMES; add it to the vocabulary")
        encoded[_INDEX[tag]] = 1
    return encoded


def decode_tags(encoded: np.ndarray) -> tuple[str, ...]:
    """The names of the tags that a (T,) vector of `encode_tags` holds, in vocabulary order."""
    return tuple(TAG_NAMES[i] for i in np.flatnonzero(encoded))
