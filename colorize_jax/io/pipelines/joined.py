"""The networks of one system, wherever they lie: each from the first weights that have it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from colorize_jax.errors import UserError
from colorize_jax.io.formats.weights_folder import WeightsMetadata
from colorize_jax.io.open_weights import Weights
from colorize_jax.models.architectures import ADDITIONS_KIND
from colorize_jax.types import Params


def find_networks(opened: Sequence[Weights], paths: Sequence[Any]) -> dict[str, Weights]:
    """Network -> the first weights that have it; a plugin's additions go into a colorizer's UNet.

    Args:
        opened: in the order of preference.
        paths: where they are from, for messages.

    Raises:
        UserError: a plugin's additions have no colorizer, or another one's.
    """
    additions = next((w for w in opened if w.metadata.kind == ADDITIONS_KIND), None)
    where: dict[str, Weights] = {}
    for weights in reversed(opened):
        where |= dict.fromkeys(weights.abstract, weights)
    if additions is not None:
        whole = [w for w in opened if "unet" in w.abstract and w.metadata.kind != ADDITIONS_KIND]
        if not whole:
            raise UserError(
                f"got {', '.join(map(str, paths))} with a plugin and no colorizer, expected the "
                "colorizer that it was trained on; name its weights with --checkpoint as well"
            )
        where["unet"] = WithAdditions(whole[0], additions)
    return where


class WithAdditions:
    """A colorizer's UNet with what a plugin adds to it; see `io.open_weights.Weights`."""

    def __init__(self, base: Weights, additions: Weights):
        """Join the UNets of two checkpoints.

        Raises:
            UserError: the additions are those of another UNet.
        """
        self._base, self._additions = base, additions
        own, added = (weights.metadata.configs["unet"] for weights in (base, additions))
        kept = {name: added[name] for name in ("loras", "foreground_channels")}
        if own | kept != added:
            differing = [name for name in added if (own | kept).get(name) != added[name]]
            raise UserError(
                f"got a plugin for a UNet of other {', '.join(differing)} than the colorizer's, "
                "expected the colorizer that it was trained on; name that one's weights"
            )
        self.metadata = dataclasses.replace(
            base.metadata, configs=base.metadata.configs | {"unet": added}
        )
        trees = (base.abstract["unet"], additions.abstract["unet"])
        self.abstract = {"unet": _merged(*trees)}
        self.config = getattr(base, "config", None)

    def read(self, component: str, module: str | None = None) -> Params:
        """Read the UNet, or one top-level module of it, as NumPy arrays."""
        parts = [
            weights.read(component, module)
            for weights in (self._base, self._additions)
            if module is None or module in weights.abstract[component]
        ]
        return parts[0] if len(parts) == 1 else _merged(*parts)


class JoinedWeights:
    """Several weights as one; see `io.open_weights.Weights`.

    Attributes:
        metadata: the UNet's, with the configurations of all networks.
        abstract: network -> tree of `jax.ShapeDtypeStruct`.
    """

    def __init__(self, where: Mapping[str, Weights]):
        """Join what `find_networks` found, the UNet among it."""
        self._where = dict(where)
        configs = {name: weights.metadata.configs[name] for name, weights in where.items()}
        prefixes = {name: weights.metadata.prefixes[name] for name, weights in where.items()}
        self.metadata: WeightsMetadata = dataclasses.replace(
            where["unet"].metadata, configs=configs, prefixes=prefixes, left_out=[]
        )
        self.abstract = {name: weights.abstract[name] for name, weights in where.items()}

    def read(self, component: str, module: str | None = None) -> Params:
        """Read one network, or the tree with one top-level module of it, as NumPy arrays."""
        return self._where[component].read(component, module)


def _merged(tree: Params, other: Params) -> Params:
    """Merge nested dicts; where both have a leaf, the second one's counts."""
    merged = dict(tree)
    for name, value in other.items():
        both = isinstance(value, Mapping) and name in merged
        merged[name] = _merged(merged[name], value) if both else value
    return merged
