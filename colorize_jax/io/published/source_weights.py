"""A published file read like a folder of weights, without importing it first."""

from pathlib import Path

import numpy as np

from colorize_jax.io.published import torch_names
from colorize_jax.io.published.architectures import abstract_params
from colorize_jax.io.published.pretrained import open_published
from colorize_jax.io.weights_folder import WeightsMetadata
from colorize_jax.types import Params


class PublishedWeights:
    """The networks of a published file; see `io.open_weights.Weights`.

    Attributes:
        metadata: what they are.
        abstract: network -> tree of `jax.ShapeDtypeStruct`.
    """

    def __init__(self, path: str | Path):
        """Open the file and check that every network in it is complete.

        Raises:
            UserError: it cannot be read, is nothing that we know, or lacks tensors.
        """
        self._source = source = open_published(path)
        torch_names.check_tensors(*source.shapes(), str(path))
        self.metadata = WeightsMetadata(
            source.kind,
            source.configs,
            source.prefixes,
            source.prediction_type,
            source.scaling_factor,
            source.left_out,
        )
        self.abstract = {
            component: abstract_params(component, config)
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
