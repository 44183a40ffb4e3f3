"""Several references of one picture, each for a part of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .colorize_pictures import Sketch, open_picture, read_mask, resize_mask

KNOWN = {"picture": None, "mask": None, "own_mask": None, "weight": 1.0, "strength": 1.0}


@dataclass(frozen=True)
class Region:
    """One of several references.

    Attributes:
        picture: of the reference; what lies outside of its own mask is transparent.
        mask: of the sketch, white where this reference counts; None: everywhere.
        weight: against the others, where several count.
        strength: factor of its attention.
    """

    picture: Image.Image
    mask: Any
    weight: float
    strength: float


def read_regions(references: Sequence[Mapping[str, Any]]) -> list[Region]:
    """Read {"picture", "mask", "own_mask", "weight", "strength"}; all but the picture may be left.

    Raises:
        ValueError: there is none, one has no picture or an unknown key, or all weights are 0.
    """
    found = []
    for given in references:
        for name in given:
            if name not in KNOWN:
                near = get_close_matches(name, KNOWN, 1, 0)
                raise ValueError(f"got {name!r} of a reference, expected one such as {near[0]!r}")
        own = KNOWN | dict(given)
        if own["picture"] is None:
            raise ValueError("got a reference without a picture, expected its picture")
        if not (own["weight"] >= 0 and own["strength"] >= 0):
            raise ValueError("got a weight or strength below 0, expected at least 0")
        picture = open_picture(own["picture"])
        if own["own_mask"] is not None:
            picture = _cut(picture, read_mask(own["own_mask"], picture, "reference"))
        found.append(Region(picture, own["mask"], own["weight"], own["strength"]))
    if not any(region.weight for region in found):
        raise ValueError("got no references, or weights that are all 0, expected one above")
    return found


def region_weights(
    regions: Sequence[Region], picture: Image.Image, sketch: Sketch, softness: float, cell: int
) -> Tensor:
    """How far each of P references counts: (P, 1, h, w) at the latents' resolution.

    Args:
        regions: the references.
        picture: the sketch as it was read.
        sketch: the same on its canvas; its margins count for every reference.
        softness: deviation of the Gaussian that softens borders, share of the shorter side.
        cell: px on a latent's side.
    """
    height, width = sketch.tensor.shape[1:]
    planes = []
    for region in regions:
        plane = torch.full((height, width), float(region.weight))
        if region.mask is not None:
            mask = read_mask(region.mask, picture, "sketch")
            sketch.box.crop(plane)[:] *= resize_mask(mask, sketch.box.height, sketch.box.width)
            plane = _soften(plane, softness * min(height, width))
        planes.append(plane)
    return F.avg_pool2d(torch.stack(planes)[:, None], cell)


def _cut(picture: Image.Image, mask: Tensor) -> Image.Image:
    """Make transparent what lies outside of a mask."""
    inside = resize_mask(mask, picture.height, picture.width) >= 0.5
    cut = picture.convert("RGBA")
    alpha = np.where(inside.numpy(), np.asarray(cut.getchannel("A")), 0).astype(np.uint8)
    cut.putalpha(Image.fromarray(alpha))
    return cut


def _soften(plane: Tensor, deviation: float) -> Tensor:
    """Blur (H, W) by a Gaussian of four deviations; borders are continued."""
    if not deviation:
        return plane
    reach = int(4 * deviation + 0.5)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / deviation) ** 2)
    kernel = kernel / kernel.sum()
    for axis in (0, 1):
        ends = [plane.narrow(axis, at, 1) for at in (0, plane.shape[axis] - 1)]
        sizes = [reach, 1] if axis == 0 else [1, reach]
        padded = torch.cat([ends[0].repeat(*sizes), plane, ends[1].repeat(*sizes)], dim=axis)
        shape = (1, 1, -1, 1) if axis == 0 else (1, 1, 1, -1)
        plane = F.conv2d(padded[None, None], kernel.view(shape))[0, 0]
    return plane
