"""A model that runs: pictures to its input, its output to arrays."""

from functools import cache
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from data.errors import DataError
from data.prepare.models.description import Description, read_description

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_HIGH_PASS_LEVELS = 128.0


class Session:
    """An ONNX model and its description."""

    def __init__(self, description: Description, threads: int) -> None:
        self.description = description
        self._session = _opened(description.model, threads)
        self._input = self._one("input", self._session.get_inputs())
        outputs = self._session.get_outputs()
        self._output = self._one("output", outputs) if description.output else outputs[0]

    def __str__(self) -> str:
        """What it takes and gives, as errors name it."""
        return (
            f"{self.description.model} with input {_named(self._input)} and output "
            f"{_named(self._output)}"
        )

    @property
    def sides(self) -> tuple[int, int] | None:
        """(H, W) that its file fixes; None where it takes any."""
        if len(self._input.shape) != 4:
            return None
        found = self._input.shape[2:] if self.description.layout == "NCHW" else (
            self._input.shape[1:3]
        )  # fmt: skip
        return tuple(found) if all(isinstance(side, int) for side in found) else None

    def run(self, values: np.ndarray) -> np.ndarray:
        """Its output for an input.

        Raises:
            DataError: it does not take such an input.
        """
        if self._input.type == "tensor(float16)":
            values = values.astype(np.float16)
        try:
            (result,) = self._session.run([self._output.name], {self._input.name: values})
        except Exception as error:  # the runtime's errors have no class in common
            detail = " ".join(str(error).split())[:200]
            raise DataError(
                f"got model {self}, which does not take {_shape(values.shape)} ({detail}), "
                f"expected one that fits its description {self.description.path}; mend that"
            ) from error
        return np.asarray(result, np.float32)

    def wrong(self, expected: str) -> DataError:
        """An error that names what it takes and gives."""
        return DataError(
            f"got model {self}, expected {expected}; give another file, or mend its description "
            f"{self.description.path}"
        )

    def see(self, image: np.ndarray) -> np.ndarray:
        """Its output for a picture (H, W, 3) uint8 as it is; the batch is 1, or 3 of "each"."""
        return self.run(as_input(image, self.description))

    def _one(self, kind: str, found: list[Any]) -> Any:
        name = getattr(self.description, kind)
        named = [value for value in found if value.name == name] if name else found[:1]
        if not named or (not name and len(found) > 1):
            names = ", ".join(value.name for value in found)
            raise DataError(
                f"got model {self.description.model} with {kind}s {names}, expected "
                f"{name or 'one'}; name it in its description {self.description.path}"
            )
        return named[0]


@cache
def open_session(path: str, threads: int = 1) -> Session:
    """The model of a description, once a process.

    Raises:
        DataError: the description or the model is bad, or onnxruntime is missing.
    """
    return Session(read_description(path), threads)


@cache
def _opened(model: str, threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise DataError(
            f"got model {model} without onnxruntime, expected it to be installed: pip install "
            "'.[onnxruntime]'"
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        with open(model, "rb"):
            pass
        return onnxruntime.InferenceSession(
            model, options, providers=onnxruntime.get_available_providers()
        )
    except OSError as error:
        raise DataError(
            f"got model {model} ({error.strerror}), expected an ONNX file; check its path"
        ) from error
    except Exception as error:  # see `Session.run`
        detail = " ".join(str(error).split())[:200]
        raise DataError(
            f"got model {model}, which is no ONNX model that can be read ({detail}), expected one; "
            "export it anew"
        ) from error


def as_input(image: np.ndarray, description: Description) -> np.ndarray:
    """A picture (H, W, 3) uint8 -> the input that a description asks for, float32."""
    values = image.astype(np.float32)
    if description.channels == "L":
        values = (values @ _LUMA)[..., None]
    elif description.channels == "BGR":
        values = values[..., ::-1]
    if description.high_pass:
        sigmas = (description.high_pass, description.high_pass, 0)
        values = (values - ndimage.gaussian_filter(values, sigmas)) / _HIGH_PASS_LEVELS
        values = values / max(float(values.max()), 1e-6)
    else:
        low, high = description.range
        values = values / np.float32(255) * np.float32(high - low) + np.float32(low)
    count = values.shape[-1]
    mean, std = (np.array(part[:count], np.float32) for part in (description.mean, description.std))
    values = (values - mean) / std
    # (H, W, C) -> a batch of one, or of one-channel pictures.
    batch = values.transpose(2, 0, 1)[..., None] if description.channels == "each" else values[None]
    return np.ascontiguousarray(
        batch.transpose(0, 3, 1, 2) if description.layout == "NCHW" else batch
    )


def fitted(image: Image.Image, size: int, fit: str) -> tuple[Image.Image, tuple[int, ...]]:
    """A picture at `size` x `size`, and the box of that square in which all of it is."""
    width, height = image.size
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        box = left, top, left + side, top + side
        return image.resize((size, size), Image.Resampling.BICUBIC, box=box), (0, 0, size, size)
    if fit == "stretch":
        return image.resize((size, size), Image.Resampling.BICUBIC), (0, 0, size, size)
    scale = size / max(width, height)
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    sheet = Image.new(image.mode, (size, size), (255,) * len(image.getbands()))
    left, top = (size - inner[0]) // 2, (size - inner[1]) // 2
    sheet.paste(image.resize(inner, Image.Resampling.BICUBIC), (left, top))
    return sheet, (left, top, left + inner[0], top + inner[1])


def _named(value: Any) -> str:
    kind = value.type.removeprefix("tensor(").removesuffix(")")
    return f"{value.name!r} {kind} {_shape(value.shape)}"


def _shape(shape: Any) -> str:
    return f"({', '.join('any' if side is None else str(side) for side in shape)})"
