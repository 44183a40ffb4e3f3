"""Reading a checkpoint once for all replicas, where several processes hold the same parameters.

On a mesh whose first axis (data) repeats parameters, the processes of its first row read them from
the store and send them to the others over the devices' network, which is faster than the store.
"""

from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh, NamedSharding

REPLICAS = 0  # axis of the mesh


def reads_once(tree: Any) -> bool:
    """Whether one replica can read a tree for all.

    Args:
        tree: shapes with shardings.
    """
    leaves = jax.tree.leaves(tree)
    shardings = [getattr(leaf, "sharding", None) for leaf in leaves]
    if not leaves or not all(isinstance(sharding, NamedSharding) for sharding in shardings):
        return False
    meshes = {sharding.mesh for sharding in shardings}
    return len(meshes) == 1 and separates(meshes.pop())


def separates(mesh: Mesh) -> bool:
    """Whether there are several replicas, and every process belongs to a single one."""
    if len(mesh.devices) == 1:
        return False
    processes = [{d.process_index for d in replica.flat} for replica in mesh.devices]
    return len(set.union(*processes)) == sum(map(len, processes))


def read_once(path: epath.Path, tree: Any) -> Any:
    """Read a tree that Orbax saved; every process calls this at once.

    Args:
        path: of the saved item.
        tree: shapes with shardings for which `reads_once` holds.

    Returns:
        Arrays, everywhere where the shardings put them.
    """
    types = ocp.type_handlers
    arrays = types.SingleReplicaArrayHandler(replica_axis_index=REPLICAS, primary_replica_id=0)
    registry = types.create_type_handler_registry((jax.Array, arrays))
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    options = jax.tree.map(
        lambda leaf: types.SingleReplicaArrayRestoreArgs(
            sharding=leaf.sharding, global_shape=leaf.shape, dtype=leaf.dtype
        ),
        tree,
    )
    try:
        return handler.restore(path, args=ocp.args.PyTreeRestore(item=tree, restore_args=options))
    finally:
        handler.close()


def with_shardings(tree: Any) -> Any:
    """Shapes with shardings; the default device where a leaf names none."""
    default = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def shape(leaf: Any) -> jax.ShapeDtypeStruct:
        sharding = getattr(leaf, "sharding", None) or default
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(shape, tree)
