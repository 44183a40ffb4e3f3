"""What the networks look at while they make a picture, for the page."""

from typing import Any

import jax
from PIL import Image

from colorize_jax.errors import UserError
from colorize_jax.inference.inputs import check_reference
from colorize_jax.inference.options import InferenceOptions
from colorize_jax.inference.pictures.arrays import Picture
from colorize_jax.inference.pipeline import ColorizePipeline
from colorize_jax.looking.sheets import Looks
from colorize_jax.studio.service import INTERNAL, OUT_OF_MEMORY, BusyError, Service

NOISE = 0.5  # share of the timesteps at which the networks look


def look(
    service: Service, pictures: dict[str, Picture], options: InferenceOptions, name: str
) -> Image.Image:
    """Draw a sheet, on the device's thread.

    Args:
        service: whose pipeline it is.
        pictures: sketch and reference; masks and further references are not looked at.
        options: of the picture, with a seed.
        name: of the sheet, of `sheets.TEXTS`.

    Raises:
        UserError: bad input, a sheet that this picture has not, or the device failed.
    """
    reference = pictures.get("reference")
    check_reference(reference, options.replace(unconditional=False))
    if options.unconditional:
        raise UserError("got unconditional, expected a reference to look at; drop the option")
    service.check_size(pictures["sketch"], options)

    def draw(pipeline: ColorizePipeline) -> Any:
        return Looks(pipeline, options, pictures["sketch"], reference, NOISE).sheet(name)

    try:
        return service.run(draw).result()
    except BusyError as error:
        raise UserError(str(error)) from error
    except jax.errors.JaxRuntimeError as error:
        full = "RESOURCE_EXHAUSTED" in str(error)
        reason = OUT_OF_MEMORY if full else INTERNAL.format(type(error).__name__)
        raise UserError(reason) from error
