"""Any picture a person may have -> colours and transparency, as a viewer would show them.

The one reader of training and of colouring. A file is taken apart in four steps, so that all of it
or a window of it can be had by the same rules: `opened` finds what it is, `levels` brings it to
8 bits a channel, `in_srgb` to the colours of a screen, `turned` upright.
"""

import contextlib
import math
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, features

from data.errors import PictureError

# A picture of so many takes less than 1 GB of memory while it is read; 8192 x 8192.
MAX_PIXELS = 2**26
MAX_PIXELS_COPIED = 2**25  # where a decoder, or the way to 8 bits, holds several copies
_COPYING_FORMATS = frozenset(("WEBP", "AVIF", "HEIF"))
_COPIED_MODES = frozenset(("I", "F"))

# Formats that Pillow reads by starting another program, or that hold no picture of their own.
REFUSED_FORMATS = frozenset(("EPS", "WMF", "MPEG", "FITS", "HDF5", "GRIB", "BUFR"))

_REMEDY = (
    "expected a whole PNG, JPEG, WebP, TIFF, BMP or GIF picture; save it again as one of these"
)
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = 5  # from this orientation on rows become columns
_ROWS = 1024  # that are copied, or whose deep greys are scaled, at a time

# Neither large scans nor odd tags are a reason to worry the reader. For good: what filters warnings
# for a while does so for all threads.
warnings.filterwarnings("ignore", module=r"PIL\.")

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
        alpha = None if self.alpha is None else Image.fromarray(self.alpha)
        return on_paper(Image.fromarray(self.rgb), alpha, paper)


def read_picture(source: PictureSource, name: str | None = None, *, mask: bool = False) -> Picture:
    """Read a picture of any mode, size, orientation tag and colour profile.

    16 and 32 bit greys are scaled to 8 bits, CMYK and wide-gamut colours are brought to sRGB (by
    the embedded profile where it is a good one), orientation tags are applied, and of an animation
    or a document the first frame is taken.

    Args:
        source: path, PIL picture, or array (H, W), (H, W, 1), (H, W, 2), (H, W, 3) or (H, W, 4) of
            bool, uint8, uint16 or floats in [0, 1]; 2 and 4 channels: the last is alpha.
        name: what error messages call it; the path by default.
        mask: whether it is a mask, see `levels`.

    Raises:
        PictureError: it is missing, unreadable, truncated, empty or of more than `MAX_PIXELS`
            (`MAX_PIXELS_COPIED`).
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, name or "the array")
    if isinstance(source, Image.Image):
        return _whole(source, name or getattr(source, "filename", "") or "the picture", mask)
    if not isinstance(source, str | os.PathLike):
        raise PictureError(
            f"got a picture of type {type(source).__name__}, expected a path, a PIL picture or a "
            "numpy array; convert it"
        )
    name = name or str(source)
    with opened(read_file(Path(source), name), name) as image:
        return _whole(image, name, mask, own=True)


def read_file(path: Path, name: str) -> bytes:
    """Return a file's content.

    Raises:
        PictureError: it is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise PictureError(f"got {name}, which does not exist, expected a picture file") from None
    except (OSError, ValueError) as error:
        detail = getattr(error, "strerror", None) or error
        raise PictureError(f"got {name}, which cannot be read ({detail}), {_REMEDY}") from error


@contextlib.contextmanager
def opened(content: bytes, name: str, *, whole: bool = True) -> Iterator[Image.Image]:
    """Open a picture; whatever its decoder raises, here or in the block, becomes one line.

    Args:
        content: of its file.
        name: what messages call it.
        whole: whether all of its pixels will be brought to 8 bits and sRGB, for which their number
            is limited; who does not has a limit of its own.

    Raises:
        PictureError: it is empty, no picture, damaged or too large.
    """
    if not content:
        raise PictureError(f"got {name}, which is empty, {_REMEDY}")
    register_plugins()
    with _damage_reported(name), Image.open(BytesIO(content)) as image:
        check_size(image, name, limited=whole)
        yield image


@cache
def register_plugins() -> None:
    """Let Pillow read HEIC where its plugin is installed (AVIF it reads by itself)."""
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()


@cache
def suffixes() -> frozenset[str]:
    """Suffixes of the files that can be read here, such as ".png", in small letters."""
    register_plugins()
    known = Image.registered_extensions()
    readable = set(Image.OPEN) - REFUSED_FORMATS
    return frozenset(suffix for suffix, kind in known.items() if kind in readable)


def check_size(image: Image.Image, name: str, *, limited: bool = True) -> None:
    """Raise PictureError for no pixels, too many (where they are `limited`) or a refused format."""
    copied = image.format in _COPYING_FORMATS or image.mode in _COPIED_MODES
    limit = MAX_PIXELS_COPIED if copied else MAX_PIXELS
    if limited and image.width * image.height > limit:
        raise _too_large(name, image.size, limit)
    if not image.width or not image.height:
        raise PictureError(
            f"got {name} of {image.width}x{image.height} px, expected some pixels; remove it"
        )
    if image.format in REFUSED_FORMATS:
        raise PictureError(f"got {name}, a drawing in {image.format} format, {_REMEDY}")


def orientation(image: Image.Image, content: bytes | None = None) -> int:
    """How a picture is to be turned, an EXIF orientation 1..8.

    Args:
        image: opened; its pixels need not be decoded.
        content: the file, for PNG: only there the tag may stand behind the pixels, and asking
            Pillow for it would decode them.
    """
    if image.format == "PNG" and content is not None:
        told = image.info.keys() & _EXIF_KEYS or b"eXIf" in content
        if not told:
            return 1
    turn = image.getexif().get(_ORIENTATION, 1)
    return turn if turn in _TURNS else 1


_EXIF_KEYS = {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"}


def turned(image: Image.Image, turn: int) -> Image.Image:
    """Turn a picture upright that has the EXIF orientation `turn`."""
    return image.transpose(_TURNS[turn]) if turn in _TURNS else image


def levels(
    image: Image.Image, name: str, *, mask: bool = False
) -> tuple[Image.Image, bytes | None]:
    """Bring a decoded picture to 8 bits a channel.

    Args:
        image: any mode.
        name: for errors.
        mask: deep greys are a mask's: their white may be 1, 255 or 65535 in any of their types.

    Returns:
        A picture in a mode that can be resized (L, LA, RGB, RGBA, CMYK, YCbCr, LAB, HSV), and the
        colour profile that goes with it.
    """
    profile = image.info.get("icc_profile")
    if image.mode.startswith(("I", "F")):
        values = _array(image)
        limits = _limits(values, mask)
        grey = Image.fromarray(_to_bytes(values, limits, name))
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
        return grey, None
    if image.mode in ("La", "RGBa"):
        return image.convert(image.mode.upper()), profile if image.mode == "RGBa" else None
    if image.mode == "PA" or "transparency" in image.info:
        # A grey profile does not fit the colours that its picture has become.
        return image.convert("RGBA"), None if image.mode == "L" else profile
    if image.mode == "P":
        return image.convert("RGB"), profile
    if image.mode == "1":
        return image.convert("L"), None
    return image, None if image.mode == "LA" else profile


def in_srgb(
    image: Image.Image, profile: bytes | None, mode: str = "RGB"
) -> tuple[Image.Image, Image.Image | None]:
    """Return sRGB colours ("RGB") or greys ("L") of what `levels` gave, and its transparency."""
    alpha = None
    if image.mode in ("LA", "RGBA"):
        alpha = image.getchannel("A")
        image = image.convert(image.mode[:-1])
    if profile and image.mode in ("L", "RGB", "CMYK") and features.check("littlecms2"):
        image = _by_profile(image, profile)
    return image if image.mode == mode else image.convert(mode), alpha


def on_paper(colors: Image.Image, alpha: Image.Image | None, paper: int) -> Image.Image:
    """Lay a picture on a sheet of grey level `paper` (0..255)."""
    if alpha is None:
        return colors
    sheet = Image.new(colors.mode, colors.size, (paper,) * len(colors.getbands()))
    sheet.paste(colors, mask=alpha)
    return sheet


def _whole(image: Image.Image, name: str, mask: bool, own: bool = False) -> Picture:
    """Decode a picture; its pixels are dropped early where it is our `own`."""
    check_size(image, name)
    with _damage_reported(name):
        image.load()
        turn = orientation(image)
        colors, alpha = in_srgb(*levels(image, name, mask=mask))
        if own and colors is not image:
            image.close()
        colors = _array(turned(colors, turn))
        alpha = None if alpha is None else _array(turned(alpha, turn))
    return Picture(colors, None if alpha is None or alpha.min() == 255 else alpha, name)


def _array(image: Image.Image) -> np.ndarray:
    """The values of a picture, copied by rows: at once, Pillow would hold them twice."""
    width, height = image.size
    first = np.asarray(image.crop((0, 0, width, 1)))
    values = np.empty((height, *first.shape[1:]), first.dtype)
    for start in range(0, height, _ROWS):
        rows = (0, start, width, min(start + _ROWS, height))
        values[start : start + _ROWS] = np.asarray(image.crop(rows))
    return values


@contextlib.contextmanager
def _damage_reported(name: str) -> Iterator[None]:
    """Turn whatever Pillow raises on a bad file into one line."""
    try:
        yield
    except PictureError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(name) from error
    except Image.UnidentifiedImageError as error:
        raise PictureError(
            f"got {name}, which is no picture that can be read, {_REMEDY}"
        ) from error
    except Exception as error:
        # A damaged file can raise anything from within the decoders.
        detail = " ".join(str(error).split()) or type(error).__name__
        raise PictureError(f"got {name}, which is damaged ({detail}), {_REMEDY}") from error


def _by_profile(image: Image.Image, profile: bytes) -> Image.Image:
    """Bring colours to sRGB by their embedded profile; one that does not fit is ignored."""
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return image
        return ImageCms.profileToProfile(
            image,
            source,
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image


def _limits(values: np.ndarray, mask: bool) -> tuple[float, ...]:
    """What may be white in deep greys: a file of 32 bit integers or floats does not say it."""
    if mask:
        return 1.0, 255.0, 65535.0
    if values.dtype == np.uint16:
        return (65535.0,)
    return (1.0,) if values.max() <= 1 else (255.0, 65535.0)


def _to_bytes(values: np.ndarray, limits: tuple[float, ...], name: str) -> np.ndarray:
    """Scale greys to uint8; white is the first limit that bounds them, or else their largest."""
    low, high = float(values.min()), float(values.max())
    if not math.isfinite(low) or not math.isfinite(high):
        raise PictureError(f"got {name} with values that are not finite, {_REMEDY}")
    base = min(low, 0.0)
    white = high - base
    if not base:
        white = next((limit for limit in limits if high <= limit), high)
    result = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), _ROWS):  # a whole scan as floats would take gigabytes
        part = values[start : start + _ROWS].astype(np.float32)
        result[start : start + _ROWS] = np.rint((part - base) * (255.0 / (white or 1.0)))
    return result


def _from_array(values: np.ndarray, name: str) -> Picture:
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.shape[2] not in (1, 2, 3, 4) or not values.size:
        raise PictureError(
            f"got {name} of shape {values.shape}, expected (H, W) or (H, W, 1 to 4); reshape it"
        )
    if values.shape[0] * values.shape[1] > MAX_PIXELS:
        raise _too_large(name, values.shape[1::-1])
    if np.issubdtype(values.dtype, np.floating):
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):
            raise PictureError(
                f"got {name} with floats from {low:g} to {high:g}, expected them in 0..1; convert "
                "those in [-1, 1] by (x + 1) / 2"
            )
        values = np.rint(values * 255).astype(np.uint8)
    elif values.dtype == bool:
        values = values.astype(np.uint8) * np.uint8(255)
    elif values.dtype == np.uint16:
        values = _to_bytes(values, _limits(values, False), name)
    elif values.dtype != np.uint8:
        raise PictureError(
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


def _too_large(
    name: str, size: tuple[int, int] | None = None, limit: int | None = None
) -> PictureError:
    detail = f" of {size[0]}x{size[1]} px" if size else " of too many pixels"
    return PictureError(
        f"got {name}{detail}, expected at most {(limit or MAX_PIXELS) // 10**6} megapixels; scale "
        "it down"
    )
