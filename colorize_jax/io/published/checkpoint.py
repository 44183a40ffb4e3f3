"""Published checkpoints: what a file or folder is, and its tensors under the published names.

A network is there when any of its tensors is, and must then be complete; networks that a file lacks
are left out and listed.
"""

import dataclasses
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from colorize_jax.config.method import SIDE
from colorize_jax.errors import UserError
from colorize_jax.io.formats import wrapper_names
from colorize_jax.io.formats.readers import Checkpoint, join_checkpoints, open_checkpoint
from colorize_jax.io.formats.tensors import LazyTensor
from colorize_jax.io.formats.weights_folder import WeightsMetadata
from colorize_jax.io.published import diffusers_folder, noise_schedules, torch_names
from colorize_jax.io.published.detection import detect_config
from colorize_jax.io.published.hub_configs import config_beside
from colorize_jax.models import architectures
from colorize_jax.models.architectures import NetworkConfig

logger = logging.getLogger(__name__)

# Kind -> networks of the whole system that such a file can hold and is judged by.
SYSTEMS = {
    "colorizer": ("unet", "sketch_encoder", "reference_projection", "vae"),
    "plugin": ("unet", "sketch_encoder", "reference_projection", "vae", "background_encoder"),
    "sdxl": ("unet", "sketch_encoder", "reference_projection", "vae"),
}

# CLIP's towers, which may share a file -> a name that only a file with this tower has.
CLIP_TOWERS = {
    "clip_vision": re.compile(r"(vision_model\.|visual_projection\.).*"),
    "clip_text": re.compile(r"text_projection\.weight"),
}

# Kind of a file with one network and no prefix -> a name that only such a file has.
SINGLE_NETWORKS = {
    "tagger": re.compile(r"layers\.\d+\.blocks\.\d+\.attn\.cpb_mlp\..*"),
    "vae": re.compile(r"encoder\.down\.0\.block\.0\..*"),
    "unet": re.compile(r"output_blocks\.0\.0\..*"),
    "inception": re.compile(r"Mixed_5b\.branch5x5_1\..*"),
    "lpips": re.compile(r"lin0\.model\.1\.weight"),
}

KINDS = (*SYSTEMS, architectures.ADDITIONS_KIND, *CLIP_TOWERS, "clip", *SINGLE_NETWORKS)

# Other kinds of files, recognized by a tensor name, for the error message.
FOREIGN = {
    "one file of a diffusers folder (name the folder)": re.compile(
        r"(conv_in|down_blocks\.\d+|encoder\.down_blocks\.\d+)\..*"
    ),
    "a CLIP in open_clip's layout (transformers' is needed)": re.compile(
        r"visual\.transformer\.resblocks\..*"
    ),
    "a LoRA file": re.compile(r"(lora_(unet|te\d?)_.*|.*\.lora_[AB]\.weight)"),
    "a text encoder without its text_projection": re.compile(
        r"(text_model|transformer\.text_model)\..*"
    ),
    "a trunk of LPIPS without its heads (name their file, too)": re.compile(
        r"features\.0\.(weight|bias)"
    ),
    "a ControlNet": re.compile(r"(control_model|controlnet_cond_embedding|zero_convs)\..*"),
    "Stable Diffusion 1 or 2": re.compile(
        r"cond_stage_model\.(transformer|model\.transformer)\..*"
    ),
}

LABEL_EMBEDDING = "label_emb.0.0.weight"  # of the UNet: the layer that --fit changes
SDXL_VECTOR_CHANNELS = 2816
# Of safetensors metadata, all JSON: see `WeightsMetadata`.
CONFIG_KEY = "colorize_jax.config"
SCHEDULE_KEY = "colorize_jax.noise_schedule"
SIZE_KEY = "colorize_jax.size"
SYSTEM_KEY = "colorize_jax.system"

PREDICTION_TYPES = {
    "v": "v",
    "v_prediction": "v",
    "v-prediction": "v",
    "eps": "eps",
    "epsilon": "eps",
}


@dataclass(frozen=True)
class PublishedCheckpoint:
    """An identified checkpoint: its networks, their configurations and lazily read tensors.

    Attributes:
        path: what the user named.
        kind: "colorizer", "plugin", "sdxl", "clip" of both towers, or the one network it holds.
        form: the container, in words.
        tensors: published name -> lazily read tensor, everything in the file.
        prefixes: network that is there -> what its names begin with.
        configs: network that is there -> its configuration.
        file_names: published name -> the file's own, where the file has another layout.
        prediction_type: "v", "eps", or None where the file does not say.
        scaling_factor: of its latents, or None.
        left_out: networks of the whole system that are not there.
        schedule: of the noise, see `noise_schedules`, or None where the file does not say.
        size: height and width of the pictures that it was trained on, px, or None.
        averaged: whether the running averages of parameters were taken; None: it has none.
        system: see `WeightsMetadata`.
    """

    path: Path
    kind: str
    form: str
    tensors: dict[str, LazyTensor]
    prefixes: dict[str, str]
    configs: dict[str, NetworkConfig]
    file_names: dict[str, str] = field(default_factory=dict)
    prediction_type: str | None = None
    scaling_factor: float | None = None
    left_out: list[str] = field(default_factory=list)
    schedule: noise_schedules.Record | None = None
    size: list[int] | None = None
    averaged: bool | None = None
    system: dict[str, Any] | None = None

    def metadata(self, prediction_type: str | None = None) -> WeightsMetadata:
        """What the weights are.

        Args:
            prediction_type: where the file does not say.
        """
        return WeightsMetadata(
            self.kind,
            self.configs,
            self.prefixes,
            self.prediction_type or prediction_type,
            self.scaling_factor,
            self.left_out,
            self.schedule,
            self.size,
            self.system,
        )

    def expected(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """Network -> published name -> shape, of every tensor that its configuration has."""
        return {
            component: {
                slot.name: slot.shape
                for slot in torch_names.slots(
                    component,
                    architectures.abstract_weights(self.kind, component, config),
                    prefix=self.prefixes[component],
                )
            }
            for component, config in self.configs.items()
        }

    def shapes(self) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
        """Shapes that the file has and that its networks need, both under the file's names."""
        found = {self._own(name): tensor.shape for name, tensor in self.tensors.items()}
        tables = self.expected().values()
        needed = {self._own(name): shape for table in tables for name, shape in table.items()}
        return found, needed

    def _own(self, name: str) -> str:
        return self.file_names.get(name, name)


def open_published(
    path: str | Path,
    configs: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    averages: bool = False,
    beside: Sequence[str | Path] = (),
) -> PublishedCheckpoint:
    """Open a published checkpoint and find out what it is, without loading it.

    Args:
        path: colorizer, plugin or SDXL file, diffusers folder, CLIP or tagger file or folder, or a
            file that `export` wrote.
        configs: network -> fields of its configuration that the user gives; they take precedence
            over what the file says.
        averages: take the running averages of parameters, of files that hold both.
        beside: files with the rest of its tensors: LPIPS's trunk and heads are published apart.

    Raises:
        UserError: it cannot be read, has no averages, or is nothing that we import
            (the message says what it is), or a tensor is in two files.
    """
    path, configs = Path(path), configs or {}
    folder = diffusers_folder.read(path)
    if folder is not None:
        if averages:
            raise _no_averages(path)
        return _from_folder(path, folder)
    checkpoint = join_checkpoints([open_checkpoint(file) for file in (path, *beside)])
    taken = wrapper_names.take(checkpoint.tensors, averages=averages)
    averaged = averages if wrapper_names.find_averages(checkpoint.tensors) else None
    if averages and averaged is None:
        raise _no_averages(path)
    tensors = {name: checkpoint.tensors[own] for name, own in taken.items()}
    checkpoint = dataclasses.replace(checkpoint, tensors=tensors)
    kind, prefixes = _identify(checkpoint)
    prediction_type, metadata = _prediction_type(checkpoint), checkpoint.metadata
    schedule = noise_schedules.from_text(metadata.get(SCHEDULE_KEY), path)
    if schedule is None and "unet" in prefixes:
        schedule = noise_schedules.from_tensors(checkpoint.tensors, path)
    noise_schedules.check_prediction(prediction_type, schedule, path)
    return PublishedCheckpoint(
        path,
        kind,
        checkpoint.form,
        checkpoint.tensors,
        prefixes,
        _configs(checkpoint, prefixes, configs),
        {name: own for name, own in taken.items() if name != own},
        prediction_type,
        _scaling_factor(metadata, path, prefixes),
        _left_out(kind, prefixes),
        schedule,
        _size(metadata, path),
        averaged,
        _stored(checkpoint, SYSTEM_KEY) or None,
    )


def _from_folder(path: Path, folder: diffusers_folder.DiffusersFolder) -> PublishedCheckpoint:
    prefixes = {name: torch_names.PREFIXES[name] for name in folder.configs}
    prediction_type = normal_prediction_type(folder.prediction_type)
    noise_schedules.check_prediction(prediction_type, folder.schedule, path)
    return PublishedCheckpoint(
        path,
        "sdxl",
        folder.form,
        folder.tensors,
        prefixes,
        folder.configs,
        folder.file_names,
        prediction_type,
        # What the autoencoder's config says goes before what another program may have kept.
        _scaling_factor(folder.metadata, path, prefixes)
        if folder.scaling_factor is None
        else folder.scaling_factor,
        _left_out("sdxl", prefixes),
        folder.schedule,
        _size(folder.metadata, path) or _sides(folder.sample_size, path),
    )


def _no_averages(path: Path) -> UserError:
    return UserError(
        f"got --ema for {path}, which holds no running averages (model_ema.*), expected a "
        "trainer's checkpoint that does; leave the option out"
    )


def normal_prediction_type(text: str | None) -> str | None:
    """Bring the spellings of prediction types to "v" or "eps".

    Raises:
        UserError: it is neither.
    """
    if text is None:
        return None
    if text.lower() not in PREDICTION_TYPES:
        raise UserError(
            f"got prediction type {text!r}, expected one of {', '.join(PREDICTION_TYPES)}; "
            "models that predict something else cannot be used"
        )
    return PREDICTION_TYPES[text.lower()]


def _identify(checkpoint: Checkpoint) -> tuple[str, dict[str, str]]:
    """Return the kind of a checkpoint and the prefix of every network in it."""
    names = checkpoint.tensors
    towers = [
        tower
        for tower, pattern in CLIP_TOWERS.items()
        if any(pattern.fullmatch(name) for name in names)
    ]
    if towers:
        return towers[0] if len(towers) == 1 else "clip", dict.fromkeys(towers, "")
    for kind, pattern in SINGLE_NETWORKS.items():
        if any(pattern.fullmatch(name) for name in names):
            return kind, {kind: ""}
    foreign = [
        what for what, pattern in FOREIGN.items() if any(pattern.fullmatch(name) for name in names)
    ]
    prefixes = {
        component: prefix
        for component, prefix in torch_names.PREFIXES.items()
        if any(name.startswith(prefix) and not torch_names.is_skipped(name) for name in names)
    }
    if foreign or not prefixes:
        examples = ", ".join(list(names)[:4]) or "no tensors"
        raise UserError(
            f"got {checkpoint.path}, which is {foreign[0] if foreign else 'nothing we know'} "
            f"({examples}, ...), expected a colorizer, plugin, SDXL, CLIP or tagger "
            "checkpoint; name another file"
        )
    if "background_encoder" in prefixes:
        prefix = torch_names.PREFIXES["unet"]
        own = [name.removeprefix(prefix).split(".") for name in names if name.startswith(prefix)]
        added = [any(re.match(architectures.ADDITIONS, word) for word in words) for words in own]
        return architectures.ADDITIONS_KIND if all(added) else "plugin", prefixes
    label = names.get(torch_names.PREFIXES["unet"] + LABEL_EMBEDDING)
    sdxl_width = label is not None and label.shape[-1] == SDXL_VECTOR_CHANNELS
    if sdxl_width and "sketch_encoder" not in prefixes:
        return "sdxl", prefixes
    return "colorizer", prefixes


def _configs(
    checkpoint: Checkpoint,
    prefixes: Mapping[str, str],
    given: Mapping[str, Mapping[str, Any]],
) -> dict[str, NetworkConfig]:
    """Find configurations: what the user says, the metadata, a config.json, then the shapes."""
    stored = _stored(checkpoint, CONFIG_KEY)
    absent = sorted(set(given) - set(prefixes))
    if absent:
        raise UserError(
            f"got a config of {', '.join(absent)}, expected only networks that {checkpoint.path} "
            f"holds ({', '.join(prefixes)}); remove it"
        )
    shapes = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    configs = {}
    for component, prefix in prefixes.items():
        said: NetworkConfig = {}
        for fields in (
            config_beside(checkpoint.path, component),
            stored.get(component, {}),
            given.get(component, {}),
        ):
            architectures.check_config(component, fields)
            said |= fields
        configs[component] = detect_config(component, shapes, prefix, said)
    return configs


def _stored(checkpoint: Checkpoint, key: str) -> dict[str, Any]:
    """A dictionary that `export` keeps in the metadata; empty where there is none."""
    try:
        return dict(json.loads(checkpoint.metadata.get(key, "{}")))
    except (ValueError, TypeError) as error:
        raise UserError(
            f"got {checkpoint.path} whose metadata holds a damaged config ({error}), expected a "
            "JSON dictionary; export it again"
        ) from error


def _prediction_type(checkpoint: Checkpoint) -> str | None:
    """Read the prediction type from metadata, or from the flag that some trainers add."""
    metadata = checkpoint.metadata
    said = metadata.get("prediction_type") or metadata.get("modelspec.prediction_type")
    if said is None and "v_pred" in checkpoint.tensors:
        said = "v"
    return normal_prediction_type(said)


def _scaling_factor(
    metadata: Mapping[str, str], path: Path, prefixes: Mapping[str, str]
) -> float | None:
    said = metadata.get("scaling_factor")
    if said is None:
        return architectures.SCALING_FACTOR if {"unet", "vae"} & prefixes.keys() else None
    try:
        return float(said)
    except ValueError as error:
        raise UserError(
            f"got {path} with scaling_factor {said!r} in its metadata, expected a number; export "
            "it again"
        ) from error


def _size(metadata: Mapping[str, str], path: Path) -> list[int] | None:
    text = metadata.get(SIZE_KEY)
    try:
        return None if text is None else _sides(json.loads(text), path)
    except ValueError as error:
        raise _no_size(text, path) from error


def _sides(size: Any, path: Path) -> list[int] | None:
    try:
        height, width = size or (None, None)
        return None if size is None else [SIDE("height", height), SIDE("width", width)]
    except (ValueError, TypeError, UserError) as error:
        raise _no_size(size, path) from error


def _no_size(size: Any, path: Path) -> UserError:
    what = f"got {path} with the size {size!r} in its metadata"
    return UserError(f"{what}, expected [height, width]; export it again")


def _left_out(kind: str, prefixes: Mapping[str, str]) -> list[str]:
    return [component for component in SYSTEMS.get(kind, ()) if component not in prefixes]
