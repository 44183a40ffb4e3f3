"""From a file of `configs/` and the command line to a checked `Config`."""

import dataclasses
import difflib
import importlib.util
import math
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from colorize_jax.config.checks import Check
from colorize_jax.config.fields import Options
from colorize_jax.config.method import PLUGIN_LORA
from colorize_jax.config.options import Config
from colorize_jax.errors import UserError

FLAG = "--config."
VAE_DOWNSAMPLING = 8


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Load a configuration file.

    Args:
        path: Python file with `get_config() -> ConfigDict`.
        overrides: arguments like "--config.optimizer.learning_rate=1e-4".

    Raises:
        UserError: the file cannot be run; a key is unknown (the nearest is named); a value has the
            wrong type or contradicts another.
    """
    return config_from_dict(_run_file(Path(path)), overrides)


def read_grid(path: str | Path) -> Any:
    """Load the grid of an ablation: a configuration file that is not a run's.

    Raises:
        UserError: the file cannot be run.
    """
    return _plain(_run_file(Path(path)))


def config_from_dict(content: Mapping[str, Any], overrides: Sequence[str] = ()) -> Config:
    """Build a checked `Config` from nested dictionaries; what they leave out keeps its default.

    Args:
        content: e.g. the config of a run that is there.
        overrides: as for `load_config`.

    Raises:
        UserError: as for `load_config`.
    """
    content = _current(_plain(content))
    for argument in overrides:
        key, text = _split_argument(argument)
        section = content
        *parents, name = key.split(".")
        for parent in parents:
            section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            raise _no_section(".".join(parents), section)
        section[name] = field_check(key).parse(key, text)
    config = _build(Config, content, "")
    check_config(config)
    return config


def _current(content: Any) -> Any:
    """The config of an earlier run under the names of today."""
    logging = content.get("logging") if isinstance(content, Mapping) else None
    if not isinstance(logging, Mapping) or not isinstance(logging.get("tensorboard"), bool):
        return content
    kept = {name: value for name, value in logging.items() if name != "tensorboard"}
    tracker = "tensorboard" if logging["tensorboard"] else "none"
    return {**content, "logging": {"tracker": tracker, **kept}}


def value_at(config: Any, key: str) -> Any:
    """Return the value at a dotted key of dataclasses or dictionaries."""
    for name in key.split("."):
        config = config[name] if isinstance(config, Mapping) else getattr(config, name)
    return config


def _run_file(path: Path) -> Any:
    if not path.is_file():
        known = ", ".join(sorted(str(p) for p in path.parent.glob("*.py"))) or "none there"
        raise UserError(f"got config {path}, expected a Python file; there are: {known}")
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return module.get_config()
    except Exception as error:  # whatever a user's own file does
        raise UserError(
            f"got config {path} that cannot be run ({type(error).__name__}: {error}), expected a "
            "get_config() that returns a ConfigDict; correct it"
        ) from error


def _plain(content: Any) -> Any:
    if isinstance(content, ConfigDict):
        content = content.to_dict()
    if isinstance(content, Mapping):
        return {key: _plain(value) for key, value in content.items()}
    return content


def _split_argument(argument: str) -> tuple[str, str]:
    key, equals, text = argument.partition("=")
    if not key.startswith(FLAG) or not equals:
        raise UserError(f"got argument {argument!r}, expected {FLAG}section.key=value; correct it")
    return key.removeprefix(FLAG), text


def field_check(key: str) -> Check:
    """Return the rule of the option at a dotted key.

    Raises:
        UserError: there is none (the nearest is named).
    """
    section: Any = Config
    *parents, name = key.split(".")
    for i, parent in enumerate(parents):
        section = _sections(section, [parent], ".".join(parents[:i])).get(parent)
        if section is None:
            above = ".".join(parents[: i + 1])
            raise UserError(f"got the key {key!r}, but {above} is a value; shorten it")
    if name in _sections(section, [name], ".".join(parents)):
        fields = ", ".join(f"{key}.{one}" for one in list(_fields(_sections(section)[name]))[:3])
        raise UserError(f"got a value for the section {key!r}, expected one of its keys: {fields}…")
    return _fields(section)[name].metadata["check"]


def check_changes(keys: Sequence[str]) -> tuple[str, ...]:
    """Check what `--allow_changes` names: options, sections, or "data" for the pictures.

    Raises:
        UserError: one is unknown (the nearest is named).
    """
    known = {*all_keys(), *_fields(Config)}
    for key in keys:
        if key not in known:
            raise UserError(
                f"got --allow_changes={key}, expected options, sections or data; nearest: "
                f"{_nearest_key(key, known)}"
            )
    return tuple(keys)


def all_keys(section: Any = Config, prefix: str = "") -> Iterator[str]:
    """Yield the dotted key of every option."""
    inner = _sections(section)
    for name in _fields(section):
        if name in inner:
            yield from all_keys(inner[name], f"{prefix}{name}.")
        else:
            yield prefix + name


def _fields(section: Any) -> dict[str, dataclasses.Field]:
    return {one.name: one for one in dataclasses.fields(section)}


def _sections(section: Any, names: Sequence[str] = (), prefix: str = "") -> dict[str, Any]:
    """Return the sections inside one by name, after checking that all `names` are fields of it."""
    known = _fields(section)
    for name in names:
        if name not in known:
            key = f"{prefix}.{name}" if prefix else str(name)
            raise UserError(
                f"got the unknown key {key!r}, expected one of {', '.join(known)}; nearest: "
                f"{_nearest_key(key, known)}"
            )
    hints = typing.get_type_hints(section)
    return {name: hints[name] for name in known if dataclasses.is_dataclass(hints[name])}


def _nearest_key(key: str, known: Iterable[str]) -> str:
    """Return the key that is written most alike, whole or in its last part."""

    def likeness(other: str) -> float:
        pairs = ((key, other), (key.rsplit(".", 1)[-1], other.rsplit(".", 1)[-1]))
        return max(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)

    return max([*known, *all_keys()], key=likeness)


def _build(kind: Any, content: Any, prefix: str) -> Any:
    """Build a section, whose fields check themselves, from nested dictionaries."""
    if not isinstance(content, Mapping):
        raise _no_section(prefix.rstrip("."), content)
    inner = _sections(kind, list(content), prefix.rstrip("."))
    values = {
        name: _build(inner[name], value, f"{prefix}{name}.") if name in inner else value
        for name, value in content.items()
    }
    return kind(**values)


def _no_section(name: str, value: Any) -> UserError:
    return UserError(f"got {name} = {value!r}, expected a section; give its keys values")


def check_config(config: Config) -> None:
    """Check what goes together; each option's own range its field has checked.

    Raises:
        UserError: two options contradict each other, or one has no effect beside the others.
    """
    for one in dataclasses.fields(config):
        section = getattr(config, one.name)
        idle = section.without_effect() if isinstance(section, Options) else []
        if idle:
            raise UserError(f"got {idle[0]}")
    _check_networks(config)
    _check_diffusion(config)
    _check_color_hints(config)
    _check_masks(config)
    _check_gram(config)
    _check_refine(config)
    _check_batch(config)
    _check_encoded(config)


def _check_networks(config: Config) -> None:
    model, encoders = config.model, config.encoders
    levels = len(model.channel_mult)
    if len(model.transformer_depth) != levels or not levels:
        raise UserError(
            f"got model.transformer_depth = {model.transformer_depth} for model.channel_mult = "
            f"{model.channel_mult}, expected one number a level; make them equally long"
        )
    if len(model.hint_blocks) != 4 or max(model.hint_blocks) >= levels * (model.num_res_blocks + 1):
        raise UserError(
            f"got model.hint_blocks = {model.hint_blocks}, expected four below "
            f"{levels * (model.num_res_blocks + 1)}, the number of input blocks; the sketch "
            "encoder gives four hints"
        )
    if model.vector_channels % 4:
        raise UserError(
            f"got model.vector_channels = {model.vector_channels}, expected a multiple of 4; it "
            "holds two sinusoids of cosines and sines"
        )
    if model.norm_groups < 1 or model.model_channels % model.norm_groups:
        raise UserError(
            f"got model.norm_groups = {model.norm_groups}, expected a divisor of "
            f"model.model_channels = {model.model_channels}; change one of them"
        )
    patches = encoders.autoencoder == "patch"
    downsampling = encoders.patch_size if patches else VAE_DOWNSAMPLING
    if math.prod(model.sketch_strides) != downsampling:
        raise UserError(
            f"got model.sketch_strides = {model.sketch_strides}, expected a product of "
            f"{downsampling}, the autoencoder's downsampling; change them"
        )
    cell = downsampling * 2 ** (levels - 1)
    for name in ("height", "width"):
        if getattr(config.data, name) % cell:
            raise UserError(
                f"got data.{name} = {getattr(config.data, name)}, expected a multiple of {cell}, "
                "one place of the coarsest level; round it"
            )


def _check_diffusion(config: Config) -> None:
    diffusion, sampling = config.diffusion, config.sampling
    if diffusion.beta_start > diffusion.beta_end:
        raise UserError(
            f"got diffusion.beta_start = {diffusion.beta_start} above diffusion.beta_end = "
            f"{diffusion.beta_end}, expected at most that; exchange them"
        )
    if diffusion.zero_terminal_snr and diffusion.prediction_type == "eps":
        raise UserError(
            "got diffusion.zero_terminal_snr with diffusion.prediction_type = 'eps', expected v: "
            "noise alone says nothing of the picture at the last timestep; change one"
        )
    from colorize_jax.diffusion.samplers import find_sampler, step_range

    low, high = step_range(find_sampler(sampling.sampler), diffusion.num_timesteps)
    if not low <= sampling.num_steps <= high:
        raise UserError(
            f"got sampling.num_steps = {sampling.num_steps} for {sampling.sampler} and "
            f"{diffusion.num_timesteps} timesteps, expected {low} to {high}; change it"
        )


def _check_color_hints(config: Config) -> None:
    hints, trained = config.color_hints, config.model.hints and not config.refine.enabled
    if hints.min_radius > hints.max_radius:
        raise UserError(
            f"got color_hints.min_radius = {hints.min_radius} above color_hints.max_radius = "
            f"{hints.max_radius}, expected at most that; exchange them"
        )
    if hints != type(hints)() and not trained:
        raise UserError(
            "got options of color_hints for a run that trains none, expected a first stage with "
            "model.hints=true; set it, or leave them out"
        )


def _check_masks(config: Config) -> None:
    """Raise UserError where an option needs masks that the data do not have."""
    data, diffusion = config.data, config.diffusion
    needing = {
        "diffusion.inpaint_rate": diffusion.inpaint_rate,
        "diffusion.masked_loss": diffusion.masked_loss,
        "gram.mask_weights": config.gram.mask_weights,
        "refine.enabled": config.refine.enabled,
        "data.mask_box_rate": data.mask_box_rate,
        "data.mask_dilation": data.mask_dilation,
        "data.mask_grow_rate": data.mask_grow_rate,
        "data.mask_erase_rate": data.mask_erase_rate,
    }
    asked = [name for name, value in needing.items() if value]
    if data.masks == "off" and asked:
        raise UserError(
            f"got data.masks = 'off' with {', '.join(asked)}, expected what needs no masks; set "
            "these to 0, or data.masks to 'estimate'"
        )


def _check_gram(config: Config) -> None:
    gram, model = config.gram, config.model
    if not gram.blocks and gram.maximum:
        raise UserError("got no gram.blocks, expected some; to do without, set gram.maximum to 0")
    depths = model.transformer_depth
    # Encoder and decoder levels have one res block difference; the middle has the last depth.
    total = sum((2 * model.num_res_blocks + 1) * depth for depth in depths) + depths[-1]
    for block in gram.blocks:
        if isinstance(block, int) and not 1 <= block <= total:
            raise UserError(
                f"got gram.blocks with {block}, expected 1..{total}; this network has no more "
                "transformer blocks"
            )


def _check_refine(config: Config) -> None:
    refine, labels = config.refine, [label for label, _ in config.model.loras]
    if not refine.enabled:
        return
    if PLUGIN_LORA not in labels:
        raise UserError(
            f"got refine.enabled with model.loras = {config.model.loras}, expected the label "
            f'"{PLUGIN_LORA}" among them, which the plugin trains; add ("{PLUGIN_LORA}", 4)'
        )
    if refine.vector_channels % 8:
        raise UserError(
            f"got refine.vector_channels = {refine.vector_channels}, expected a multiple of 8; it "
            "holds four sinusoids of cosines and sines"
        )


def _check_batch(config: Config) -> None:
    batch, count = config.data.batch_size, config.optimizer.accumulation
    if batch % count:
        raise UserError(
            f"got data.batch_size = {batch} in optimizer.accumulation = {count} micro-batches, "
            "expected a multiple; change one"
        )
    if config.gram.maximum and batch < 2:
        raise UserError(
            "got data.batch_size = 1 with the Gram loss, expected at least 2: every sample needs "
            "another's reference; raise it or set gram.maximum to 0"
        )
    mesh = config.mesh
    sizes = {"data": mesh.data, "fsdp": mesh.fsdp, "tensor": mesh.tensor}
    if [*sizes.values()].count(-1) > 1:
        raise UserError(f"got mesh = {sizes}, expected -1 on one axis at most; give numbers")


def _check_encoded(config: Config) -> None:
    """Raise UserError where encodings are to do what needs pictures."""
    if config.data.source != "encoded":
        return
    if config.refine.enabled:
        raise UserError(
            "got refine.enabled with data.source = 'encoded', expected pictures: the second stage "
            "cuts figures out of them; name a folder of pictures"
        )
    if config.model.hints:
        raise UserError(
            "got model.hints with data.source = 'encoded', expected pictures: hints are drawn from "
            "their colours before they are encoded; name a folder of pictures"
        )
    if config.evaluation.every_steps:
        raise UserError(
            "got evaluation.every_steps with data.source = 'encoded', expected 0: a run from "
            "encodings has no encoders to colour with; measure its checkpoints by eval.py"
        )
