"""A procedural dataset of anime-like characters, with separate seeds for geometry and identity."""

from data.illustrations.drawing import (
    PART_NAMES,
    Drawing,
    Illustration,
    draw,
    draw_figure,
    draw_in_front,
    paint,
    render,
)
from data.illustrations.source import CrossPairSource, IllustrationSource
from data.illustrations.tags import TAG_NAMES, decode_tags, encode_tags

__all__ = [
    "PART_NAMES",
    "TAG_NAMES",
    "CrossPairSource",
    "Drawing",
    "Illustration",
    "IllustrationSource",
    "decode_tags",
    "draw",
    "draw_figure",
    "draw_in_front",
    "encode_tags",
    "paint",
    "render",
]
