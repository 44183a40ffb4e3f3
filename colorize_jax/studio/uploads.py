"""Bytes from a client -> pictures, bounded before anything is decoded."""

from dataclasses import dataclass

from PIL import Image

from colorize_jax.errors import UserError
from colorize_jax.inference.pictures.arrays import Picture, read_picture
from data.errors import DataError, PictureError
from data.pictures.reading import opened

# Several references of one picture, and where in the sketch each of them counts.
REFERENCES = ("reference", "reference_2", "reference_3", "reference_4")
REGIONS = ("region", "region_2", "region_3", "region_4")
ROLES = (
    "sketch",
    "sketch_mask",
    "reference_mask",
    "background",
    "color_hints",
    *REFERENCES,
    *REGIONS,
)
MASKS = ("sketch_mask", "reference_mask", *REGIONS)


@dataclass(frozen=True)
class UploadLimits:
    """What a client may send.

    Attributes:
        num_bytes: most bytes of a whole request.
        num_pixels: most pixels of one picture.
    """

    num_bytes: int = 64 * 2**20
    num_pixels: int = 32 * 2**20


def read_upload(content: bytes, role: str, limits: UploadLimits) -> Picture:
    """Decode a picture that a client sent.

    Args:
        content: a file of any format that Pillow reads by itself.
        role: one of ROLES; error messages call the picture so.
        limits: the size is known from its first bytes, and checked before it is decoded.

    Raises:
        UserError: it is no picture, damaged, or too large.
    """
    name = f"the {role}"
    if not content:
        raise UserError(f"got an empty {role}, expected a picture; send its bytes")
    try:
        with opened(content, name) as image:
            _check_pixels(image, role, limits)
            return read_picture(image, name, mask=role in MASKS)
    except DataError as error:
        raise UserError(str(error)) from error


def _check_pixels(image: Image.Image, role: str, limits: UploadLimits) -> None:
    if image.width * image.height > limits.num_pixels:
        raise PictureError(
            f"got a {role} of {image.width}x{image.height} px, expected at most "
            f"{limits.num_pixels} pixels; make it smaller"
        )
