"""A procedural dataset of anime-like characters, with separate seeds for geometry and identity."""

from data.illustrations.drawing import PART_NAMES, Drawing, Illustration, draw, paint, render
from data.illustrations.source import CrossPairSource, IllustrationSource

__all__ = [
    "PART_NAMES",
    "CrossPairSource",
    "Drawing",
    "Illustration",
    "IllustrationSource",
    "draw",
    "paint",
    "render",
]
