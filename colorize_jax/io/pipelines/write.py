"""Write a folder that diffusers' `DiffusionPipeline.from_pretrained` loads and runs.

    model_index.json, pipeline.py, ...     the pipeline, our PyTorch code
    unet/ vae/ sketch_encoder/ ...         config.json, weights and code of every component
    README.md, LICENSE                     the model card, and the code's licence

Networks are written one after another and tensor by tensor, so that little more memory is needed
than for the largest module.
"""

import dataclasses
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from colorize_jax.errors import UserError
from colorize_jax.io.formats import safetensors_writer
from colorize_jax.io.formats.atomic import NOTHING, Reads, atomic_output
from colorize_jax.io.formats.tensors import LazyTensor
from colorize_jax.io.open_weights import Weights
from colorize_jax.io.pipelines import card, configs, names, quantize
from colorize_jax.io.published import diffusers_names
from colorize_jax.io.published.export import DTYPES, file_metadata, published_tensors
from colorize_jax.models.architectures import SCALING_FACTOR

KIND = "a pipeline folder"
PRECISIONS = (*DTYPES, *quantize.QUANTIZED)
NEEDED = ("unet", "sketch_encoder", "reference_projection", "vae", "clip_vision", "tagger")
# The components of other networks: folder -> the network whose configuration they follow.
PROCESSORS = {"feature_extractor": "clip_vision", "tagger_feature_extractor": "tagger"}


@dataclass(frozen=True)
class Suggestions:
    """What the folder says of how pictures are made with it.

    Attributes:
        limits: "default_size", "minimum_size", "size_multiple", "autofit_multiple", px.
        defaults: options of pictures that the model was sampled with.
        sampling: "sampler" and "schedule", where a run says them.
    """

    limits: Mapping[str, int]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, str] = field(default_factory=dict)


def write_pipeline(
    weights: Weights,
    output: str | Path,
    suggestions: Suggestions,
    about: card.Card,
    *,
    dtype: str | None = None,
    max_shard_bytes: int | None = None,
    overwrite: bool = False,
    reads: Reads = NOTHING,
) -> dict[str, int]:
    """Write the folder.

    Args:
        weights: a whole system.
        output: folder to make.
        suggestions: for those who make pictures with it.
        about: what its card says.
        dtype: one of `PRECISIONS`; None keeps every tensor's own. In float16 the autoencoder, which
            overflows there, has float32; with 8 bits all other tensors have bfloat16.
        max_shard_bytes: write shards of at most this size and an index.
        overwrite: replace what is there, if it is such a folder that we made.
        reads: what must not be written to.

    Returns:
        Network -> bytes of its weights.

    Raises:
        UserError: networks are missing or none that the folder can hold, a tensor is not finite (or
            not in this dtype), or the output cannot be written.
    """
    check(weights)
    tensors = all_tensors(weights, dtype)
    place = {"kind": KIND, "overwrite": overwrite, "reads": reads}
    with atomic_output(output, nbytes=total_bytes(tensors), **place) as folder:
        return write_into(folder, weights, tensors, suggestions, about, dtype, max_shard_bytes)


def all_tensors(weights: Weights, dtype: str | None) -> dict[str, list[LazyTensor]]:
    """Network -> its tensors under their names in the folder, in the folder's order."""
    networks = [name for name in names.FOLDERS if name in weights.abstract]
    return {name: folder_tensors(weights, name, dtype) for name in networks}


def total_bytes(tensors: Mapping[str, list[LazyTensor]]) -> int:
    """The size of tensors of all networks."""
    return sum(tensor.nbytes for part in tensors.values() for tensor in part)


def write_into(
    folder: Path,
    weights: Weights,
    tensors: Mapping[str, list[LazyTensor]],
    suggestions: Suggestions,
    about: card.Card,
    dtype: str | None,
    max_shard_bytes: int | None,
) -> dict[str, int]:
    """Write into an existing folder what `write_pipeline` describes; `tensors` of `all_tensors`."""
    own, metadata = weights.metadata.configs, weights.metadata
    sizes = {name: sum(tensor.nbytes for tensor in part) for name, part in tensors.items()}
    scaling_factor = metadata.scaling_factor or SCALING_FACTOR
    components = [names.FOLDERS[name] for name in tensors] + [*PROCESSORS, "scheduler"]
    for component in components:
        (folder / component).mkdir()
        copy_code(configs.CLASSES[component][0], folder / component)
    for name, part in tensors.items():
        content = configs.network_json(
            name,
            own[name],
            size=metadata.size,
            vae=own["vae"],
            scaling_factor=scaling_factor,
            quantization=_quantization(name, dtype),
        )
        target = folder / names.FOLDERS[name]
        write_json(target / "config.json", content)
        _write_weights(target, name, part, file_metadata(weights, [name]), max_shard_bytes)
    for component, name in PROCESSORS.items():
        content = configs.processor_json(name, own[name])
        write_json(folder / component / "preprocessor_config.json", content)
    scheduler = configs.scheduler_json(
        metadata.prediction_type, metadata.schedule, suggestions.sampling
    )
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    index = configs.model_index(components, suggestions.limits, suggestions.defaults)
    write_json(folder / "model_index.json", index)
    copy_code("pipeline", folder)
    card.write(folder, about, sizes, dtype)
    return sizes


def check(weights: Weights) -> None:
    """Check that weights are a system that the folder can hold.

    Raises:
        UserError: see `write_pipeline`.
    """
    missing = [name for name in NEEDED if name not in weights.abstract]
    if missing:
        raise UserError(
            f"got {', '.join(weights.abstract)} for a pipeline, expected {', '.join(missing)} too; "
            "name their weights with --checkpoint as well"
        )
    configs.check_unet(weights.metadata.configs["unet"])
    if weights.metadata.prediction_type is None:
        raise UserError(
            "got a UNet that does not say what it predicts, expected v or eps; import it again "
            "with --prediction-type"
        )


def folder_tensors(weights: Weights, component: str, dtype: str | None) -> list[LazyTensor]:
    """A network's tensors under their names in the folder; see `write_pipeline`."""
    stored = "bfloat16" if dtype in quantize.QUANTIZED else dtype
    if component == "vae" and stored == "float16":
        stored = "float32"
    table = names.folder_names(component, weights.metadata.configs[component])
    quantization = _quantization(component, dtype)
    # What is quantized is rounded once.
    source = published_tensors(weights, component, dtype=None if quantization else stored)
    found = [_renamed(tensor, table[tensor.name], component) for tensor in source]
    if quantization is None:
        return found
    return [
        tensor if tensor.dtype.itemsize == 1 or _is_scale(tensor) else _cast(tensor, stored)
        for tensor in quantize.quantized(found, dtype)
    ]


def _is_scale(tensor: LazyTensor) -> bool:
    return tensor.name.endswith(".weight_scale")


def _cast(tensor: LazyTensor, dtype: str) -> LazyTensor:
    target = DTYPES[dtype]
    return dataclasses.replace(
        tensor, dtype=target, load=lambda: np.asarray(tensor).astype(target, copy=False)
    )


def _quantization(component: str, dtype: str | None) -> dict[str, Any] | None:
    quantizes = dtype in quantize.QUANTIZED and component in quantize.NETWORKS
    return quantize.describe(dtype) if quantizes else None


def _renamed(tensor: LazyTensor, name: str, component: str) -> LazyTensor:
    shape = tensor.shape
    if component == "vae" and diffusers_names.is_vae_attention_kernel(name):
        shape = shape[:2]  # a linear there, a 1x1 convolution here
    return LazyTensor(name, shape, tensor.dtype, lambda: np.asarray(tensor).reshape(shape))


def _write_weights(
    folder: Path,
    component: str,
    tensors: list[LazyTensor],
    metadata: Mapping[str, str],
    max_shard_bytes: int | None,
) -> None:
    stem = names.stem(component)
    if max_shard_bytes is None or sum(tensor.nbytes for tensor in tensors) <= max_shard_bytes:
        safetensors_writer.write_file(folder / f"{stem}.safetensors", tensors, metadata)
    else:
        safetensors_writer.write_shards_into(folder, tensors, metadata, max_shard_bytes, stem)


def copy_code(module: str, folder: Path) -> None:
    """Copy one of our PyTorch modules, and those that it imports, into a folder."""
    found = next(card.CODE.glob(f"*/{module}.py"), None)
    if found is None:
        return  # a class of diffusers or transformers
    shutil.copyfile(found, folder / found.name)
    for needed in re.findall(r"^from \.(\w+) import", found.read_text(), re.MULTILINE):
        copy_code(needed, folder)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file as the Hub's libraries do."""
    path.write_text(json.dumps(content, indent=2) + "\n")
