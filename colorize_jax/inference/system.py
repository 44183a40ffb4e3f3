"""The networks of a whole system, as they are found in checkpoints and loaded when they are needed.

A system may lie in several places: imported weights of the colorizer in one folder, CLIP and the
tagger in others, or all of it in the workdir of a training run.
"""

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from colorize_jax.conditioning import FROZEN_NETWORKS, FrozenEncoders
from colorize_jax.config.load import config_from_dict
from colorize_jax.config.options import Config, MeshConfig
from colorize_jax.diffusion.schedule import NoiseSchedule, check_prediction_type, make_schedule
from colorize_jax.errors import UserError
from colorize_jax.inference.options import InferenceOptions
from colorize_jax.inference.pictures.sizes import PUBLISHED_LIMITS, SizeLimits
from colorize_jax.io.open_weights import Weights, open_weights
from colorize_jax.io.published.architectures import SCALING_FACTOR, build, published_config
from colorize_jax.io.published.source_weights import PublishedWeights
from colorize_jax.models.clip_text import ClipText
from colorize_jax.models.colorizer import TRAINED_NETWORKS, Colorizer
from colorize_jax.models.unet import UNet
from colorize_jax.setup.encoders import build_encoders
from colorize_jax.sharding import make_mesh, replicated
from colorize_jax.types import Params

logger = logging.getLogger(__name__)

PLUGIN_LORA = "background"

DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class System:
    """The modules of a system and what they were trained with; static under jit.

    Attributes:
        colorizer: the trained networks.
        encoders: the frozen ones.
        schedule: of the noise.
        prediction_type: "v" or "eps".
        background_encoder: of the plugin model, or None.
        limits: the sizes that it draws.
        clip_text: the text tower of the reference encoder's CLIP, or None.
    """

    colorizer: Colorizer
    encoders: FrozenEncoders
    schedule: NoiseSchedule
    prediction_type: str
    background_encoder: UNet | None = None
    limits: SizeLimits = PUBLISHED_LIMITS
    clip_text: ClipText | None = None

    @property
    def cell(self) -> int:
        """Side of the square of pixels that one latent stands for."""
        return self.encoders.autoencoder.pixels_per_latent

    @property
    def multiple(self) -> int:
        """Sides of canvases are multiples of it, px: every level of the UNet halves evenly."""
        return self.cell * 2 ** (len(self.colorizer.unet.channel_mult) - 1)


class Networks:
    """Parameters of a system, read from where they lie when they are first asked for.

    Attributes:
        system: their modules.
        defaults: options of pictures that the checkpoint itself suggests.
    """

    def __init__(
        self,
        system: System,
        readers: Mapping[str, Callable[[], Params]],
        defaults: InferenceOptions | None = None,
        dtype: Any = jnp.float32,
        mesh: Mesh | None = None,
    ):
        """Name the networks; nothing is read.

        Args:
            system: the modules.
            readers: network -> what reads its parameters, for those that are there.
            defaults: see the class.
            dtype: in which parameters are kept on the device.
            mesh: devices among which batches are split; None: the default device alone.
        """
        self.system, self._readers, self._dtype = system, dict(readers), dtype
        self._mesh = mesh
        self.defaults = defaults or InferenceOptions()
        self._loaded: dict[str, Params] = {}

    def params(self, *names: str) -> dict[str, Params]:
        """Return parameters of networks, from the device or first from their checkpoint.

        Raises:
            UserError: no checkpoint has one of them.
        """
        for name in names:
            if name not in self._loaded:
                self._loaded[name] = self._load(name)
        return {name: self._loaded[name] for name in names}

    def free(self, *names: str) -> None:
        """Forget parameters of networks; they are read again where they are needed again."""
        for name in names:
            self._loaded.pop(name, None)

    def on_devices(self) -> AbstractContextManager[Any]:
        """Context in which batches that divide evenly are split among the devices."""
        return nullcontext() if self._mesh is None else jax.set_mesh(self._mesh)

    def _load(self, name: str) -> Params:
        if name not in self._readers:
            raise UserError(
                f"got checkpoints with {', '.join(self._readers) or 'nothing'}, expected {name} "
                "too; import a file that has it and name its folder with --checkpoint as well"
            )
        logger.info("loading %s", name)

        def place(leaf: Any) -> jax.Array:
            is_float = jnp.issubdtype(leaf.dtype, jnp.floating)
            leaf = leaf.astype(self._dtype) if is_float else leaf
            return jax.device_put(leaf, None if self._mesh is None else replicated(self._mesh))

        return jax.tree.map(place, self._readers[name]())


def open_networks(
    paths: Sequence[str | Path],
    *,
    dtype: str | None = None,
    prediction_type: str | None = None,
    raw: bool = False,
) -> Networks:
    """Find a system's networks in checkpoints, without loading them.

    Args:
        paths: workdirs of runs, folders of imported weights, published files; each network is taken
            from the first that has it.
        dtype: "float32" or "bfloat16", of parameters and products; by default bfloat16 where there
            is an accelerator.
        prediction_type: "v" or "eps", where no checkpoint says.
        raw: of training runs, the parameters themselves and not their running average.

    Raises:
        UserError: a path holds no weights, or together they do not make a system.
    """
    if dtype is not None and dtype not in DTYPES:
        raise UserError(f'got dtype "{dtype}", expected one of {", ".join(DTYPES)}')
    on_cpu = jax.default_backend() == "cpu"
    dtype = jnp.dtype(dtype or ("float32" if on_cpu else "bfloat16"))
    opened = [open_checkpoint(path, raw=raw) for path in paths]
    where: dict[str, Weights] = {}
    for weights in reversed(opened):
        where |= dict.fromkeys(weights.abstract, weights)
    lacking = [name for name in TRAINED_NETWORKS if name not in where]
    if lacking:
        raise UserError(
            f"got {', '.join(map(str, paths))} with {', '.join(where) or 'nothing'}, expected "
            f"{', '.join(lacking)} too; name a colorizer's weights"
        )
    config = _run_config(where["unet"])
    encoders = _encoders(where, config, dtype)
    system = System(
        colorizer=Colorizer(*(_build(name, where, dtype) for name in TRAINED_NETWORKS)),
        encoders=encoders,
        schedule=_schedule(config),
        prediction_type=_prediction_type(where["unet"], prediction_type),
        background_encoder=(
            _build("background_encoder", where, dtype) if "background_encoder" in where else None
        ),
        clip_text=_build("clip_text", where, dtype) if "clip_text" in where else None,
    )
    system = dataclasses.replace(system, limits=_limits(system, config))
    _check_parts(system)
    readers = {name: _reader(weights, name) for name, weights in where.items()}
    # Encoders made of patches have no parameters to read.
    modules = (encoders.autoencoder, encoders.clip, encoders.tagger)
    for name, module in zip(FROZEN_NETWORKS, modules, strict=True):
        if type(module).__name__.startswith("Patch"):
            readers[name] = dict
    devices = jax.local_devices()
    mesh = make_mesh(MeshConfig(), devices) if len(devices) > 1 else None
    return Networks(system, readers, _defaults(config), dtype, mesh)


def open_checkpoint(path: str | Path, *, raw: bool = False) -> Weights:
    """Open a training run's workdir, a folder of imported weights or a published file.

    Raises:
        UserError: it is none of them.
    """
    if Path(path).is_file():
        return PublishedWeights(path)
    return open_weights(path, raw=raw)


def _reader(weights: Weights, name: str) -> Callable[[], Params]:
    return lambda: weights.read(name)


def _build(name: str, where: Mapping[str, Weights], dtype: Any) -> Any:
    return build(name, where[name].metadata.configs[name], dtype=dtype)


def _run_config(weights: Weights) -> Config | None:
    """The config of the training run that the weights are from, if they are from one."""
    content = getattr(weights, "config", None)
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


def _schedule(config: Config | None) -> NoiseSchedule:
    if config is None:
        return _known_schedule()
    d = config.diffusion
    return _known_schedule(d.beta_start, d.beta_end, d.num_timesteps, d.zero_terminal_snr)


# Equal systems share compiled programs, but schedules are told apart by identity.
_known_schedule = functools.cache(make_schedule)


def _prediction_type(weights: Weights, given: str | None) -> str:
    """What the UNet predicts, as its checkpoint says or, where it does not, as somebody says."""
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


def _limits(system: System, config: Config | None) -> SizeLimits:
    """The published sizes, or for another run the same proportions around its pictures' size."""
    published = PUBLISHED_LIMITS
    if config is None:
        return dataclasses.replace(
            published, multiple=system.cell, autofit_multiple=system.multiple
        )
    step = system.multiple
    side = max(step, round((config.data.height * config.data.width) ** 0.5 / step) * step)
    least = -(-side * published.minimum // published.default // step) * step
    return SizeLimits(side, least, system.cell, step)


def _defaults(config: Config | None) -> InferenceOptions:
    """A run samples as it was sampled from in training."""
    if config is None:
        return InferenceOptions()
    sampling = config.sampling
    return InferenceOptions(
        sampler=sampling.sampler,
        schedule=sampling.schedule,
        steps=sampling.num_steps,
        reference_guidance=sampling.reference_guidance,
        sketch_guidance=sampling.sketch_guidance,
    )


def _check_parts(system: System) -> None:
    """Networks of different systems do not go together."""
    colorizer, autoencoder = system.colorizer, system.encoders.autoencoder
    if autoencoder.latent_channels != colorizer.unet.in_channels:
        raise UserError(
            f"got a UNet for latents of {colorizer.unet.in_channels} channels and an autoencoder "
            f"of {autoencoder.latent_channels}, expected the same; a run's workdir knows its own "
            "autoencoder, an exported file does not"
        )
    shrink = 1
    for stride in colorizer.sketch_encoder.strides:
        shrink *= stride
    if shrink != system.cell:
        raise UserError(
            f"got a sketch encoder that divides sides by {shrink} and an autoencoder that divides "
            f"them by {system.cell}, expected the same; name checkpoints of one system"
        )
