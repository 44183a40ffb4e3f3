"""Weights of linear layers in 8 bits, with a scale for each output channel."""

from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from colorize_jax.io.formats.tensors import LazyTensor

# Name -> its dtype and its largest number.
QUANTIZED: Mapping[str, tuple[np.dtype, float]] = {
    "int8": (np.dtype(np.int8), 127.0),
    "float8_e4m3fn": (np.dtype(ml_dtypes.float8_e4m3fn), 448.0),
}
# Networks that are stored so, and words of the layers in them that are not: small and sensitive.
NETWORKS = ("unet", "background_encoder", "sketch_encoder", "reference_projection", "tagger")
SKIPPED = ("embedding", "processor", "cpb_mlp")


def describe(quantization: str) -> dict[str, Any]:
    """What a network's config.json says."""
    return {"dtype": quantization, "skipped": list(SKIPPED)}


def quantized(tensors: list[LazyTensor], quantization: str) -> Iterator[LazyTensor]:
    """Replace weights of linear layers by such of 8 bits, and yield their scales beside them."""
    dtype, largest = QUANTIZED[quantization]
    for tensor in tensors:
        name = tensor.name
        linear = len(tensor.shape) == 2 and name.endswith(".weight")
        if not linear or any(word in name for word in SKIPPED):
            yield tensor
            continue

        def scales(tensor: LazyTensor = tensor) -> np.ndarray:
            peaks = np.abs(np.asarray(tensor).astype(np.float32)).max(axis=1, keepdims=True)
            return np.where(peaks > 0, peaks / largest, 1).astype(np.float32)

        def values(tensor: LazyTensor = tensor) -> np.ndarray:
            scaled = np.asarray(tensor).astype(np.float32) / scales(tensor)
            return (np.rint(scaled) if dtype == np.int8 else scaled).astype(dtype)

        yield LazyTensor(name, tensor.shape, dtype, values)
        yield LazyTensor(f"{name}_scale", (tensor.shape[0], 1), np.dtype(np.float32), scales)


def restored(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The reverse of `quantized`: float32 weights without scales, rounded as they were."""
    found = {}
    for name, tensor in tensors.items():
        scale = tensors.get(f"{name}_scale")
        if name.endswith(".weight_scale"):
            continue
        if scale is None:
            found[name] = tensor
            continue

        def load(tensor: LazyTensor = tensor, scale: LazyTensor = scale) -> np.ndarray:
            return np.asarray(tensor).astype(np.float32) * np.asarray(scale).astype(np.float32)

        found[name] = LazyTensor(name, tensor.shape, np.dtype(np.float32), load)
    return found
