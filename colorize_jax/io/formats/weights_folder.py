"""Folders of converted weights: an Orbax checkpoint for each network, and their metadata.

    DIR/metadata.json   kind, prediction type, scaling, every network's config and published prefix
    DIR/unet/ ...       an Orbax PyTree checkpoint of the network's parameters, in their own dtype

Networks are saved and read one after another, and large ones in pieces, so that converting needs
little more memory than the largest network.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from colorize_jax.errors import UserError
from colorize_jax.io.formats.atomic import NOTHING, Reads, atomic_output
from colorize_jax.io.formats.orbax_errors import system_error, told_once
from colorize_jax.types import Params

METADATA_FILE = "metadata.json"
FORMAT = "colorize-jax weights 1"
# What a noise schedule is, under the names of the config's options.
SCHEDULE_FIELDS = ("beta_start", "beta_end", "num_timesteps", "zero_terminal_snr")
KIND = "a folder of weights"
MIN_BUFFER_BYTES = 256_000_000  # of Orbax's own buffers; see `bounded_handler`


@dataclass(frozen=True)
class WeightsMetadata:
    """The metadata of a set of weights.

    Attributes:
        kind: what they were, e.g. "colorizer", "plugin", "sdxl", "clip", "tagger".
        configs: network -> its configuration as a plain dictionary.
        prefixes: network -> what its published names begin with.
        prediction_type: "v", "eps", or None if unknown.
        scaling_factor: what latents are multiplied by, or None if unknown.
        left_out: networks of the whole system that these weights lack.
        schedule: of the noise, see `io.published.noise_schedules`, or None where nobody said.
        size: height and width of the pictures that they were trained on, px, or None.
        system: of a training run's config what colouring needs beside weights, its encoders and
            sampling, see `system_record`; None of weights that are from no run.
    """

    kind: str
    configs: dict[str, dict[str, Any]]
    prefixes: dict[str, str]
    prediction_type: str | None = None
    scaling_factor: float | None = None
    left_out: list[str] = field(default_factory=list)
    schedule: dict[str, Any] | None = None
    size: list[int] | None = None
    system: dict[str, Any] | None = None


def system_record(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of a run's config, as plain dictionaries, what colouring needs beside the weights.

    It travels with the weights, so that encoders made of patches and the run's own sampling are
    known wherever they go; nothing in it says where anything lies.
    """
    encoders = {name: value for name, value in config["encoders"].items() if name != "weights"}
    # What encoders made of patches have to fit.
    model = {name: config["model"][name] for name in ("projection_head_dim", "sketch_strides")}
    return {"encoders": encoders, "sampling": dict(config["sampling"]), "model": model}


def save_weights(
    directory: str | Path,
    params: Mapping[str, Params] | Iterable[tuple[str, Params]],
    metadata: WeightsMetadata,
    *,
    nbytes: int = 0,
    overwrite: bool = False,
    reads: Reads = NOTHING,
) -> None:
    """Save networks as Orbax checkpoints with their metadata: whole or not at all.

    Args:
        directory: folder to make.
        params: network -> parameters, or an iterator of such pairs, consumed one at a time.
        metadata: what they are.
        nbytes: their size, to check the disk before anything is written.
        overwrite: replace an existing folder of weights.
        reads: what must not be written to.

    Raises:
        UserError: the folder exists or cannot be written, or the disk is full.
    """
    pairs = params.items() if isinstance(params, Mapping) else params
    place = {"kind": KIND, "overwrite": overwrite, "reads": reads}
    with told_once(), atomic_output(directory, nbytes=nbytes, **place) as temporary:
        for component, tree in pairs:
            _save_tree(temporary / component, tree)
            del tree
        content = {"format": FORMAT, **asdict(metadata)}
        (temporary / METADATA_FILE).write_text(json.dumps(content, indent=2) + "\n")


def is_weights_dir(path: str | Path) -> bool:
    """Whether `path` is a folder that `save_weights` made."""
    file = Path(path) / METADATA_FILE
    if not file.is_file():
        return False
    try:
        return json.loads(file.read_text()).get("format") == FORMAT
    except (ValueError, AttributeError):
        return False


class WeightsReader:
    """Reads a folder of weights network by network or piece by piece.

    Attributes:
        metadata: what the weights are.
        abstract: network -> tree of `jax.ShapeDtypeStruct`.
    """

    def __init__(self, directory: str | Path):
        """Read the metadata and the shapes.

        Raises:
            UserError: this is no such folder, or a part of it is missing or damaged.
        """
        self.directory = Path(directory).absolute()
        if not is_weights_dir(self.directory):
            raise UserError(
                f"got {directory}, expected a folder with {METADATA_FILE} as `import` makes it; "
                "check the path"
            )
        content = json.loads((self.directory / METADATA_FILE).read_text())
        del content["format"]
        try:
            self.metadata = WeightsMetadata(**content)
        except TypeError as error:
            raise UserError(
                f"got {directory} with metadata of another version ({error}), expected {FORMAT}; "
                "import the original file again"
            ) from error
        self.abstract: dict[str, Params] = {}
        for component in self.metadata.configs:
            with self._damage(component), _checkpointer({}) as checkpointer:
                tree = checkpointer.metadata(self.directory / component).item_metadata.tree
            self.abstract[component] = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree
            )

    def read(self, component: str, module: str | None = None) -> Params:
        """Read one network, or one top-level module of it, as NumPy arrays.

        Returns:
            The network's tree; with `module`, a tree that has that one key.
        """
        item = self.abstract[component]
        if module is not None:
            item = {module: item[module]}
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
        arguments = jax.tree.map(
            # JAX has no 64-bit floats by default; the rare tensor of that kind stays in NumPy.
            lambda leaf: (
                ocp.RestoreArgs(restore_type=np.ndarray)
                if leaf.dtype.itemsize > 4
                else ocp.ArrayRestoreArgs(sharding=sharding)
            ),
            item,
        )
        restore = ocp.args.PyTreeRestore(
            item=item, restore_args=arguments, partial_restore=module is not None
        )
        with self._damage(component), _checkpointer(item) as checkpointer:
            tree = checkpointer.restore(self.directory / component, args=restore)
        return jax.tree.map(np.asarray, tree)

    def read_sharded(self, component: str, target: Params) -> Params:
        """Read one network onto devices; of an array a process reads what its devices hold.

        Args:
            component: the network.
            target: tree of `jax.ShapeDtypeStruct` with shardings: what is read, and where to.
                Values are cast to its dtypes on the way.
        """
        with self._damage(component), _checkpointer(target) as checkpointer:
            return checkpointer.restore(self.directory / component, args=sharded_restore(target))

    @contextmanager
    def _damage(self, component: str) -> Iterator[None]:
        """Turn what Orbax raises for damaged folders into one line."""
        try:
            yield
        except (OSError, ValueError, KeyError, AttributeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"got {self.directory} whose {component} cannot be read ({reason}), expected a "
                "complete Orbax checkpoint; import the original file again"
            ) from error


def load_weights(
    directory: str | Path, components: Iterable[str] | None = None
) -> dict[str, Params]:
    """Load networks from a folder that `save_weights` made: network -> tree of NumPy arrays.

    Args:
        directory: the folder.
        components: which networks; all by default.

    Raises:
        UserError: the folder is not of this form or damaged, or lacks a network that was asked for.
    """
    reader = WeightsReader(directory)
    wanted = list(reader.abstract) if components is None else list(components)
    lacking = [component for component in wanted if component not in reader.abstract]
    if lacking:
        raise UserError(
            f"got {directory} without {', '.join(lacking)}, expected one that holds more than "
            f"{', '.join(reader.abstract)}; import a file that has it"
        )
    return {component: reader.read(component) for component in wanted}


def _save_tree(path: Path, tree: Params) -> None:
    device = jax.local_devices(backend="cpu")[0]

    def to_jax(leaf: np.ndarray) -> Any:
        # Orbax limits its buffers for JAX arrays only; on the CPU device they share memory.
        return leaf if leaf.dtype.itemsize > 4 else jax.device_put(leaf, device)

    try:
        with _checkpointer(tree) as checkpointer:
            checkpointer.save(path.absolute(), jax.tree.map(to_jax, tree))
    except (ValueError, RuntimeError) as error:
        code = system_error(str(error))
        if code is None:
            raise
        raise OSError(code, os.strerror(code)) from error


def sharded_restore(target: Params) -> ocp.args.PyTreeRestore:
    """Ask Orbax for arrays of the dtypes and shardings of a tree of `jax.ShapeDtypeStruct`."""
    arguments = jax.tree.map(
        lambda leaf: ocp.ArrayRestoreArgs(sharding=leaf.sharding, dtype=leaf.dtype), target
    )
    return ocp.args.PyTreeRestore(item=target, restore_args=arguments, partial_restore=True)


def bounded_handler(tree: Params) -> ocp.PyTreeCheckpointHandler:
    """A handler whose buffers are little larger than the largest array of a tree.

    By default Orbax buffers the whole tree; it refuses a limit below the largest array.
    """
    # What is read may be wider than what it becomes.
    sizes = (leaf.size * max(4, leaf.dtype.itemsize) for leaf in jax.tree.leaves(tree))
    gigabytes = max(MIN_BUFFER_BYTES, 1.1 * max(sizes, default=0)) / 1e9
    return ocp.PyTreeCheckpointHandler(
        save_concurrent_gb=gigabytes, restore_concurrent_gb=gigabytes
    )


def _checkpointer(tree: Params) -> ocp.Checkpointer:
    return ocp.Checkpointer(bounded_handler(tree))
