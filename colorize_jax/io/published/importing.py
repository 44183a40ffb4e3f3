"""Published checkpoints -> folders of weights, keeping dtypes and bits."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from colorize_jax.errors import UserError
from colorize_jax.io.formats.atomic import NOTHING, Reads
from colorize_jax.io.formats.tensors import LazyTensor, all_finite
from colorize_jax.io.formats.weights_folder import WeightsMetadata, save_weights
from colorize_jax.io.published import noise_schedules, torch_names
from colorize_jax.io.published.checkpoint import (
    LABEL_EMBEDDING,
    PublishedCheckpoint,
    normal_prediction_type,
)
from colorize_jax.models import architectures
from colorize_jax.types import Params


def import_weights(
    source: PublishedCheckpoint,
    output: str | Path,
    *,
    fit: bool = False,
    prediction_type: str | None = None,
    overwrite: bool = False,
    reads: Reads = NOTHING,
) -> WeightsMetadata:
    """Convert a checkpoint to a folder of weights, keeping dtypes and bits.

    Args:
        source: an opened checkpoint.
        output: folder to make.
        fit: change the label embedding of an SDXL UNet to the colorizer's number of inputs.
        prediction_type: "v" or "eps", for files that do not say.
        overwrite: replace an existing folder of weights.
        reads: what must not be written to.

    Returns:
        The metadata written beside the weights.

    Raises:
        UserError: tensors are missing, unexpected, misshapen or not finite, the prediction type
            contradicts the file, or the output cannot be written.
    """
    said = normal_prediction_type(prediction_type)
    if said and source.prediction_type and said != source.prediction_type:
        raise UserError(
            f"got --prediction-type {prediction_type}, expected {source.prediction_type}, which "
            f"{source.path} says it was trained with; leave the option out"
        )
    if fit:
        source = fit_label_embedding(source)
    found, needed = source.shapes()
    torch_names.check_tensors(found, needed, str(source.path))
    tables = source.expected()
    used = {name: _checked(source.tensors[name]) for table in tables.values() for name in table}
    metadata = source.metadata(said)
    noise_schedules.check_prediction(metadata.prediction_type, metadata.schedule, source.path)

    def networks() -> Iterator[tuple[str, Params]]:
        for component, config in source.configs.items():
            own = {name: used[name] for name in tables[component]}
            abstract = architectures.abstract_weights(source.kind, component, config)
            prefix = source.prefixes[component]
            yield component, torch_names.from_torch(component, own, abstract, prefix=prefix)

    nbytes = sum(tensor.nbytes for tensor in used.values())
    save_weights(output, networks(), metadata, nbytes=nbytes, overwrite=overwrite, reads=reads)
    return metadata


def fit_label_embedding(source: PublishedCheckpoint) -> PublishedCheckpoint:
    """Give a UNet's label embedding the colorizer's number of inputs, as the published code does.

    Column j of the new kernel is column j modulo the old width, divided by how often that old
    column is used. Where the width is right already nothing changes.

    Raises:
        UserError: there is no UNet.
    """
    if "unet" not in source.configs:
        raise UserError(
            f"got --fit for {source.path}, which holds no UNet ({source.kind}), expected an SDXL "
            "checkpoint; leave the option out"
        )
    name = source.prefixes["unet"] + LABEL_EMBEDDING
    if name not in source.tensors:
        return source
    target = architectures.published_config("unet")["vector_channels"]
    old = source.tensors[name]
    config = source.configs["unet"] | {"vector_channels": target}

    def load() -> np.ndarray:
        return fit_columns(np.asarray(old), target)

    new = LazyTensor(name, (old.shape[0], target), old.dtype, load)
    return dataclasses.replace(
        source,
        tensors=source.tensors | {name: new},
        configs=source.configs | {"unet": config},
    )


def fit_columns(kernel: np.ndarray, columns: int) -> np.ndarray:
    """Tile or cut the columns of a (rows, old columns) kernel; see `fit_label_embedding`."""
    used = np.arange(columns) % kernel.shape[1]
    counts = np.bincount(used, minlength=kernel.shape[1])
    fitted = kernel[:, used].astype(np.float32) / counts[used].astype(np.float32)
    return fitted.astype(kernel.dtype)


def _checked(tensor: LazyTensor) -> LazyTensor:
    """Wrap a tensor so that reading it raises UserError unless it holds finite floats."""
    if not jnp.issubdtype(tensor.dtype, jnp.floating):
        raise UserError(
            f"got {tensor.name} as {tensor.dtype.name}, expected floating-point weights; "
            "quantised models cannot be converted, get the original"
        )

    def load() -> np.ndarray:
        array = np.asarray(tensor)
        if not all_finite(array):
            raise UserError(
                f"got NaN or infinity in {tensor.name}, expected finite weights; get another copy "
                "of the file, or an earlier one"
            )
        return array

    return dataclasses.replace(tensor, load=load)
