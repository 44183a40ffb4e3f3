"""Figures of TPU chips and GPU cards and of groups of them, for rooflines and memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax

GIB = 2**30


@dataclass(frozen=True)
class Device:
    """One TPU chip or GPU card.

    Attributes:
        name: as topologies begin.
        memory: bytes that a process may take.
        peak_flops: FLOP/s of dense bfloat16 products.
        memory_bandwidth: of HBM, bytes/s.
        link_bandwidth: of one link to a neighbour (TPU), or of all links of a card (NVLink); one
            way, bytes/s.
        network_bandwidth: to other slices or nodes, one way, bytes/s.
        slices: shapes that can be had.
        FLOAT32_RATE: share of the peak that products of float32 numbers reach, which are none of
            float32 precision unless they are asked for.
        REACHED: share of its peak that work of a kind (`timeline.WORK`) reached where it was
            measured; empty where nothing was.
    """

    FLOAT32_RATE: ClassVar[float]
    REACHED: ClassVar[Mapping[str, float]] = {}

    name: str
    memory: float
    peak_flops: float
    memory_bandwidth: float
    link_bandwidth: float
    network_bandwidth: float
    slices: tuple[str, ...]

    def peak(self, dtype: str) -> float:
        """FLOP/s of dense products of a dtype, as compiled programs name it ("bf16", "s8")."""
        if dtype in ("f32", "f64"):
            return self.FLOAT32_RATE * self.peak_flops
        return 2 * self.peak_flops if self.doubles(dtype) else self.peak_flops

    def doubles(self, dtype: str) -> bool:
        """Whether products of a dtype are twice as many a second as those of bfloat16."""
        return dtype in ("s8", "u8")


@dataclass(frozen=True)
class Machines:
    """Slices or nodes of one sort, joined by a slower network.

    Attributes:
        name: e.g. "v5e:8x8" or "h100:8".
        platform: "tpu" or "gpu".
        device: what they are made of.
        shape: devices along each axis of one of them.
        count: number of slices or nodes.
        devices: of all; nothing can run on them.
        inner_bandwidth: bytes/s that a device can send to others of its slice or node.
        compiler_options: under which programs are compiled.
    """

    name: str
    platform: str
    device: Device
    shape: tuple[int, ...]
    count: int
    devices: Sequence[jax.Device]
    inner_bandwidth: float
    compiler_options: Mapping[str, Any] = field(default_factory=dict)
