"""Encodings of one picture as bytes, in the precision that was asked for, and back.

A record is a safetensors file: `moments`, `clip_tokens`, `tagger_tokens` in that precision,
pictures as PNG, and a few numbers. Of int8 every token (of moments: every place's means, and its
log variances) has a scale of its own.
"""

import io
from collections.abc import Mapping

import ml_dtypes
import numpy as np
import safetensors.numpy
from PIL import Image

from data.records import Record

PRECISIONS = ("float32", "bfloat16", "float16", "int8")
MOMENTS = "moments"
TOKENS = ("clip_tokens", "tagger_tokens")
ENCODINGS = (MOMENTS, *TOKENS)
PICTURES = ("sketch", "sketch_mask")
NUMBERS = ("size", "aesthetic_score")
_SCALE = "_scale"
_HALVES = {MOMENTS: 2}  # means and log variances
_LEAST = np.finfo(np.float16).tiny  # scale of a token of zeros
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}


def pack(record: Record, precision: str) -> bytes:
    """Store one record: float encodings, uint8 pictures (H, W, 1), float numbers."""
    parts: dict[str, np.ndarray] = {}
    for name in ENCODINGS:
        values = np.asarray(record[name], np.float32)
        if precision == "int8":
            parts[name], parts[name + _SCALE] = _quantize(values, _HALVES.get(name, 1))
        elif precision == "bfloat16":  # which safetensors does not know in NumPy
            parts[name] = values.astype(ml_dtypes.bfloat16).view(np.uint16)
        else:
            parts[name] = values.astype(precision)
    for name in PICTURES:
        if name in record:
            parts[name] = np.frombuffer(as_png(record[name]), np.uint8)
    parts["numbers"] = np.array([record[name] for name in NUMBERS], np.float32)
    return safetensors.numpy.save(parts)


def unpack(content: bytes, precision: str, token_dtype: str) -> Record:
    """Read one record; moments in float32, tokens in `token_dtype`."""
    parts = safetensors.numpy.load(content)
    record: Record = {}
    for name in ENCODINGS:
        values = parts[name]
        if precision == "int8":
            values = _dequantize(values, parts[name + _SCALE])
        elif precision == "bfloat16":
            values = values.view(ml_dtypes.bfloat16)
        wanted = np.float32 if name == MOMENTS else np.dtype(token_dtype)
        record[name] = values.astype(wanted, copy=False)
    for name in PICTURES:
        if name in parts:
            with Image.open(io.BytesIO(parts[name].tobytes())) as image:
                record[name] = np.asarray(image)[..., None]
    return record | dict(zip(NUMBERS, parts["numbers"], strict=True))


def as_png(picture: np.ndarray) -> bytes:
    """A picture (H, W, 1) uint8 as it is stored."""
    file = io.BytesIO()
    Image.fromarray(picture[..., 0]).save(file, "PNG")
    return file.getvalue()


def record_bytes(shapes: Mapping[str, tuple[int, ...]], precision: str) -> dict[str, int]:
    """Bytes of each encoding of one record, by its shape; scales included."""
    sizes = {}
    for name in ENCODINGS:
        *places, channels = shapes[name]
        count = int(np.prod(places))
        scales = 2 * count * _HALVES.get(name, 1) if precision == "int8" else 0
        sizes[name] = count * channels * _BYTES[precision] + scales
    return sizes


def _quantize(values: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """(…, C) float32 -> int8, and (…, groups) float16 scales."""
    parts = values.reshape(*values.shape[:-1], groups, -1)
    scale = (np.abs(parts).max(axis=-1, keepdims=True) / 127).astype(np.float16)
    scale = np.maximum(scale, _LEAST)
    steps = np.rint(parts / scale.astype(np.float32)).clip(-127, 127)
    return steps.astype(np.int8).reshape(values.shape), scale[..., 0]


def _dequantize(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    parts = values.reshape(*values.shape[:-1], scale.shape[-1], -1)
    return (parts * scale[..., None].astype(np.float32)).reshape(values.shape)
