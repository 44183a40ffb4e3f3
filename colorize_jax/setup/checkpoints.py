"""From checkpoints to pipelines; parameters are loaded when they are needed.

The networks of a system may come from several places: imported weights of the colorizer in one
folder, CLIP and the tagger in others, or all of them from the workdir of a training run.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.conditioning import FROZEN_NETWORKS, FrozenEncoders
from colorize_jax.config.load import config_from_dict
from colorize_jax.config.options import Config, MeshConfig
from colorize_jax.diffusion.schedule import NoiseSchedule, check_prediction_type, make_schedule
from colorize_jax.errors import UserError
from colorize_jax.inference.inputs import BUILT_IN, Extractors
from colorize_jax.inference.options import InferenceOptions
from colorize_jax.inference.pictures.sizes import PUBLISHED_LIMITS, SizeLimits
from colorize_jax.inference.pipeline import ColorizePipeline
from colorize_jax.inference.system import Networks, System
from colorize_jax.inference.tagging import PictureTagger, read_labels
from colorize_jax.io.formats.weights_folder import WeightsMetadata
from colorize_jax.io.open_weights import Weights, open_weights
from colorize_jax.io.pipelines.joined import find_networks
from colorize_jax.io.pipelines.read import is_pipeline, open_source
from colorize_jax.io.published import noise_schedules
from colorize_jax.io.published.published_weights import PublishedWeights
from colorize_jax.io.shipped import find_checkpoint
from colorize_jax.models.architectures import (
    SCALING_FACTOR,
    build,
    published_config,
)
from colorize_jax.models.colorizer import TRAINED_NETWORKS, Colorizer
from colorize_jax.models.frozen.tagger import preprocess_tagger
from colorize_jax.nn.quantized import PRODUCTS, WIDE
from colorize_jax.setup.encoders import build_encoders
from colorize_jax.sharding import make_mesh
from colorize_jax.types import Params

DTYPES = ("float32", "bfloat16")


def open_pipeline(
    *paths: str | Path,
    dtype: str | None = None,
    products: str = WIDE,
    prediction_type: str | None = None,
    raw: bool = False,
    extractors: Extractors = BUILT_IN,
    tokenizer: str | Path | None = None,
) -> ColorizePipeline:
    """Find a colorizer's networks in checkpoints; they are loaded when they are needed.

    Args:
        paths: workdirs of training runs, folders of imported weights, published files; each
            network is taken from the first that has it.
        dtype: "float32" or "bfloat16"; by default bfloat16 where there is an accelerator.
        products: "dtype", or of 8 bits where that serves, "float8" or "int8"; see `nn.quantized`.
        prediction_type: "v" or "eps", where no checkpoint says.
        raw: of training runs, the parameters themselves and not their running average.
        extractors: of lines and foregrounds.
        tokenizer: folder of CLIP's tokenizer, for options with text; read when it is needed.

    Raises:
        UserError: the paths do not hold a colorizer.
    """
    networks = open_networks(
        paths, dtype=dtype, products=products, prediction_type=prediction_type, raw=raw
    )
    return ColorizePipeline(networks, extractors, tokenizer)


def open_tagger(path: str | Path, labels: str | Path) -> PictureTagger:
    """Load a tagger.

    Args:
        path: folder of imported weights, or published file.
        labels: CSV, see `read_labels`.

    Raises:
        UserError: there is no tagger, or the labels are not its own.
    """
    known = read_labels(labels)
    weights = open_checkpoint(path)
    if "tagger" not in weights.abstract:
        raise UserError(
            f"got {path} with {', '.join(weights.abstract)}, expected a tagger; name its weights"
        )
    module = build("tagger", weights.metadata.configs["tagger"])
    if len(known) != module.num_classes:
        raise UserError(
            f"got {len(known)} labels in {labels} for a tagger of {module.num_classes} classes, "
            "expected as many; get the list that belongs to the weights"
        )
    params = jax.tree.map(lambda x: jnp.asarray(x, np.float32), weights.read("tagger"))
    apply = jax.jit(lambda params, images: module.apply({"params": params}, images).logits)

    def logits(images: np.ndarray) -> np.ndarray:
        return np.asarray(apply(params, preprocess_tagger(images, module.image_size)))

    return PictureTagger(logits, known)


def open_networks(
    paths: Sequence[str | Path],
    *,
    dtype: str | None = None,
    products: str = WIDE,
    prediction_type: str | None = None,
    raw: bool = False,
) -> Networks:
    """Find a system's networks in checkpoints, without loading them.

    Args:
        paths: workdirs of runs, folders of imported weights, published files; each network is taken
            from the first that has it.
        dtype: "float32" or "bfloat16", of parameters and products; by default bfloat16 where there
            is an accelerator.
        products: of the UNet, one of `nn.quantized.PRODUCTS`.
        prediction_type: "v" or "eps", where no checkpoint says.
        raw: of training runs, the parameters themselves and not their running average.

    Raises:
        UserError: a path holds no weights, or together they do not make a system.
    """
    if dtype is not None and dtype not in DTYPES:
        raise UserError(f'got dtype "{dtype}", expected one of {", ".join(DTYPES)}')
    if products not in PRODUCTS:
        raise UserError(f'got products "{products}", expected one of {", ".join(PRODUCTS)}')
    on_cpu = jax.default_backend() == "cpu"
    dtype = jnp.dtype(dtype or ("float32" if on_cpu else "bfloat16"))
    opened = [open_checkpoint(path, raw=raw) for path in paths]
    where = find_networks(opened, paths)
    lacking = [name for name in TRAINED_NETWORKS if name not in where]
    if lacking:
        raise UserError(
            f"got {', '.join(map(str, paths))} with {', '.join(where) or 'nothing'}, expected "
            f"{', '.join(lacking)} too; name a colorizer's weights"
        )
    runs = (_run_config(where[name]) for name in TRAINED_NETWORKS)
    config = next((run for run in runs if run is not None), None)
    encoders = _encoders(where, config, dtype)
    unet, *others = (_build(name, where, dtype) for name in TRAINED_NETWORKS)
    system = System(
        colorizer=Colorizer(unet.clone(products=products), *others),
        encoders=encoders,
        schedule=_schedule(where["unet"].metadata),
        prediction_type=_prediction_type(where["unet"], prediction_type),
        background_encoder=(
            _build("background_encoder", where, dtype) if "background_encoder" in where else None
        ),
        clip_text=_build("clip_text", where, dtype) if "clip_text" in where else None,
    )
    system = dataclasses.replace(system, limits=_limits(system, where["unet"].metadata.size))
    _check_parts(system)
    readers = {name: _reader(weights, name) for name, weights in where.items()}
    # Encoders made of patches have no parameters to read.
    modules = (encoders.autoencoder, encoders.clip, encoders.tagger)
    for name, module in zip(FROZEN_NETWORKS, modules, strict=True):
        if type(module).__name__.startswith("Patch"):
            readers[name] = dict
    devices = jax.local_devices()
    mesh = make_mesh(MeshConfig(), devices) if len(devices) > 1 else None
    # A run samples as it was sampled from in training.
    defaults = None if config is None else InferenceOptions.from_config(config.sampling)
    return Networks(system, readers, defaults, dtype, mesh)


def open_checkpoint(path: str | Path, *, raw: bool = False) -> Weights:
    """Open a training run's workdir, a folder of imported weights, a published file or a pipeline.

    Args:
        path: of one of them, or "demo", the model of this package.
        raw: of training runs, the parameters themselves and not their running average.

    Raises:
        UserError: it is none of them.
    """
    path = find_checkpoint(path)
    if Path(path).is_file() or is_pipeline(path):
        return PublishedWeights(open_source(path))
    return open_weights(path, raw=raw)


def _reader(weights: Weights, name: str) -> Callable[[], Params]:
    return lambda: weights.read(name)


def _build(name: str, where: Mapping[str, Weights], dtype: Any) -> Any:
    return build(name, where[name].metadata.configs[name], dtype=dtype)


def _run_config(weights: Weights) -> Config | None:
    """What is known of the config of the training run that the weights are from, if of one."""
    content = weights.metadata.system
    return None if content is None else config_from_dict(content)


def _encoders(where: Mapping[str, Weights], config: Config | None, dtype: Any) -> FrozenEncoders:
    """A run's own encoders, or those that lie in the checkpoints, or the published ones."""
    if config is not None:
        own = dataclasses.replace(config.encoders, dtype=str(dtype))
        encoders = build_encoders(dataclasses.replace(config, encoders=own))
    else:
        scaling = where["unet"].metadata.scaling_factor or SCALING_FACTOR
        modules = (build(name, published_config(name), dtype=dtype) for name in FROZEN_NETWORKS)
        encoders = FrozenEncoders(*modules, scaling)
    found = {
        field: _build(name, where, dtype)
        for field, name in zip(("autoencoder", "clip", "tagger"), FROZEN_NETWORKS, strict=True)
        if name in where
    }
    return dataclasses.replace(encoders, **found)


def _schedule(metadata: WeightsMetadata) -> NoiseSchedule:
    """What the weights were trained with; the published schedule where nobody said."""
    return _known_schedule(**(metadata.schedule or noise_schedules.PUBLISHED))


# Cached, because schedules are compared by identity and equal systems should share programs.
_known_schedule = functools.cache(make_schedule)


def _prediction_type(weights: Weights, given: str | None) -> str:
    """What the UNet predicts: what its checkpoint says, or else what the caller says."""
    said = weights.metadata.prediction_type
    if given is not None:
        check_prediction_type(given)
        if said not in (None, given):
            raise UserError(
                f'got prediction type "{given}", expected "{said}", which the checkpoint says it '
                "was trained with; leave it out"
            )
    if said is None and given is None:
        raise UserError(
            "got a checkpoint that does not say what it predicts, expected v or eps; name it with "
            "--prediction-type"
        )
    return said or given


def _limits(system: System, size: Sequence[int] | None) -> SizeLimits:
    """The published sizes, or the same proportions around the training pictures' size."""
    published = PUBLISHED_LIMITS
    if not size:
        return dataclasses.replace(
            published, multiple=system.cell, autofit_multiple=system.multiple
        )
    step = system.multiple
    side = max(step, round((size[0] * size[1]) ** 0.5 / step) * step)
    least = -(-side * published.minimum // published.default // step) * step
    return SizeLimits(side, least, system.cell, step)


def _check_parts(system: System) -> None:
    """Raise UserError where networks do not fit together."""
    colorizer, autoencoder = system.colorizer, system.encoders.autoencoder
    if autoencoder.latent_channels != colorizer.unet.in_channels:
        raise UserError(
            f"got a UNet for latents of {colorizer.unet.in_channels} channels and an autoencoder "
            f"of {autoencoder.latent_channels}, expected the same; name the checkpoint of its "
            "autoencoder, too"
        )
    shrink = 1
    for stride in colorizer.sketch_encoder.strides:
        shrink *= stride
    if shrink != system.cell:
        raise UserError(
            f"got a sketch encoder that divides sides by {shrink} and an autoencoder that divides "
            f"them by {system.cell}, expected the same; name checkpoints of one system"
        )
