"""Read a pipeline folder, as `export` wrote it or as PyTorch saved it after training."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from colorize_jax.errors import UserError
from colorize_jax.io.formats.readers import open_checkpoint
from colorize_jax.io.formats.tensors import LazyTensor
from colorize_jax.io.pipelines import names
from colorize_jax.io.pipelines.configs import (
    BACKGROUND_FIELDS,
    CLASSES,
    FORMAT,
    OWN,
    UNET_EXTRAS,
    level_ends,
)
from colorize_jax.io.pipelines.quantize import restored
from colorize_jax.io.published import diffusers_folder, noise_schedules, torch_names
from colorize_jax.io.published.checkpoint import (
    SYSTEMS,
    PublishedCheckpoint,
    normal_prediction_type,
    open_published,
)
from colorize_jax.io.published.hub_configs import config_beside
from colorize_jax.io.shipped import find_checkpoint
from colorize_jax.models.architectures import NetworkConfig, check_config, published_config

INDEX = "model_index.json"
CELL = 8


def is_pipeline(path: str | Path) -> bool:
    """Whether `path` is a pipeline folder, of this version or another."""
    name = _read_json(Path(path) / INDEX).get("_class_name")
    return (name[-1] if isinstance(name, list) and name else name) == "ColorizePipeline"


def open_source(
    path: str | Path,
    configs: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    averages: bool = False,
    beside: Sequence[str | Path] = (),
) -> PublishedCheckpoint:
    """Open a pipeline folder, or else what `open_published` reads; arguments and errors as there.

    Raises:
        UserError: as for `read_pipeline`, or configurations or averages for a pipeline folder.
    """
    path = find_checkpoint(path)
    if not is_pipeline(path):
        return open_published(path, configs, averages=averages, beside=beside)
    if configs or averages or beside:
        option = "--config" if configs else "--ema" if averages else f"{beside[0]} beside it"
        raise UserError(
            f"got {option} for {path}, a pipeline folder, expected it alone: its configs say "
            "all and it holds one set of weights; leave that out"
        )
    return read_pipeline(path)


def read_pipeline(path: str | Path) -> PublishedCheckpoint:
    """Read the table of contents of a pipeline folder, under published names.

    Weights in 8 bits become float32, rounded as they were.

    Raises:
        UserError: it is no such folder, of another version, or damaged.
    """
    path = Path(path)
    _check_version(path)
    found = [name for name, folder in names.FOLDERS.items() if (path / folder).is_dir()]
    configs = {name: _config(path / names.FOLDERS[name], name) for name in found}
    tensors: dict[str, LazyTensor] = {}
    file_names: dict[str, str] = {}
    for component in found:
        own, called = _tensors(path / names.FOLDERS[component], component, configs[component])
        tensors |= own
        file_names |= called
    scheduler_file = path / "scheduler" / "scheduler_config.json"
    scheduler = _read_json(scheduler_file)
    prediction_type = normal_prediction_type(scheduler.get("prediction_type"))
    schedule = noise_schedules.from_scheduler(scheduler, scheduler_file)
    noise_schedules.check_prediction(prediction_type, schedule, path)
    kind = "plugin" if "background_encoder" in found else "colorizer"
    return PublishedCheckpoint(
        path,
        kind,
        "pipeline folder",
        tensors,
        {name: torch_names.PREFIXES[name] for name in found},
        configs,
        file_names,
        prediction_type,
        _read_json(path / "vae" / "config.json").get("scaling_factor"),
        [name for name in SYSTEMS[kind] if name not in found],
        schedule,
        _size(path, configs),
    )


def _check_version(path: Path) -> None:
    if not is_pipeline(path):
        raise UserError(
            f"got {path}, expected a pipeline folder as `export --format pipeline` makes it; check "
            "the path"
        )
    said = _read_json(path / INDEX).get("folder_format")
    if said != FORMAT:
        raise UserError(
            f"got {path}, a pipeline folder of format {said}, expected {FORMAT}: another version "
            "of this program made it; export it again, or import it with that version"
        )


def _config(folder: Path, component: str) -> NetworkConfig:
    """config.json of a component -> our fields."""
    content = _read_json(folder / "config.json")
    try:
        return check_config(component, _fields(folder, content, component))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(
            f"got {folder / 'config.json'} that does not say what {component} is "
            f"({type(error).__name__}: {error}), expected the config of "
            f"{CLASSES[names.FOLDERS[component]][1]}; get it again"
        ) from error


def _fields(folder: Path, content: Mapping[str, Any], component: str) -> NetworkConfig:
    if component == "vae":
        return diffusers_folder.vae_config(folder, content)
    if component == "clip_vision":
        width = content.get("vision_config", content)["projection_dim"]
        return config_beside(folder, component) | {"projection_dim": width}
    if component in OWN:
        return {name: content[name] for name in published_config(component)}
    if component == "unet":
        config = diffusers_folder.unet_config(folder, content)
        config |= {name: content[name] for name in UNET_EXTRAS}
        return config | {"hint_blocks": level_ends(config)}
    channels = content["block_out_channels"]
    config = {ours: content[theirs] for ours, theirs in BACKGROUND_FIELDS.items()}
    multiples = [c // channels[0] for c in channels]
    return config | {"model_channels": channels[0], "channel_mult": multiples}


def _tensors(
    folder: Path, component: str, config: NetworkConfig
) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    """A component's tensors under published names, and those names -> the folder's."""
    prefix = torch_names.PREFIXES[component]
    table = names.folder_names(component, config)
    originals = {theirs: prefix + ours for ours, theirs in table.items()}
    shapes = {
        prefix + slot.name: slot.shape
        for slot in torch_names.slots(component, names.abstract_params(component, config))
    }
    tensors = {}
    for name, tensor in restored(open_checkpoint(folder).tensors).items():
        original = originals.get(name, f"{folder.name}/{name}")
        shape = shapes.get(original, tensor.shape)
        if component == "vae" and tensor.size == np.prod(shape):
            tensor = _reshaped(tensor, shape)  # linears there, 1x1 convolutions here
        tensors[original] = tensor
    return tensors, {ours: f"{folder.name}/{theirs}" for theirs, ours in originals.items()}


def _reshaped(tensor: LazyTensor, shape: tuple[int, ...]) -> LazyTensor:
    return dataclasses.replace(tensor, shape=shape, load=lambda: np.asarray(tensor).reshape(shape))


def _size(path: Path, configs: Mapping[str, NetworkConfig]) -> list[int] | None:
    """Height and width of the pictures that the UNet was trained on, px."""
    sides = _read_json(path / "unet" / "config.json").get("sample_size")
    if sides is None:
        return None
    cell = diffusers_folder.cell_of(configs["vae"]) if "vae" in configs else CELL
    return [side * cell for side in (sides if isinstance(sides, list) else [sides] * 2)]


def _read_json(path: Path) -> dict[str, Any]:
    """Read a JSON dictionary; empty where there is no such file.

    Raises:
        UserError: it cannot be read.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"got {path} that cannot be read ({error}), expected JSON; get it again"
        ) from error
    return content if isinstance(content, dict) else {}
