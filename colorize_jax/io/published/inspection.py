"""The report of `inspect`: what a checkpoint is and whether it is complete."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from colorize_jax.io.formats.tensors import LazyTensor, all_finite
from colorize_jax.io.formats.weights_folder import WeightsMetadata, is_weights_dir
from colorize_jax.io.open_weights import open_weights
from colorize_jax.io.published import torch_names
from colorize_jax.io.published.checkpoint import PublishedCheckpoint, open_published
from colorize_jax.io.published.export import published_tensors
from colorize_jax.io.runs.run_weights import RunWeights
from colorize_jax.io.runs.workdir import is_workdir
from colorize_jax.io.shipped import find_checkpoint
from colorize_jax.models.architectures import NetworkConfig, published_config

MAX_LISTED = 20  # names of not finite tensors


@dataclass(frozen=True)
class Part:
    """One network of a checkpoint.

    Attributes:
        component: which network.
        prefix: what its published names begin with.
        tensors: how many it has.
        parameters: numbers in them.
        dtypes: their dtypes, most frequent first.
        nbytes: their size.
        config: its configuration.
    """

    component: str
    prefix: str
    tensors: int
    parameters: int
    dtypes: tuple[str, ...]
    nbytes: int
    config: NetworkConfig


@dataclass(frozen=True)
class Page:
    """The report of `inspect`.

    Attributes:
        path: what was inspected.
        kind: what it is.
        form: the container, in words.
        metadata: facts that travel with the weights.
        parts: its networks.
        left_out: networks of the whole system that it lacks.
        misfits: phrases about missing, unexpected and misshapen tensors.
        skipped: how many tensors are listed as no parameters of ours.
        not_finite: names of tensors with NaN or infinity; None if not searched.
    """

    path: str | Path
    kind: str
    form: str
    metadata: WeightsMetadata
    parts: list[Part]
    left_out: list[str]
    misfits: list[str] = field(default_factory=list)
    skipped: int = 0
    not_finite: list[str] | None = None

    @property
    def sound(self) -> bool:
        """Whether every network that is there is complete, and finite as far as anyone looked."""
        return not self.misfits and not self.not_finite

    def lines(self) -> Iterator[str]:
        """Yield the page's lines."""
        yield f"{self.path}: {self.kind} ({self.form})"
        if any(part.component in ("unet", "vae") for part in self.parts):
            known = self.metadata
            yield f"prediction type: {known.prediction_type or 'not said'}"
            yield f"scaling factor: {known.scaling_factor or 'not said'}"
            yield f"noise schedule: {_schedule(known)}"
            if known.size:
                yield f"trained on pictures of {known.size[0]} x {known.size[1]} px"
        for part in self.parts:
            yield (
                f"{part.component:<22}{part.tensors:>6} tensors{part.parameters:>16,} parameters"
                f"{part.nbytes / 1e9:>9.2f} GB  {', '.join(part.dtypes)}"
                + (f"  {part.prefix}*" if part.prefix else "")
            )
            published = published_config(part.component)
            other = {k: v for k, v in part.config.items() if v != published[k]}
            told = ", ".join(f"{name} {value}" for name, value in other.items())
            yield f"    {told or 'the published configuration'}"
        if self.skipped:
            yield f"skipped: {self.skipped} tensors that are no parameters of these networks"
        yield f"networks not in it: {', '.join(self.left_out) or 'none'}"
        yield from self.misfits or ["tensors: complete"]
        if self.not_finite is not None:
            yield f"NaN or infinity: {_listing(self.not_finite)}"


def inspect_path(
    path: str | Path,
    configs: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    scan: bool = False,
) -> Page:
    """Find out what a checkpoint is, without loading it.

    Args:
        path: a published checkpoint, a folder of weights or the workdir of a training run.
        configs: network -> fields of its configuration that the user gives.
        scan: read every tensor and look for NaN and infinity.

    Raises:
        UserError: it cannot be read, or is nothing that we know.
    """
    path = find_checkpoint(path)
    if is_weights_dir(path) or is_workdir(path):
        return _inspect_weights(path, scan)
    return inspect_source(open_published(path, configs), scan)


def inspect_source(source: PublishedCheckpoint, scan: bool) -> Page:
    found, needed = source.shapes()
    misfits = torch_names.compare_tensors(found, needed)
    tables = source.expected()
    parts = [
        _part(
            component,
            source.prefixes[component],
            [source.tensors[name] for name in table if name in source.tensors],
            source.configs[component],
        )
        for component, table in tables.items()
    ]
    used = {name for table in tables.values() for name in table}
    return Page(
        source.path,
        source.kind,
        source.form,
        source.metadata(),
        parts,
        source.left_out,
        torch_names.describe_misfits(misfits, found, needed),
        sum(torch_names.is_skipped(name) for name in found if name not in needed),
        _not_finite(t for name, t in source.tensors.items() if name in used) if scan else None,
    )


def _inspect_weights(path: str | Path, scan: bool) -> Page:
    weights = open_weights(path)
    form = "folder of weights"
    if isinstance(weights, RunWeights):
        average = "running average" if weights.averaged else "parameters without an average"
        form = f"training run, step {weights.step}, {average}"
    metadata = weights.metadata
    parts = []
    for component, tree in weights.abstract.items():
        leaves = jax.tree.leaves(tree)
        count = sum(1 for _ in torch_names.slots(component, tree))
        part = _part(component, metadata.prefixes[component], leaves, metadata.configs[component])
        parts.append(Part(**{**vars(part), "tensors": count}))
    tensors = (t for component in weights.abstract for t in published_tensors(weights, component))
    return Page(
        path,
        metadata.kind,
        form,
        metadata,
        parts,
        metadata.left_out,
        not_finite=_not_finite(tensors) if scan else None,
    )


def _part(component: str, prefix: str, tensors: list[Any], config: NetworkConfig) -> Part:
    sizes = [int(np.prod(tensor.shape, dtype=np.int64)) for tensor in tensors]
    itemsizes = [np.dtype(tensor.dtype).itemsize for tensor in tensors]
    names = [np.dtype(tensor.dtype).name for tensor in tensors]
    return Part(
        component,
        prefix,
        len(tensors),
        sum(sizes),
        tuple(sorted(set(names), key=names.count, reverse=True)),
        sum(size * itemsize for size, itemsize in zip(sizes, itemsizes, strict=True)),
        config,
    )


def _not_finite(tensors: Iterable[LazyTensor]) -> list[str]:
    return [tensor.name for tensor in tensors if not all_finite(np.asarray(tensor))]


def _schedule(metadata: WeightsMetadata) -> str:
    if metadata.schedule is None:
        return "not said"
    said = dict(metadata.schedule)
    zero = ", zero terminal SNR" if said["zero_terminal_snr"] else ""
    return f"beta {said['beta_start']} to {said['beta_end']}, {said['num_timesteps']} steps{zero}"


def _listing(names: list[str]) -> str:
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return (", ".join(names[:MAX_LISTED]) + more) or "none"
