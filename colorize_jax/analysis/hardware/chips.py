"""TPU chips and the slices that they are in."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax
from jax.experimental import topologies

from colorize_jax.analysis.hardware.machines import GIB, Device, Machines
from colorize_jax.errors import UserError


@dataclass(frozen=True)
class Chip(Device):
    """One chip; the numbers are those of Google's documentation of the TPU versions.

    Attributes:
        closes: an axis of the slice whose length is a multiple of this is a ring.
    """

    FLOAT32_RATE: ClassVar[float] = 1.0  # one pass in bfloat16
    closes: int


SQUARES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16")
LARGE_CUBES = (*CUBES, "8x16x16", "16x16x16")
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v5e", 16 * GIB, 197e12, 819e9, 50e9, 3.1e9, SQUARES, 16),
        Chip("v6e", 32 * GIB, 918e12, 1640e9, 100e9, 12.5e9, SQUARES, 16),
        Chip("v5p", 95 * GIB, 459e12, 2765e9, 100e9, 6.2e9, LARGE_CUBES, 4),
    )
}


def min_links(chip: Chip, shape: Sequence[int]) -> int:
    """Links of the chip of a slice that has fewest: two along a ring, one at the end of a line."""
    return sum((2 if size % chip.closes == 0 else 1) for size in shape if size > 1)


def describe(chip: Chip, shape: str, num_slices: int) -> Machines | None:
    """Describe slices of a chip, as `topology.describe` does; None where there are none such."""
    if not re.fullmatch(r"\d+(x\d+)*", shape) or shape.count("x") != chip.slices[0].count("x"):
        return None
    # No machine to ask for its metadata, and none to run on: several processes may compile at once.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5p-8")
    name = f"{chip.name}:{shape}"
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=name, num_slices=num_slices
        )
    except jax.errors.JaxRuntimeError as error:
        if "libtpu" in str(error):
            raise no_compiler(error) from error
        return None
    except ModuleNotFoundError as error:
        raise no_compiler(error) from error
    except RuntimeError as error:
        if "TPU support not installed" not in str(error):
            raise
        raise no_compiler(error) from error
    sizes = tuple(map(int, shape.split("x")))
    return Machines(
        name=name,
        platform="tpu",
        device=chip,
        shape=sizes,
        count=num_slices,
        devices=found.devices,
        inner_bandwidth=min_links(chip, sizes) * chip.link_bandwidth,
    )


def no_compiler(error: Exception) -> UserError:
    """The error of a machine without the TPU compiler."""
    return UserError(
        f"got no TPU compiler ({' '.join(str(error).split())[:120]}), expected the package libtpu; "
        'install "jax[tpu]", which works on machines without TPUs too'
    )
