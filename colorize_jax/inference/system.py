"""A whole system: its modules, and its parameters, loaded when they are needed."""

import hashlib
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from colorize_jax.conditioning import FrozenEncoders
from colorize_jax.diffusion.schedule import NoiseSchedule
from colorize_jax.errors import UserError
from colorize_jax.inference.options import InferenceOptions
from colorize_jax.inference.pictures.sizes import PUBLISHED_LIMITS, SizeLimits
from colorize_jax.models.colorizer import Colorizer
from colorize_jax.models.frozen.clip_text import ClipText
from colorize_jax.models.unet import UNet
from colorize_jax.nn.quantized import WIDE
from colorize_jax.sharding import replicated
from colorize_jax.types import Params

logger = logging.getLogger(__name__)

FINGERPRINT_SIZE = 2**16  # most values of an array that tells parameters from others


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


def digest(params: Params) -> str:
    """Tell parameters from others by their small arrays."""
    seen = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        if leaf.size <= FINGERPRINT_SIZE:
            seen.update(np.asarray(leaf).tobytes())
    return seen.hexdigest()[:16]


class Networks:
    """Parameters of a system, read from their checkpoints when they are first needed.

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
        """Keep the readers; nothing is read yet.

        Args:
            system: the modules.
            readers: network -> function that reads its parameters.
            defaults: see the class.
            dtype: in which parameters are kept on the device.
            mesh: devices on which batches are sharded; None: the default device alone.
        """
        self.system, self._readers, self._dtype = system, dict(readers), dtype
        self._mesh = mesh
        self.defaults = defaults or InferenceOptions()
        self._loaded: dict[str, Params] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._readers

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
        """Drop parameters of networks from memory; they are read again when needed again."""
        for name in names:
            self._loaded.pop(name, None)

    def free_all_but(self, *names: str) -> None:
        """Drop the parameters of all other networks from memory."""
        self.free(*(self._loaded.keys() - set(names)))

    def fingerprint(self, *names: str) -> dict[str, str]:
        """Tell those of these networks that are there from others: network -> digest."""
        own = {name: digest(self.params(name)) for name in names if name in self}
        products = self.system.colorizer.unet.products
        rounded = {} if products == WIDE else {"products": products}
        return {"dtype": str(self._dtype), **rounded, **own}

    def on_devices(self) -> AbstractContextManager[Any]:
        """Context in which batches that divide evenly are sharded over the devices."""
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
