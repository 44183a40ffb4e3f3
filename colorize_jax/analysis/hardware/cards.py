"""NVIDIA cards and the nodes that they are in."""

import importlib.metadata
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from jax.experimental import topologies

from colorize_jax.analysis.hardware.machines import Device, Machines
from colorize_jax.errors import UserError
from colorize_jax.setup.machine import platform

CARDS_OF_A_NODE = 8
NODES = ("1", "2", "4", "8")
CUDNN_PACKAGES = ("nvidia-cudnn-cu13", "nvidia-cudnn-cu12")
CUDNN_AT_LEAST = "9.8"  # what JAX asks for; of an installation that pip does not know

# XLA's `GpuTargetConfigProto`, as text. The limits are those of every card here.
TARGET = """
gpu_device_info {{
  cuda_compute_capability {{ major: {capability} }}
  core_count: {cores}
  fpus_per_core: {units}
  clock_rate_ghz: {clock}
  memory_bandwidth: {bandwidth:.0f}
  device_memory_size: {total_memory}
  l2_cache_size: {l2_cache}
  shared_memory_per_core: {core_memory}
  shared_memory_per_block_optin: {block_memory}
  shared_memory_per_block: 49152
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  threads_per_warp: 32
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: {cudnn[0]} minor: {cudnn[1]} patch: {cudnn[2]} }}
runtime_version {{ major: {cuda} }}
device_description_str: "{description}"
"""


@dataclass(frozen=True)
class Card(Device):
    """One card.

    Peak, NVLink and network are those of NVIDIA's data sheets (A100 80GB SXM, H100 SXM, H200 SXM,
    HGX B200: dense products; NVLink one way, half of the sum that they give) and of DGX nodes (one
    InfiniBand adapter a card: 200 Gb/s with A100, 400 Gb/s with the others). All else is what the
    driver reports of the card, as XLA's own target configurations have it
    (`xla/backends/gpu/target_config/specs`).

    Attributes:
        description: as JAX names the card.
        total_memory: of which `memory` is the share that a process takes, bytes.
        capability: major number of the compute capability.
        cores: streaming multiprocessors.
        units: float32 units of each.
        clock: GHz.
        l2_cache: bytes.
        core_memory, block_memory: shared memory of a core, and of a block that asks for all; bytes.
    """

    FLOAT32_RATE: ClassVar[float] = 0.5  # TF32
    # Of a training step of four pictures on one H200, kernel by kernel; see docs/gpu.md.
    REACHED: ClassVar[Mapping[str, float]] = {
        "product": 0.755,
        "convolution": 0.71,
        "attention": 0.51,
        "memory": 0.525,
    }
    description: str
    total_memory: int
    capability: int
    cores: int
    units: int
    clock: float
    l2_cache: int
    core_memory: int
    block_memory: int

    def doubles(self, dtype: str) -> bool:
        """See `Device.doubles`; of float8 from Hopper on."""
        return super().doubles(dtype) or (dtype.startswith("f8") and self.capability >= 9)


A100 = Card(
    name="a100",
    memory=platform.MEMORY_FRACTION * 85100068864,
    peak_flops=312e12,
    memory_bandwidth=2039.04e9,
    link_bandwidth=300e9,
    network_bandwidth=25e9,
    slices=NODES,
    description="NVIDIA A100-SXM4-80GB",
    total_memory=85100068864,
    capability=8,
    cores=108,
    units=64,
    clock=1.41,
    l2_cache=41943040,
    core_memory=167936,
    block_memory=166912,
)
HOPPER = {
    "peak_flops": 989e12,
    "link_bandwidth": 450e9,
    "network_bandwidth": 50e9,
    "slices": NODES,
    "capability": 9,
    "cores": 132,
    "units": 128,
    "clock": 1.98,
    "l2_cache": 52428800,
    "core_memory": 233472,
    "block_memory": 232448,
}
H100 = Card(
    name="h100",
    memory=platform.MEMORY_FRACTION * 84942979072,
    memory_bandwidth=3352.32e9,
    description="NVIDIA H100 80GB HBM3",
    total_memory=84942979072,
    **HOPPER,
)
H200 = Card(
    name="h200",
    memory=platform.MEMORY_FRACTION * 151397597184,
    memory_bandwidth=4800e9,
    description="NVIDIA H200",
    total_memory=151397597184,
    **HOPPER,
)
B200 = Card(
    name="b200",
    memory=platform.MEMORY_FRACTION * 191514411008,
    peak_flops=2250e12,
    memory_bandwidth=7672.32e9,
    link_bandwidth=900e9,
    network_bandwidth=50e9,
    slices=NODES,
    description="NVIDIA B200",
    total_memory=191514411008,
    capability=10,
    cores=148,
    units=128,
    clock=1.965,
    l2_cache=132644864,
    core_memory=233472,
    block_memory=232448,
)
CARDS = {card.name: card for card in (A100, H100, H200, B200)}


def describe(card: Card, number: str, num_nodes: int) -> Machines | None:
    """Describe nodes of a card, as `topology.describe` does; None where there are none such."""
    if number not in map(str, range(1, CARDS_OF_A_NODE + 1)):
        return None
    # cuPTI and the driver's version are asked for otherwise.
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    try:
        found = topologies.get_topology_desc(
            platform="cuda",
            topology_name=card.name,
            target_config=target_config(card),
            topology=f"{num_nodes}x1x{number}",
        )
    except (RuntimeError, ModuleNotFoundError, NotImplementedError) as error:
        raise UserError(
            f"got no GPU compiler ({' '.join(str(error).split())[:120]}), expected JAX's CUDA "
            'plugin; install "jax[cuda13]" (the extra gpu), which works on machines without GPUs '
            "too"
        ) from error
    return Machines(
        name=f"{card.name}:{number}",
        platform="gpu",
        device=card,
        shape=(int(number),),
        count=num_nodes,
        devices=found.devices,
        inner_bandwidth=card.link_bandwidth,
        compiler_options=platform.compiler_options(),
    )


def target_config(card: Card) -> str:
    """A card for XLA, with the libraries that are installed."""
    version = next(filter(None, map(_version, CUDNN_PACKAGES)), CUDNN_AT_LEAST)
    cuda = 12 if _version("jax-cuda12-plugin") else 13
    facts = vars(card) | {"bandwidth": card.memory_bandwidth}
    return TARGET.format(cudnn=(*version.split("."), 0, 0)[:3], cuda=cuda, **facts)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
