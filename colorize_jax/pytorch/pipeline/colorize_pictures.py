"""Pictures -> tensors: sketches, references, masks and backgrounds, on CPU."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

PAPER = -1.0  # of a sketch tensor
PUBLISHED_SIZE = 1024  # px, at which the dilation's length is meant
ASPECT_TOLERANCE = 0.02


class Box(NamedTuple):
    """A rectangle of pixels."""

    top: int
    left: int
    height: int
    width: int

    def crop(self, image: Tensor) -> Tensor:
        """The part of a picture (..., H, W) that is inside."""
        rows = slice(self.top, self.top + self.height)
        return image[..., rows, self.left : self.left + self.width]


class Sketch(NamedTuple):
    """A sketch on its canvas.

    Attributes:
        tensor: (3, H, W) in [-1, 1], line = +1; sides rounded up to what the UNet halves.
        frame: the asked size, at the top left of the canvas.
        box: where the sketch itself lies.
    """

    tensor: Tensor
    frame: Box
    box: Box


class Reference(NamedTuple):
    """A reference and its foreground, at its own size.

    Attributes:
        image: (3, h, w) in [-1, 1].
        mask: (h, w) in [0, 1]; None where nothing asks for it.
        background: (3, h, w) and mask of what stands behind the figure; None likewise.
    """

    image: Tensor
    mask: Tensor | None = None
    background: tuple[Tensor, Tensor] | None = None


def open_picture(source) -> Image.Image:
    """A path, PIL picture or array (H, W[, C]) of uint8 as an upright picture, L, RGB or RGBA."""
    if isinstance(source, str | Path):
        source = Image.open(source)
    elif isinstance(source, np.ndarray):
        source = Image.fromarray(source)
    if not isinstance(source, Image.Image):
        raise ValueError(
            f"got a picture of type {type(source).__name__}, expected a path, a PIL picture or an "
            "array"
        )
    source = ImageOps.exif_transpose(source)
    transparent = source.mode in ("RGBA", "LA", "PA") or "transparency" in source.info
    return source.convert("RGBA") if transparent else source.convert("RGB")


def on_paper(picture: Image.Image, paper: int) -> Image.Image:
    """Lay a picture on a sheet of grey level `paper`."""
    if picture.mode != "RGBA":
        return picture
    sheet = Image.new("RGBA", picture.size, (paper, paper, paper, 255))
    return Image.alpha_composite(sheet, picture).convert("RGB")


def to_tensor(picture: Image.Image) -> Tensor:
    """An RGB picture as (3, H, W) float32 in [-1, 1]."""
    values = torch.from_numpy(np.array(picture)).float().div_(127.5).sub_(1)
    return values.permute(2, 0, 1).contiguous()


def to_pictures(images: Tensor) -> list[Image.Image]:
    """(B, 3, H, W) in [-1, 1] -> RGB pictures."""
    values = images.float().mul(127.5).add(127.5).clamp(0, 255).round()
    return [Image.fromarray(v.permute(1, 2, 0).byte().cpu().numpy()) for v in values]


def prepare_sketch(
    picture: Image.Image, height: int, width: int, preprocessor: str, multiple: int
) -> Sketch:
    """Fit a sketch into (height, width), keep its aspect, pad it with paper."""
    scale = min(height / picture.height, width / picture.width)
    own_height = min(height, max(1, round(picture.height * scale)))
    own_width = min(width, max(1, round(picture.width * scale)))
    box = Box((height - own_height) // 2, (width - own_width) // 2, own_height, own_width)
    sheet = on_paper(picture, 0 if preprocessor == "none" else 255)
    if sheet.size != (own_width, own_height):
        sheet = sheet.resize((own_width, own_height), Image.Resampling.LANCZOS)
    image = to_tensor(sheet)
    canvas = torch.full((3, *(-(-side // multiple) * multiple for side in (height, width))), PAPER)
    box.crop(canvas)[:] = -image if preprocessor == "invert" else image
    return Sketch(canvas, Box(0, 0, height, width), box)


def read_mask(given, picture: Image.Image, what: str) -> Tensor:
    """(h, w) foreground in [0, 1]: a picture whose white is foreground, or a transparency.

    Raises:
        ValueError: there is neither, or the mask has another aspect than its picture.
    """
    if given is None:
        if picture.mode != "RGBA":
            raise ValueError(
                f"got no mask of the {what}, expected one, or a picture with transparency: masks "
                f"are not estimated here; pass {what}_mask"
            )
        return torch.from_numpy(np.array(picture.getchannel("A"))).float() / 255
    mask = on_paper(open_picture(given), 0).convert("L")
    ratio = mask.height * picture.width / (mask.width * picture.height)
    slack = ASPECT_TOLERANCE + 1 / min(*mask.size, *picture.size)
    if abs(math.log(ratio)) > slack:
        raise ValueError(
            f"got a mask of {mask.width}x{mask.height} px for a {what} of "
            f"{picture.width}x{picture.height} px, expected the same aspect"
        )
    return torch.from_numpy(np.array(mask)).float() / 255


def resize_mask(mask: Tensor, height: int, width: int) -> Tensor:
    """Resize (h, w) to (height, width), antialiased, in [0, 1]."""
    if mask.shape == (height, width):
        return mask
    plane = Image.fromarray(mask.numpy()).resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(plane)).clamp(0, 1)


def place_mask(mask: Tensor, sketch: Sketch) -> Tensor:
    """A sketch's mask on its canvas; margins are background."""
    placed = torch.zeros(sketch.tensor.shape[1:])
    sketch.box.crop(placed)[:] = resize_mask(mask, sketch.box.height, sketch.box.width)
    return placed


def dilate(mask: Tensor, width: int) -> Tensor:
    """Widen (h, w): the greatest value in a square of `width` px at 1024 px."""
    reach = round(width // 2 * math.sqrt(mask.shape[0] * mask.shape[1]) / PUBLISHED_SIZE)
    return F.max_pool2d(mask[None, None], 2 * reach + 1, stride=1, padding=reach)[0, 0]


def paint_out(image: Tensor, mask: Tensor, threshold: float, what: str) -> Tensor:
    """Paint the "foreground" or the "background" of a picture (3, h, w) white."""
    painted = mask >= threshold if what == "foreground" else mask < threshold
    return torch.where(painted, torch.ones(()), image)


def cover_box(image: Tensor, height: int, width: int) -> Box:
    """The largest part of a picture, in its middle, that has the aspect of (height, width)."""
    own_height, own_width = image.shape[-2:]
    scale = min(own_height / height, own_width / width)
    part_height = min(own_height, max(1, round(height * scale)))
    part_width = min(own_width, max(1, round(width * scale)))
    top, left = (own_height - part_height) // 2, (own_width - part_width) // 2
    return Box(top, left, part_height, part_width)


def on_canvas(image: Tensor, height: int, width: int) -> Tensor:
    """Cut (3, h, w) to a canvas's aspect and resize it."""
    planes = [
        Image.fromarray(np.ascontiguousarray(channel.numpy())).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        for channel in cover_box(image, height, width).crop(image)
    ]
    return torch.stack([torch.from_numpy(np.array(plane)) for plane in planes]).clamp(-1, 1)


def stretch(image: Tensor, height: int, width: int) -> Tensor:
    """Stretch (C, h, w) to (C, height, width): how the plugin sees a background."""
    return F.interpolate(image[None], (height, width), mode="bicubic", align_corners=False)[0]


def crop_shares(image: Tensor, height: int, width: int) -> Tensor:
    """(4,) top, left, height, width of a canvas in a background, as shares of it."""
    box = cover_box(image, height, width)
    return torch.tensor([0.0, 0.0, box.height / image.shape[1], box.width / image.shape[2]])
