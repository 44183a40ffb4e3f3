"""Any picture a person may have -> colours and transparency, as a viewer would show them."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, features

from colorize_jax.errors import UserError

# Pillow's own limit; more is a decompression bomb or a mistake.
MAX_PIXELS = 178_956_970

# Formats that Pillow reads by starting another program.
_REFUSED_FORMATS = ("EPS", "WMF")

_REMEDY = (
    "expected a whole PNG, JPEG, WebP, TIFF, BMP or GIF picture; save it again as one of these"
)

PictureSource = str | os.PathLike | Image.Image | np.ndarray


@dataclass(frozen=True)
class Picture:
    """A picture at its own size, upright.

    Attributes:
        rgb: (H, W, 3) uint8, not multiplied by alpha.
        alpha: (H, W) uint8, 255 = opaque; None where every pixel is.
        name: what error messages call it.
    """

    rgb: np.ndarray
    alpha: np.ndarray | None
    name: str

    @property
    def height(self) -> int:
        """Rows, px."""
        return self.rgb.shape[0]

    @property
    def width(self) -> int:
        """Columns, px."""
        return self.rgb.shape[1]

    def on(self, paper: int) -> Image.Image:
        """Return the picture laid on a sheet of grey level `paper` (0..255), as RGB."""
        picture = Image.fromarray(self.rgb)
        if self.alpha is None:
            return picture
        sheet = Image.new("RGB", picture.size, (paper,) * 3)
        sheet.paste(picture, mask=Image.fromarray(self.alpha))
        return sheet


def read_picture(source: PictureSource, name: str | None = None) -> Picture:
    """Read a picture of any mode, size, orientation tag and colour profile.

    16 and 32 bit greys are scaled to 8 bits, CMYK and wide-gamut colours are brought to sRGB (by
    the embedded profile where it is a good one), orientation tags are applied, and of an animation
    or a document the first frame is taken.

    Args:
        source: path, PIL picture, or array (H, W), (H, W, 1), (H, W, 2), (H, W, 3) or (H, W, 4) of
            bool, uint8, uint16 or floats in [0, 1]; 2 and 4 channels: the last is alpha.
        name: what error messages call it; the path by default.

    Raises:
        UserError: it is missing, unreadable, truncated, empty or of more than `MAX_PIXELS`.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, name or "the array")
    if isinstance(source, Image.Image):
        return _convert(source, name or getattr(source, "filename", "") or "the picture")
    if not isinstance(source, str | os.PathLike):
        raise UserError(
            f"got a picture of type {type(source).__name__}, expected a path, a PIL picture or a "
            "numpy array; convert it"
        )
    path = Path(source)
    name = name or str(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"got {name}, which does not exist, expected a picture file") from None
    except (OSError, ValueError) as error:
        detail = getattr(error, "strerror", None) or error
        raise UserError(f"got {name}, which cannot be read ({detail}), {_REMEDY}") from error
    if not content:
        raise UserError(f"got {name}, which is empty, {_REMEDY}")
    with warnings.catch_warnings(), _damage_reported(name):
        # Neither large scans nor odd tags are a reason to worry the reader.
        warnings.simplefilter("ignore")
        with Image.open(BytesIO(content)) as image:
            return _convert(image, name)


def to_array(image: Image.Image) -> np.ndarray:
    """Return an RGB or L picture as float32 in [-1, 1], (H, W, 3) or (H, W)."""
    values = np.asarray(image).astype(np.float32)
    values /= 127.5
    values -= 1
    return values


@contextmanager
def _damage_reported(name: str) -> Iterator[None]:
    """Turn whatever Pillow raises on a bad file into one line."""
    try:
        yield
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(name) from error
    except Image.UnidentifiedImageError as error:
        raise UserError(f"got {name}, which is no picture that can be read, {_REMEDY}") from error
    except Exception as error:
        # A damaged file can raise anything from within the decoders.
        detail = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"got {name}, which is damaged ({detail}), {_REMEDY}") from error


def _convert(image: Image.Image, name: str) -> Picture:
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(name, image.size)
    if not image.width or not image.height:
        raise UserError(f"got {name} of {image.width}x{image.height} px, expected some pixels")
    if image.format in _REFUSED_FORMATS:
        raise UserError(f"got {name}, a drawing in {image.format} format, {_REMEDY}")
    with _damage_reported(name):
        image.load()
        colors, alpha = _split_alpha(ImageOps.exif_transpose(image), name)
    alpha = None if alpha is None else np.asarray(alpha)
    if alpha is not None and alpha.min() == 255:
        alpha = None
    return Picture(np.asarray(colors), alpha, name)


def _split_alpha(image: Image.Image, name: str) -> tuple[Image.Image, Image.Image | None]:
    """Return RGB colours and L transparency (None where the mode has none)."""
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        transparent = image.info.get("transparency")
        colors = Image.fromarray(_to_bytes(values, image.mode.startswith("I;16"), name))
        if not isinstance(transparent, int):
            return colors.convert("RGB"), None
        alpha = np.where(values == transparent, 0, 255).astype(np.uint8)
        return colors.convert("RGB"), Image.fromarray(alpha)
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        profile = image.info.get("icc_profile")
        layers = image.convert("RGBA")
        alpha = layers.getchannel("A")
        colors = layers.convert("RGB")
        # A grey profile does not fit the colours that its picture has become.
        return (colors if image.mode == "LA" else _to_srgb(colors, profile)), alpha
    if image.mode in ("1", "P"):
        return image.convert("RGB"), None
    return _to_srgb(image, image.info.get("icc_profile")), None


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Bring colours to sRGB by their embedded profile; one that does not fit is ignored."""
    if profile and image.mode in ("L", "RGB", "CMYK") and features.check("littlecms2"):
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            if "srgb" not in ImageCms.getProfileDescription(source).lower():
                return ImageCms.profileToProfile(
                    image,
                    source,
                    ImageCms.createProfile("sRGB"),
                    renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
                    outputMode="RGB",
                    flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
                )
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass
    return image.convert("RGB")


def _to_bytes(values: np.ndarray, sixteen_bits: bool, name: str) -> np.ndarray:
    """Scale greys of more than 8 bits to uint8.

    What a file of 32 bit integers or floats means by white is not written in it: 1 (floats), 255
    and 65535 are taken for it where they bound the values, else the largest value is.
    """
    if sixteen_bits:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    values = values.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise UserError(f"got {name} with values that are not finite, {_REMEDY}")
    if low < 0:
        values = values - low
        high -= low
        white = high
    else:
        limits = (255.0, 65535.0) if high > 1 else (1.0,)
        white = next((limit for limit in limits if high <= limit), high)
    return np.rint(values * (255.0 / (white or 1.0))).astype(np.uint8)


def _from_array(values: np.ndarray, name: str) -> Picture:
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.shape[2] not in (1, 2, 3, 4) or not values.size:
        raise UserError(
            f"got {name} of shape {values.shape}, expected (H, W) or (H, W, 1 to 4); reshape it"
        )
    if values.shape[0] * values.shape[1] > MAX_PIXELS:
        raise _too_large(name, values.shape[1::-1])
    if np.issubdtype(values.dtype, np.floating):
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):
            raise UserError(
                f"got {name} with floats from {low:g} to {high:g}, expected them in 0..1; convert "
                "those in [-1, 1] by (x + 1) / 2"
            )
        values = np.rint(values * 255).astype(np.uint8)
    elif values.dtype == bool:
        values = values.astype(np.uint8) * np.uint8(255)
    elif values.dtype == np.uint16:
        values = _to_bytes(values, True, name)
    elif values.dtype != np.uint8:
        raise UserError(
            f"got {name} of {values.dtype}, expected bool, uint8, uint16 or floats; convert it"
        )
    channels = values.shape[2]
    colors, alpha = (values[..., :-1], values[..., -1]) if channels in (2, 4) else (values, None)
    if alpha is not None and alpha.min() == 255:
        alpha = None
    return Picture(
        np.array(np.broadcast_to(colors, (*values.shape[:2], 3))),
        None if alpha is None else alpha.copy(),
        name,
    )


def _too_large(name: str, size: tuple[int, int] | None = None) -> UserError:
    detail = f" of {size[0]}x{size[1]} px" if size else " of too many pixels"
    return UserError(
        f"got {name}{detail}, expected at most {MAX_PIXELS // 10**6} megapixels; scale it down"
    )
