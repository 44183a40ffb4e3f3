"""From a file of `configs/` and the command line to a checked `Config`."""

import ast
import dataclasses
import difflib
import importlib.util
import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from colorize_jax.config.options import Config
from colorize_jax.errors import UserError, nearest

FLAG = "--config."

CHOICES = {
    "model.dtype": ("float32", "bfloat16"),
    "model.remat": ("none", "block", "dots"),
    "model.attention": ("auto", "blockwise", "cudnn", "splash"),
    "encoders.autoencoder": ("vae", "patch"),
    "encoders.reference": ("clip_tagger", "patch"),
    "encoders.dtype": ("float32", "bfloat16"),
    "diffusion.prediction_type": ("v", "eps"),
    "gram.tap": ("ff", "attn1", "attn2"),
    "gram.loss": ("mse", "kl", "ranking", "bce"),
    "optimizer.name": ("adamw", "muon"),
    "optimizer.schedule": ("constant", "cosine"),
    "optimizer.moment_dtype": ("float32", "bfloat16"),
    "data.source": ("illustrations", "tfds", "folder"),
}
RATES = (
    "diffusion.reference_dropout",
    "diffusion.hint_dropout",
    "diffusion.inpaint_rate",
    "gram.zero_share",
    "optimizer.final_share",
    "optimizer.ema_decay",
    "data.same_identity_rate",
    "data.margin_rate",
    "data.mask_grow_rate",
    "data.mask_erase_rate",
)
AT_LEAST_ONE = (
    "total_steps",
    "model.num_res_blocks",
    "optimizer.accumulation",
    "data.num_examples",
    "data.batch_size",
    "data.height",
    "data.width",
    "mesh.num_slices",
    "checkpoint.every_steps",
    "checkpoint.keep_last",
    "logging.every_steps",
    "sampling.num_steps",
    "evaluation.num_pairs",
    "evaluation.batch_size",
)
VAE_DOWNSAMPLING = 8


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Load a configuration file.

    Args:
        path: Python file with `get_config() -> ConfigDict`.
        overrides: arguments like "--config.optimizer.learning_rate=1e-4".

    Raises:
        UserError: the file cannot be run; a key is unknown (the nearest is named); a value has the
            wrong type or does not go with the others.
    """
    return config_from_dict(_run_file(Path(path)), overrides)


def config_from_dict(content: Mapping[str, Any], overrides: Sequence[str] = ()) -> Config:
    """Build a checked `Config` from nested dictionaries; what they leave out keeps its default.

    Args:
        content: e.g. the config of a run that is there.
        overrides: as for `load_config`.

    Raises:
        UserError: as for `load_config`.
    """
    content = _plain(content)
    for argument in overrides:
        key, text = _split_argument(argument)
        section = content
        *parents, name = key.split(".")
        for parent in parents:
            section = section.setdefault(parent, {})
        section[name] = _parse(text, _field_type(key), key)
    config = _build(Config, content, "")
    _check(config)
    return config


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


def _field_type(key: str) -> Any:
    """Return the declared type at a dotted key."""
    kind: Any = Config
    prefix = ""
    for name in key.split("."):
        if not dataclasses.is_dataclass(kind):
            raise UserError(f"got the key {key!r}, but {prefix.rstrip('.')} is a value; shorten it")
        kind = _hints(kind, [name], prefix)[name]
        prefix += f"{name}."
    if dataclasses.is_dataclass(kind):
        fields = ", ".join(key + "." + f.name for f in dataclasses.fields(kind)[:3])
        raise UserError(f"got a value for the section {key!r}, expected one of its keys: {fields}…")
    return kind


def _hints(kind: Any, names: Sequence[str], prefix: str) -> dict[str, Any]:
    """Return the fields' types after checking that all names are fields."""
    hints = typing.get_type_hints(kind)
    for name in names:
        if name not in hints:
            raise UserError(
                f"got the unknown key {prefix + name!r}, expected one of {', '.join(hints)}; "
                f"nearest: {_nearest_key(prefix + name)}"
            )
    return hints


def _nearest_key(key: str) -> str:
    """Return the dotted key that is written most alike, whole or in its last part."""

    def likeness(known: str) -> float:
        pairs = ((key, known), (key.rsplit(".", 1)[-1], known.rsplit(".", 1)[-1]))
        return max(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)

    return max(_keys(Config, ""), key=likeness)


def _keys(kind: Any, prefix: str) -> Iterator[str]:
    for name, hint in typing.get_type_hints(kind).items():
        yield prefix + name
        if dataclasses.is_dataclass(hint):
            yield from _keys(hint, f"{prefix}{name}.")


def _parse(text: str, kind: Any, key: str) -> Any:
    """Read a command line's value as the declared type wants it."""
    if kind is str:
        return text
    if kind is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError) as error:
        raise _wrong_type(key, text, kind) from error


def _build(kind: Any, content: Any, prefix: str) -> Any:
    if not isinstance(content, Mapping):
        raise UserError(
            f"got {prefix.rstrip('.')} = {content!r}, expected a section; give its keys values"
        )
    hints = _hints(kind, list(content), prefix)
    values = {}
    for name, value in content.items():
        key = prefix + name
        if dataclasses.is_dataclass(hints[name]):
            values[name] = _build(hints[name], value, key + ".")
        else:
            values[name] = _convert(value, hints[name], key)
    return kind(**values)


def _convert(value: Any, kind: Any, key: str) -> Any:
    """Check a value against its declared type; lists become tuples, whole numbers floats."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _wrong_type(key, value, kind)
        if arguments[-1] is Ellipsis:
            return tuple(_convert(item, arguments[0], key) for item in value)
        if len(value) != len(arguments):
            raise _wrong_type(key, value, kind)
        pairs = zip(value, arguments, strict=True)
        return tuple(_convert(item, argument, key) for item, argument in pairs)
    if isinstance(kind, types.UnionType):
        for argument in arguments:
            if type(value) is argument:
                return value
        raise _wrong_type(key, value, kind)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise _wrong_type(key, value, kind)
    if kind is float and not math.isfinite(value):
        raise UserError(f"got {key} = {value}, expected a finite number; correct it")
    return value


def _wrong_type(key: str, value: Any, kind: Any) -> UserError:
    names = {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}
    expected = names.get(kind, str(kind).replace("tuple", "a tuple "))
    return UserError(f"got {key} = {value!r}, expected {expected}; correct it")


def _check(config: Config) -> None:
    for key, choices in CHOICES.items():
        value = value_at(config, key)
        if value not in choices:
            expected = ", ".join(map(repr, choices))
            raise UserError(
                f"got {key} = {value!r}, expected one of {expected}; nearest: "
                f"{nearest(value, choices)}"
            )
    for key in RATES:
        if not 0 <= value_at(config, key) <= 1:
            raise UserError(f"got {key} = {value_at(config, key)}, expected 0..1; correct it")
    for key in AT_LEAST_ONE:
        if value_at(config, key) < 1:
            raise UserError(f"got {key} = {value_at(config, key)}, expected at least 1; raise it")
    _check_networks(config)
    _check_gram(config)
    _check_batch(config)


def _check_networks(config: Config) -> None:
    model, encoders = config.model, config.encoders
    levels = len(model.channel_mult)
    if len(model.transformer_depth) != levels or not levels:
        raise UserError(
            f"got model.transformer_depth = {model.transformer_depth} for model.channel_mult = "
            f"{model.channel_mult}, expected one number a level; make them equally long"
        )
    if len(model.hint_blocks) != 4:
        raise UserError(
            f"got model.hint_blocks = {model.hint_blocks}, expected four; the sketch encoder gives "
            "four hints"
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


def _check_gram(config: Config) -> None:
    gram, model = config.gram, config.model
    if gram.mask_weights and gram.loss not in ("mse", "bce"):
        raise UserError(
            f"got gram.mask_weights with gram.loss = {gram.loss!r}, expected mse or bce; change one"
        )
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
    if any(size < 1 and size != -1 for size in sizes.values()) or [*sizes.values()].count(-1) > 1:
        raise UserError(
            f"got mesh = {sizes}, expected numbers of devices, and -1 on one axis at most; "
            "correct it"
        )
