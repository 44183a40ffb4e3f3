"""Our parameters -> files that PyTorch programs read.

`export_safetensors` writes the published layout, `export_diffusers` what of it SDXL programs know.
Tensors are read module by module and written one by one, so that little more memory is needed than
for the largest module.
"""

import dataclasses
import functools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from colorize_jax.errors import UserError
from colorize_jax.io.formats import safetensors_writer as writer
from colorize_jax.io.formats.atomic import NOTHING, Reads, atomic_output
from colorize_jax.io.formats.tensors import LazyTensor
from colorize_jax.io.open_weights import Weights
from colorize_jax.io.published import diffusers_folder, noise_schedules, torch_names
from colorize_jax.io.published.checkpoint import CONFIG_KEY, SCHEDULE_KEY, SIZE_KEY, SYSTEM_KEY
from colorize_jax.io.published.hub_configs import clip_json
from colorize_jax.models.architectures import (
    ADDITIONS_KIND,
    REFINEMENT_KIND,
    SCALING_FACTOR,
    abstract_weights,
    additions,
)
from colorize_jax.types import Params

DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


PLUGIN_NETWORKS = ("unet", "background_encoder")  # of a published plugin file


class PluginAlone:
    """Of a plugin's weights, what it adds to a colorizer; see `io.open_weights.Weights`."""

    def __init__(self, weights: Weights):
        """Take the encoder and the UNet's additions.

        Raises:
            UserError: there is no plugin.
        """
        missing = [name for name in PLUGIN_NETWORKS if name not in weights.abstract]
        if missing:
            raise UserError(
                f"got weights of {', '.join(weights.abstract)} for --only plugin, expected "
                f"{' and '.join(missing)} among them; name a plugin's weights, or leave --only out"
            )
        self._weights, known = weights, weights.metadata
        self.abstract = {
            "unet": additions(weights.abstract["unet"]),
            "background_encoder": weights.abstract["background_encoder"],
        }
        self.metadata = dataclasses.replace(
            known,
            kind=ADDITIONS_KIND,
            configs={name: known.configs[name] for name in self.abstract},
            prefixes={name: known.prefixes[name] for name in self.abstract},
        )

    def read(self, component: str, module: str | None = None) -> Params:
        """Read one network, or the tree with one top-level module of it, as NumPy arrays."""
        tree = self._weights.read(component, module)
        return additions(tree) if component == "unet" else tree


def export_safetensors(
    weights: Weights,
    output: str | Path,
    *,
    dtype: str | None = None,
    max_shard_bytes: int | None = None,
    overwrite: bool = False,
    reads: Reads = NOTHING,
) -> dict[str, int]:
    """Write all networks under their published names; of a plugin's run, the published two.

    Args:
        weights: what to export.
        output: safetensors file to make; with `max_shard_bytes`, a folder.
        dtype: a key of `DTYPES`; None keeps every tensor's own.
        max_shard_bytes: write shards of at most this size and an index.
        overwrite: replace what is there, if it is of the same kind.
        reads: what must not be written to.

    Returns:
        Network -> the number of its tensors that were written.

    Raises:
        UserError: a tensor is not finite (or not in this dtype), parameters do not belong to their
            configuration, or the output cannot be written.
    """
    components = list(weights.abstract)
    if weights.metadata.kind == REFINEMENT_KIND:  # the other networks have files of their own
        components = [name for name in components if name in PLUGIN_NETWORKS]
    prefixes = weights.metadata.prefixes
    parts = {
        component: list(
            published_tensors(weights, component, prefix=prefixes[component], dtype=dtype)
        )
        for component in components
    }
    tensors = [tensor for part in parts.values() for tensor in part]
    counts = {component: len(part) for component, part in parts.items()}
    metadata = file_metadata(weights, components)
    if max_shard_bytes is None:
        writer.write_safetensors(output, tensors, metadata, overwrite=overwrite, reads=reads)
        return counts
    nbytes = sum(tensor.nbytes for tensor in tensors)
    place = {"kind": writer.SHARDS, "overwrite": overwrite, "reads": reads}
    with atomic_output(output, nbytes=nbytes, **place) as folder:
        writer.write_shards_into(folder, tensors, metadata, max_shard_bytes, "model")
        if set(weights.abstract) <= {"clip_vision", "clip_text"}:
            _write_json(folder / "config.json", clip_json(weights.metadata.configs))
    return counts


# Takes the options of `export_safetensors`, which the command passes to either.
def export_diffusers(
    weights: Weights,
    output: str | Path,
    *,
    dtype: str | None = None,
    max_shard_bytes: int | None = None,
    overwrite: bool = False,
    reads: Reads = NOTHING,
) -> list[str]:
    """Write UNet and autoencoder as a folder that diffusers loads.

    Hints, LoRAs and other extras of ours are left out: the UNet then runs on
    `added_cond_kwargs={"time_ids": [[size, score]], "text_embeds": (B, 0) zeros}`.

    Args:
        weights: what to export; networks that diffusers does not know are passed over.
        output: folder to make.
        dtype: a key of `DTYPES`; None keeps every tensor's own.
        max_shard_bytes: write shards of at most this size and an index.
        overwrite: replace what is there, if it is of the same kind.
        reads: what must not be written to.

    Returns:
        The networks passed over, and "extras" where the UNet has some.

    Raises:
        UserError: there is neither UNet nor autoencoder, or as for `export_safetensors`.
    """
    configs, known = weights.metadata.configs, ("unet", "vae")
    parts = {
        component: list(published_tensors(weights, component, dtype=dtype))
        for component in known
        if component in weights.abstract
    }
    if not parts:
        raise UserError(
            f"got weights of {', '.join(weights.abstract)} for --format diffusers, expected a UNet "
            "or an autoencoder; leave the option out"
        )
    left_out = [component for component in weights.abstract if component not in known]
    metadata = {key: value for key, value in file_metadata(weights).items() if key != CONFIG_KEY}
    nbytes = sum(tensor.nbytes for part in parts.values() for tensor in part)
    place = {"kind": diffusers_folder.KIND, "overwrite": overwrite, "reads": reads}
    with atomic_output(output, nbytes=nbytes, **place) as folder:
        for component, tensors in parts.items():
            by_name = {tensor.name: tensor for tensor in tensors}
            renamed = diffusers_folder.to_diffusers(component, by_name, configs[component])
            if len(renamed) < len(tensors):
                left_out.append("extras")
            (folder / component).mkdir()
            _write_json(folder / component / "config.json", _diffusers_json(weights, component))
            _write(folder / component, renamed, metadata, max_shard_bytes)
        prediction_type = weights.metadata.prediction_type
        if "unet" in parts and prediction_type:
            (folder / "scheduler").mkdir()
            content = noise_schedules.to_scheduler(prediction_type, weights.metadata.schedule)
            _write_json(folder / "scheduler" / "scheduler_config.json", content)
    return left_out


def published_tensors(
    weights: Weights, component: str, *, prefix: str = "", dtype: str | None = None
) -> Iterator[LazyTensor]:
    """Yield a network's tensors in PyTorch layout; their values are read when they are used.

    Args:
        weights: where they are.
        component: which network.
        prefix: put before every published name.
        dtype: a key of `DTYPES`; None keeps every tensor's own.

    Raises:
        UserError: the parameters are not those of the network's configuration.
    """
    abstract = weights.abstract[component]
    _check_architecture(weights, component)

    # Slots of a module follow each other, so that it is read once.
    @functools.lru_cache(maxsize=1)
    def module(name: str) -> Params:
        return weights.read(component, name)

    for slot in torch_names.slots(component, abstract, prefix=prefix):
        leaf = abstract
        for key in slot.path:
            leaf = leaf[key]
        target = DTYPES[dtype] if dtype else np.dtype(leaf.dtype)

        def load(slot: torch_names.Slot = slot, target: np.dtype = target) -> np.ndarray:
            array = torch_names.read_slot(slot, module(slot.path[0]))
            with np.errstate(over="ignore"):  # the writer names a tensor that overflows
                return np.ascontiguousarray(array).astype(target, copy=False)

        yield LazyTensor(slot.name, slot.shape, target, load)


def file_metadata(weights: Weights, components: Iterable[str] | None = None) -> dict[str, str]:
    """The strings that travel in a safetensors header: what an import needs to know again."""
    known = weights.metadata
    names = known.configs if components is None else components
    configs = {name: known.configs[name] for name in names}
    metadata = {"format": "pt", CONFIG_KEY: json.dumps(configs)}
    if known.prediction_type is not None:
        metadata["prediction_type"] = known.prediction_type
    if known.scaling_factor is not None:
        metadata["scaling_factor"] = repr(known.scaling_factor)
    if known.schedule is not None:
        metadata[SCHEDULE_KEY] = noise_schedules.to_text(known.schedule)
    if known.size is not None:
        metadata[SIZE_KEY] = json.dumps(known.size)
    if known.system is not None:
        metadata[SYSTEM_KEY] = json.dumps(known.system)
    return metadata


def _check_architecture(weights: Weights, component: str) -> None:
    def shapes(tree: Params) -> dict[str, tuple[int, ...]]:
        return {slot.name: slot.shape for slot in torch_names.slots(component, tree)}

    known = weights.metadata
    expected = abstract_weights(known.kind, component, known.configs[component])
    torch_names.check_tensors(
        shapes(weights.abstract[component]), shapes(expected), f"a folder of {component} weights"
    )


def _diffusers_json(weights: Weights, component: str) -> dict[str, Any]:
    config = weights.metadata.configs[component]
    if component == "unet":
        vae = weights.metadata.configs["vae"] if "vae" in weights.abstract else None
        return diffusers_folder.unet_json(config, weights.metadata.size, vae)
    scaling_factor = weights.metadata.scaling_factor
    return diffusers_folder.vae_json(
        config, SCALING_FACTOR if scaling_factor is None else scaling_factor
    )


def _write(
    folder: Path, tensors: list[LazyTensor], metadata: dict[str, str], max_shard_bytes: int | None
) -> None:
    if max_shard_bytes is None:
        writer.write_file(folder / f"{diffusers_folder.STEM}.safetensors", tensors, metadata)
    else:
        writer.write_shards_into(folder, tensors, metadata, max_shard_bytes, diffusers_folder.STEM)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
