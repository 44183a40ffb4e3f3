"""A published checkpoint as weights that are read network by network, without an import."""

import logging

import numpy as np

from colorize_jax.io.published import torch_names
from colorize_jax.io.published.checkpoint import PublishedCheckpoint
from colorize_jax.models import architectures
from colorize_jax.types import Params

logger = logging.getLogger(__name__)


class PublishedWeights:
    """The networks of a published checkpoint; see `io.open_weights.Weights`.

    Attributes:
        metadata: what they are.
        abstract: network -> tree of `jax.ShapeDtypeStruct`.
    """

    def __init__(self, source: PublishedCheckpoint):
        """Take an opened file and check that every network in it is complete.

        Raises:
            UserError: it lacks tensors.
        """
        self._source = source
        torch_names.check_tensors(*source.shapes(), str(source.path))
        if source.averaged is not None:
            logger.warning(
                "took the parameters of %s; it also holds their running average, which import "
                "--ema takes",
                source.path,
            )
        self.metadata = source.metadata()
        self.abstract = {
            component: architectures.abstract_weights(source.kind, component, config)
            for component, config in source.configs.items()
        }

    def read(self, component: str, module: str | None = None) -> Params:
        """Read one network, or the tree with one top-level module of it, as NumPy arrays."""
        abstract = self.abstract[component]
        if module is not None:
            abstract = {module: abstract[module]}
        prefix = self._source.prefixes[component]
        slots = torch_names.slots(component, abstract, prefix=prefix)
        own = {slot.name: np.asarray(self._source.tensors[slot.name]) for slot in slots}
        return torch_names.from_torch(component, own, abstract, prefix=prefix)
