"""The mesh of devices, and the sharding of every array on it.

    data     shards the batch and replicates parameters; several slices are joined on this axis
    fsdp     shards the batch and the storage of parameters: a kernel is all-gathered where it is
             used, one layer of a stack at a time
    tensor   shards channels and heads: a kernel sharded by output channels is followed by one
             sharded by input channels

A parameter, its optimizer moments and its running average have the same sharding, because the rules
look at the path of a leaf alone. Modules constrain activations (`constrain`) where the compiler's
own choice would be bad; without a mesh (`jax.set_mesh`) that does nothing, so that the same network
runs with and without one.
"""

import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from colorize_jax.config.options import MeshConfig
from colorize_jax.errors import UserError
from colorize_jax.types import Array, Params

DATA, FSDP, TENSOR = AXES = ("data", "fsdp", "tensor")
BATCH = (DATA, FSDP)  # the axes that split a batch

# Kernels (..., in, out) whose output channels or heads are sharded on the tensor axis, and kernels
# whose input channels are. Of all others only the storage is sharded.
COLUMN = r"(^|/)(to_[qkv]|[qkv]_proj|net_0/proj|fc1|in_layers_2|emb_layers_1)/kernel$"
ROW = r"(^|/)(to_out_0|out_proj|net_2|fc2|out_layers_3)/kernel$"
# Kernels of 8 bits (..., out, in), which a program rounds for itself (`nn.quantized`).
ROUNDED = "rounded_kernel"
# Leaves below these have a leading axis of blocks that a scan iterates over: it is never sharded.
STACKED = r"(^|/)(transformer_blocks|layers)/"
# Tensors with fewer elements, not counting the axis of blocks, are replicated.
SMALL = 2**16


# ------------------------------------------------------------------------------------- the mesh


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arrange devices as (data, fsdp, tensor), neighbours in the interconnect beside each other.

    Args:
        config: sizes of the axes, -1 for the rest; with several slices the data axis spans them, so
            that it alone communicates over the slow network between slices.
        devices: by default all devices of all processes.

    Raises:
        UserError: the sizes do not make up the number of devices, or of slices.
    """
    devices = jax.devices() if devices is None else list(devices)
    shape = mesh_shape(config, len(devices))
    if config.num_slices == 1:
        array = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
        return Mesh(array, AXES, axis_types=(AxisType.Auto,) * 3)
    slices = {getattr(device, "slice_index", None) for device in devices}
    # GPUs and CPUs do not know of slices: there every node has a process.
    by_process = len(slices) != config.num_slices
    found = len({device.process_index for device in devices}) if by_process else len(slices)
    if found != config.num_slices or shape[0] % config.num_slices:
        raise UserError(
            f"got mesh.num_slices = {config.num_slices} for {found} slices and a data axis of "
            f"{shape[0]}, expected the number of slices, which divides the data axis; correct "
            "mesh.num_slices or mesh.data"
        )
    array = mesh_utils.create_hybrid_device_mesh(
        (shape[0] // config.num_slices, *shape[1:]),
        (config.num_slices, 1, 1),
        devices,
        process_is_granule=by_process,
        allow_split_physical_axes=True,
    )
    return Mesh(array, AXES, axis_types=(AxisType.Auto,) * 3)


def mesh_shape(config: MeshConfig, num_devices: int) -> tuple[int, int, int]:
    """Return the sizes of the axes, -1 replaced.

    Raises:
        UserError: their product is not the number of devices.
    """
    sizes = [config.data, config.fsdp, config.tensor]
    known = math.prod(size for size in sizes if size != -1)
    if -1 in sizes and num_devices % known == 0:
        sizes[sizes.index(-1)] = num_devices // known
    if math.prod(sizes) != num_devices:
        text = ", ".join(f"{name} {size}" for name, size in zip(AXES, sizes, strict=True))
        raise UserError(
            f"got mesh {text} for {num_devices} devices, expected sizes whose product is "
            f"{num_devices}; change one, or set it to -1 for the rest"
        )
    return tuple(sizes)


# -------------------------------------------------------------------------- parameters and state


def parameter_spec(path: str, shape: Sequence[int], sizes: Mapping[str, int]) -> P:
    """Return how a parameter is sharded; a single block's parameters as those of its stack.

    Args:
        path: names joined by "/"; its end decides, so that a path inside a block serves as well.
        shape: of the tensor.
        sizes: axis of the mesh -> number of devices.
    """
    if path.endswith(ROUNDED):
        # A program's own copy, exchanged: whole, but for what tensor parallelism splits.
        wide = parameter_spec(path.removesuffix(ROUNDED) + "kernel", _exchanged(shape), sizes)
        return P(*_exchanged([axis if axis == TENSOR else None for axis in wide]))
    stacked = bool(re.search(STACKED, path))
    if not path.endswith("kernel") or math.prod(shape[stacked:]) < SMALL:
        return P()
    spec: list[Any] = [None] * len(shape)
    free = [-2, -1]
    split = -1 if re.search(COLUMN, path) else -2 if re.search(ROW, path) else None
    stored = [axis for axis in (FSDP, TENSOR) if sizes[axis] > 1]
    if split is not None and _fits(shape[split], TENSOR, sizes):
        spec[split] = TENSOR
        free.remove(split)
        stored.remove(TENSOR)
    # The longer axis: TPUs pad the last two axes to tiles of (8, 128), and short shares most.
    for axis in sorted(free, key=lambda axis: -shape[axis]):
        if _fits(shape[axis], stored, sizes):
            spec[axis] = tuple(stored) if len(stored) > 1 else stored[0]
            break
    return P(*spec)


def _exchanged(axes: Sequence[Any]) -> list[Any]:
    """The last two axes exchanged, where there are two."""
    return [*axes[:-2], *axes[-1:], *axes[-2:-1]]


def _fits(length: int, axes: Any, sizes: Mapping[str, int]) -> bool:
    """Whether mesh axes shard a dimension, and evenly."""
    axes = (axes,) if isinstance(axes, str) else axes
    count = math.prod(sizes[axis] for axis in axes)
    return count > 1 and length % count == 0


def state_shardings(mesh: Mesh, abstract: Any) -> Any:
    """Return the shardings of a training state, or of any tree of parameters.

    Args:
        mesh: of `make_mesh`.
        abstract: tree of arrays or shapes; names of dictionaries on the way make up the path.
    """
    sizes = dict(mesh.shape)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, parameter_spec(join(path), leaf.shape, sizes)),
        abstract,
    )


def with_shardings(tree: Any, shardings: Any) -> Any:
    """Return the tree as `jax.ShapeDtypeStruct`s with shardings."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
    )


def join(path: Sequence[Any]) -> str:
    """Join the dictionary keys of a path by "/"; what holds the dictionaries is left out."""
    keys = (entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey))
    return "/".join(str(key) for key in keys)


def device_bytes(tree: Any) -> int:
    """Bytes that a device holds of arrays, or shapes with shardings; no padding."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def in_bytes(count: float) -> str:
    """A number of bytes for people."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def place(shardings: Any, tree: Any) -> Any:
    """Make global arrays of NumPy arrays, each of which every process has in full."""

    def one(sharding: NamedSharding, leaf: Any) -> Array:
        return jax.make_array_from_callback(np.shape(leaf), sharding, lambda i: np.asarray(leaf)[i])

    return jax.tree.map(one, shardings, tree)


# --------------------------------------------------------------------------------------- batches


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Arrays (B, ...) split over the data and fsdp axes."""
    return NamedSharding(mesh, P(BATCH))


def replicated(mesh: Mesh) -> NamedSharding:
    """Replicated on every device."""
    return NamedSharding(mesh, P())


def batch_shards(mesh: Mesh) -> int:
    """Number of shards of a batch."""
    return mesh.shape[DATA] * mesh.shape[FSDP]


def check_batch(mesh: Mesh, batch_size: int, accumulation: int = 1) -> None:
    """Check that every device gets equally many samples of a micro-batch.

    Raises:
        UserError: it does not.
    """
    shards = batch_shards(mesh)
    step = shards * accumulation
    if batch_size % step:
        below, above = batch_size // step * step, -(-batch_size // step) * step
        near = f"{below} or {above}" if below else f"{above}"
        micro = f" in {accumulation} micro-batches" if accumulation > 1 else ""
        raise UserError(
            f"got data.batch_size = {batch_size}{micro} for {shards} parts (mesh data "
            f"{mesh.shape[DATA]} x fsdp {mesh.shape[FSDP]}), expected a multiple of {step}; set "
            f"data.batch_size to {near}, or split channels instead with mesh.tensor"
        )


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """Rows of the global batch that this process's devices hold, ascending.

    On a mesh that follows the interconnect, a process's rows need not be contiguous: each process
    loads the rows that its devices hold, and the global batch is the same on every mesh.
    """
    slices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    rows = {row for (part,) in slices for row in range(*part.indices(batch_size))}
    return np.asarray(sorted(rows))


def global_batch(mesh: Mesh, record: Mapping[str, np.ndarray]) -> dict[str, Array]:
    """Join the processes' shares of a batch.

    Args:
        mesh: of the run.
        record: name -> this process's rows (those of `local_rows`, in their order).

    Returns:
        name -> global array (B, ...), split over the batch's axes.
    """
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, np.asarray(value))
        for name, value in record.items()
    }


# ----------------------------------------------------------------------------------- activations


def constrain(x: Array, *axes: Any) -> Array:
    """Constrain the sharding of an activation inside a jitted function; no-op without a mesh.

    Args:
        x: any array.
        axes: for its first axes: an axis of the mesh, several, or None; further axes are not
            sharded, and neither is an axis that does not divide evenly.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or FSDP not in mesh.shape:
        return x
    return jax.lax.with_sharding_constraint(x, P(*fitting_spec(x.shape, axes, mesh.shape)))


def fitting_spec(shape: Sequence[int], axes: Sequence[Any], sizes: Mapping[str, int]) -> list[Any]:
    """Of mesh axes for the first axes of an array, those that divide it evenly; else None."""
    pairs = zip(shape, axes, strict=False)
    return [axis if axis and _fits(length, axis, sizes) else None for length, axis in pairs]


def constrain_batch(tree: Any) -> Any:
    """Split the first axis of every array in the tree over the batch's axes."""
    return jax.tree.map(lambda x: constrain(x, BATCH), tree)


def constrain_params(params: Params, prefix: str = "") -> Params:
    """Constrain parameters, and so their gradients, to the sharding in which they are stored.

    Inside a scan over blocks this makes the compiler all-gather one block at a time.

    Args:
        params: nested dict.
        prefix: path of its root, where the rules need it.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or FSDP not in mesh.shape:
        return params
    sizes = dict(mesh.shape)

    def one(path: Any, leaf: Array) -> Array:
        spec = parameter_spec(prefix + join(path), leaf.shape, sizes)
        return jax.lax.with_sharding_constraint(leaf, spec)

    return jax.tree_util.tree_map_with_path(one, params)


def constrain_layouts(params: Params) -> Params:
    """Have gradients of convolutions' kernels in the order of axes of the kernels, on GPUs.

    cuDNN gives them in an order of its own. Left alone, the compiler takes it to the whole update,
    and transposes moments, average and parameters there and back.

    Args:
        params: nested dict.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if getattr(mesh.abstract_device, "platform", None) != "gpu":
        return params

    def local(params: Params) -> Params:
        return jax.tree.map(lambda leaf: _in_order(leaf) if leaf.ndim == 4 else leaf, params)

    if mesh.size == 1 or FSDP not in mesh.shape:
        return local(params)
    # Every device for itself: the partitioner would bring all parts together.
    sizes = dict(mesh.shape)
    specs = jax.tree_util.tree_map_with_path(
        lambda path, leaf: parameter_spec(join(path), leaf.shape, sizes), params
    )
    return jax.shard_map(local, in_specs=(specs,), out_specs=specs, check_vma=False)(params)


@jax.custom_vjp
def _in_order(kernel: Array) -> Array:
    return kernel


def _in_order_backward(_: None, gradient: Array) -> tuple[Array]:
    return (with_layout_constraint(gradient, Layout(tuple(range(gradient.ndim)))),)


_in_order.defvjp(lambda kernel: (kernel, None), _in_order_backward)


def gather(kernel: Array, module: Sequence[str]) -> Array:
    """All-gather a kernel whose storage is sharded, where it is used; reduce-scatter its gradient.

    Without this the compiler might all-gather the activations of the whole batch instead.

    Args:
        kernel: as it is computed with.
        module: path of the module that it belongs to, from any root.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or FSDP not in mesh.shape:
        return kernel
    path = "/".join((*module, "kernel"))
    stored = parameter_spec(path, kernel.shape, dict(mesh.shape))
    if not any(stored):
        return kernel
    return _gather(kernel, stored, P(*(axis if axis == TENSOR else None for axis in stored)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gather(kernel: Array, stored: P, whole: P) -> Array:
    # Said of both, or the compiler might gather what is cast, in float32, and cast it afterwards.
    kernel = jax.lax.with_sharding_constraint(kernel, stored)
    return jax.lax.with_sharding_constraint(kernel, whole)


def _gather_forward(kernel: Array, stored: P, whole: P) -> tuple[Array, None]:
    return _gather(kernel, stored, whole), None


def _gather_backward(stored: P, whole: P, _: None, gradient: Array) -> tuple[Array]:
    return (jax.lax.with_sharding_constraint(gradient, stored),)


_gather.defvjp(_gather_forward, _gather_backward)
