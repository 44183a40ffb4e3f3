"""Options, seed and inputs of a picture, stored in its PNG file."""

import json
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from PIL import Image, PngImagePlugin

from colorize_jax.errors import UserError
from colorize_jax.inference.options import InferenceOptions
from colorize_jax.io.formats.atomic import NOTHING, Reads, atomic_output

# Keyword of the text chunk that holds the JSON.
KEYWORD = "colorize-jax"


def _own_version() -> str:
    try:
        return metadata.version("colorize-jax")
    except metadata.PackageNotFoundError:
        # Run from a checkout that was not installed.
        return "unknown"


@dataclass(frozen=True)
class PictureMetadata:
    """How to make a picture again.

    Attributes:
        options: all of them, with the seed that was used.
        version: of this package.
        inputs: role ("sketch", "reference", "checkpoint", ...) -> path, as they were given.
        extra: whatever else the writer wants to be found again, as JSON has it.
    """

    options: InferenceOptions
    version: str = field(default_factory=_own_version)
    inputs: dict[str, str] = field(default_factory=dict)
    extra: dict[str, object] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return everything as one line of JSON, ASCII only."""
        return json.dumps(
            {
                "version": self.version,
                "seed": self.options.seed,
                "options": self.options.to_dict(),
                "inputs": self.inputs,
                "extra": self.extra,
            }
        )


def save_png(
    image: Image.Image,
    path: str | Path,
    made_with: PictureMetadata,
    overwrite: bool = False,
    reads: Reads = NOTHING,
) -> None:
    """Write a PNG with its metadata, whole or not at all.

    Raises:
        UserError: the path exists (unless `overwrite`), is one of what is read, or cannot be
            written.
    """
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", f"colorize-jax {made_with.version}")
    text.add_text(KEYWORD, made_with.to_json())
    nbytes = image.width * image.height * 4
    with atomic_output(path, nbytes=nbytes, overwrite=overwrite, reads=reads) as place:
        image.save(place, format="PNG", pnginfo=text)


def read_metadata(path: str | Path) -> PictureMetadata:
    """Read what a PNG was made with.

    Raises:
        UserError: the file is unreadable, was not made here, or holds options that are unknown.
    """
    try:
        with Image.open(path) as image:
            # Text may also stand after the pixels.
            image.load()
            text = image.info.get(KEYWORD)
    except (OSError, SyntaxError, ValueError) as error:
        detail = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(f"got {path}, which cannot be read ({detail}), expected a PNG") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"got {path} of too many pixels, expected a PNG made here") from error
    if not isinstance(text, str):
        raise UserError(
            f"got {path} without colorize-jax's options, expected a PNG as this program wrote it "
            "(editors and chat programs remove them)"
        )
    try:
        content = json.loads(text)
        options = content["options"]
        version, inputs = str(content["version"]), dict(content.get("inputs", {}))
        extra = dict(content.get("extra", {}))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"got {path} with damaged options, expected them as this program wrote them"
        ) from error
    try:
        return PictureMetadata(InferenceOptions.from_dict(options), version, inputs, extra)
    except UserError as error:
        raise UserError(f"{path}, made with version {version}: {error}") from error
