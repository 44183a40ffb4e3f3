"""How a training state is sharded, as text for the log."""

import math
from typing import Any

import jax
from jax.sharding import Mesh

from colorize_jax.sharding import in_bytes, join


def report(mesh: Mesh, abstract: Any, shardings: Any) -> str:
    """Describe the shardings of a tree: one line for all tensors that are alike.

    Args:
        mesh: where.
        abstract: tree of arrays or shapes, e.g. a training state.
        shardings: like it, of `state_shardings`.
    """
    rows: dict[tuple[str, str], list[int]] = {}
    leaves = jax.tree_util.tree_leaves_with_path(abstract)
    for (path, leaf), where in zip(leaves, jax.tree.leaves(shardings), strict=True):
        part = getattr(path[0], "name", None) or str(getattr(path[0], "key", path[0]))
        network = join(path).split("/")[0]
        split = ", ".join(
            f"{' x '.join(axes if isinstance(axes, tuple) else (axes,))} on axis {i - leaf.ndim}"
            for i, axes in enumerate(where.spec)
            if axes
        )
        own = math.prod(where.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        row = rows.setdefault((f"{part}/{network}".rstrip("/"), split or "whole"), [0, 0, 0])
        for i, number in enumerate((1, math.prod(leaf.shape) * leaf.dtype.itemsize, own)):
            row[i] += number
    sizes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    lines = [f"{mesh.size} devices as {sizes}"]
    lines += [
        f"  {name:<34} {count:5d} tensors {in_bytes(total):>10}  {in_bytes(own):>10} a device  "
        f"{split}"
        for (name, split), (count, total, own) in rows.items()
    ]
    total = sum(own for _, _, own in rows.values())
    return "\n".join([*lines, f"  in all {in_bytes(total)} a device"])
