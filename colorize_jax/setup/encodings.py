"""Sets of encodings as a run's data: opening them, and whether they are what its config says."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.conditioning import FROZEN_NETWORKS
from colorize_jax.config.options import Config
from colorize_jax.errors import UserError
from colorize_jax.io.open_weights import ShardedWeights, open_weights
from colorize_jax.sharding import join
from data.encoded.shards import TRAIN
from data.encoded.source import EncodedSource, MixedEncodings

# What the pictures, windows, sketches and references of a set follow from.
_PICTURES = (
    "index",
    "seed",
    "num_examples",
    "height",
    "width",
    "buckets",
    "num_buckets",
    "reference_size",
    "reference_background",
    "same_identity_rate",
    "min_aesthetic_score",
    "min_short_side",
    "masks",
    "sketches",
    "heldout_share",
)
# What painted references follow from, too.
_MASKS = ("mask_dilation", "mask_box_rate", "mask_grow_rate", "mask_erase_rate")
_PATCH = ("reference_image_size", "reference_patch_size", "reference_features", "positions")
_LARGE = 2**22  # elements, from which on a parameter's values are not part of a fingerprint


def open_encodings(config: Config, split: str = TRAIN) -> EncodedSource | MixedEncodings:
    """Open what `data.path` or `data.sources` names.

    Raises:
        UserError: it was made by other encoders, or of other pictures, than the config says.
        DataError: it is no whole set.
    """
    pairs = config.data.sources or ((config.data.path, 1.0),)
    sources = [EncodedSource(path, split, config.encoders.dtype) for path, _ in pairs]
    named = fingerprints(config)
    for source in sources:
        _check(config, source, named)
    if not config.data.sources:
        return sources[0]
    return MixedEncodings(sources, [weight for _, weight in pairs])


def preprocessing(config: Config) -> dict[str, Any]:
    """What the contents of a set follow from, beside its pictures and encoders; plain values."""
    data, rate = config.data, config.diffusion.inpaint_rate
    names = (*_PICTURES, *_MASKS) if rate else _PICTURES
    found = {name: getattr(data, name) for name in names} | {"inpaint_rate": rate}
    return json.loads(json.dumps(found))


def encoder_options(config: Config) -> dict[str, Any]:
    """Which encoders a config asks for, weights aside; plain values."""
    encoders = config.encoders
    names = ["autoencoder", "reference", "dtype"]
    names += ["patch_size"] if encoders.autoencoder == "patch" else []
    names += _PATCH if encoders.reference == "patch" else []
    return json.loads(json.dumps({name: getattr(encoders, name) for name in names}))


def fingerprints(config: Config) -> dict[str, dict[str, str]]:
    """Encoder -> `fingerprint` of its weights and their `path`, of those that the config names."""
    found = {}
    for path in config.encoders.weights:
        weights = open_weights(path)
        for name in FROZEN_NETWORKS:
            if name in weights.abstract:
                found[name] = {"fingerprint": fingerprint(weights, name), "path": str(path)}
    return found


def fingerprint(weights: ShardedWeights, network: str) -> str:
    """A number that follows from all parameters' names and shapes, and from most values.

    Those of the largest are left out: nobody changes them and leaves all others.
    """
    where = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    leaves = jax.tree_util.tree_leaves_with_path(weights.abstract[network])
    small: dict[str, Any] = {}
    for path, leaf in leaves:
        if leaf.size <= _LARGE:
            tree = small
            *parents, name = (entry.key for entry in path)
            for parent in parents:
                tree = tree.setdefault(parent, {})
            tree[name] = jax.ShapeDtypeStruct(leaf.shape, jnp.float32, sharding=where)
    values = weights.read_sharded(network, small) if small else {}
    digest = hashlib.sha256(repr([(join(path), leaf.shape) for path, leaf in leaves]).encode())
    for path, value in jax.tree_util.tree_leaves_with_path(values):
        digest.update(join(path).encode() + np.asarray(value).tobytes())
    return digest.hexdigest()[:16]


def _check(config: Config, source: EncodedSource, named: Mapping[str, Mapping[str, str]]) -> None:
    known = source.manifest
    for name, theirs, ours in _differences(known["encoders"], encoder_options(config)):
        raise UserError(
            f"got {source.root}, encoded with encoders.{name} = {theirs!r}, and {ours!r} in the "
            "config, expected the same; change the config or encode again"
        )
    for network, ours in named.items():
        theirs = known["weights"].get(network, ours)
        if theirs["fingerprint"] != ours["fingerprint"]:
            raise UserError(
                f"got {source.root}, encoded by the {network} {theirs['fingerprint']} of "
                f"{theirs['path']}, and {ours['path']} with {ours['fingerprint']} in "
                "encoders.weights, expected the same; name that one or encode again"
            )
    needs_masks = config.diffusion.masked_loss or config.gram.mask_weights
    if needs_masks and not known["masks"]:
        raise UserError(
            f"got {source.root} without masks for diffusion.masked_loss or gram.mask_weights, "
            "expected them; switch these off or encode with masks"
        )
    for name, theirs, ours in _differences(known["preprocessing"], preprocessing(config)):
        section = "diffusion" if name == "inpaint_rate" else "data"
        raise UserError(
            f"got {source.root}, encoded with {section}.{name} = {theirs!r}, and {ours!r} in the "
            "config, expected the same, which stored pictures cannot follow; change the config or "
            "encode again"
        )


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    names = dict.fromkeys((*theirs, *ours))
    return [(n, theirs.get(n), ours.get(n)) for n in names if theirs.get(n) != ours.get(n)]
