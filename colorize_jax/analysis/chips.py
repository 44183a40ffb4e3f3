"""TPU chips and slices: what compiling ahead of time is measured against."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import jax
from jax.experimental import topologies

from colorize_jax.errors import UserError

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One chip; the numbers are those of Google's documentation of the TPU versions.

    Attributes:
        name: as topologies begin.
        memory: bytes of HBM.
        peak_flops: FLOP/s of dense bfloat16 products.
        memory_bandwidth: of HBM, bytes/s.
        link_bandwidth: of one link to a neighbour, one way, bytes/s.
        network_bandwidth: to other slices, one way, bytes/s.
        closes: an axis of the slice whose length is a multiple of this is a ring.
        slices: shapes that can be had.
    """

    name: str
    memory: float
    peak_flops: float
    memory_bandwidth: float
    link_bandwidth: float
    network_bandwidth: float
    closes: int
    slices: tuple[str, ...]


SQUARES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16")
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v5e", 16 * GIB, 197e12, 819e9, 50e9, 3.1e9, 16, SQUARES),
        Chip("v6e", 32 * GIB, 918e12, 1640e9, 100e9, 12.5e9, 16, SQUARES),
        Chip("v5p", 95 * GIB, 459e12, 2765e9, 100e9, 6.2e9, 4, (*CUBES, "8x16x16", "16x16x16")),
    )
}


@dataclass(frozen=True)
class Slice:
    """Slices of one sort, joined by a slower network.

    Attributes:
        name: e.g. "v5e:8x8".
        chip: what they are made of.
        shape: chips along each axis of one slice.
        count: number of slices.
        devices: of all slices; nothing can run on them.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]
    count: int
    devices: Sequence[jax.Device]

    @property
    def links(self) -> int:
        """Links of the chip that has the fewest: two along a ring, one at the end of a line."""
        return min_links(self.chip, self.shape)


def min_links(chip: Chip, shape: Sequence[int]) -> int:
    """See `Slice.links`."""
    return sum((2 if size % chip.closes == 0 else 1) for size in shape if size > 1)


def describe(topology: str, num_slices: int = 1) -> Slice:
    """Describe slices that need not be there; libtpu has to be installed.

    Args:
        topology: chip and shape, e.g. "v5p:4x4x4".
        num_slices: how many of them.

    Raises:
        UserError: there is no such slice, or no libtpu.
    """
    name, _, shape = topology.partition(":")
    if name not in CHIPS or not re.fullmatch(r"\d+(x\d+)*", shape):
        raise unknown(topology)
    if shape.count("x") != CHIPS[name].slices[0].count("x"):
        raise unknown(topology)
    # No machine to ask for its metadata, and none to run on: several processes may compile at once.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5p-8")
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=topology, num_slices=num_slices
        )
    except jax.errors.JaxRuntimeError as error:
        if "libtpu" in str(error):
            raise no_compiler(error) from error
        raise unknown(topology) from error
    except ModuleNotFoundError as error:
        raise no_compiler(error) from error
    except RuntimeError as error:
        if "TPU support not installed" not in str(error):
            raise
        raise no_compiler(error) from error
    return Slice(
        topology, CHIPS[name], tuple(map(int, shape.split("x"))), num_slices, found.devices
    )


def unknown(topology: str) -> UserError:
    """The error of a slice that does not exist."""
    known = "; ".join(f"{name}: {', '.join(chip.slices)}" for name, chip in CHIPS.items())
    return UserError(
        f"got topology {topology!r}, expected a chip and the shape of a slice, such as v5e:8x8 "
        f"({known}); choose one of them"
    )


def no_compiler(error: Exception) -> UserError:
    """The error of a machine without the TPU compiler."""
    return UserError(
        f"got no TPU compiler ({' '.join(str(error).split())[:120]}), expected the package libtpu; "
        'install "jax[tpu]", which works on machines without TPUs too'
    )
