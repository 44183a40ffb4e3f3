"""How fast training is: images and FLOPs a second, utilization, memory, waiting for data."""

import contextlib
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

import jax

# Peak of dense bfloat16 matrix products, FLOP/s of one device, by prefix of its `device_kind`; from
# the vendors' data sheets, without sparsity. The first prefix that matches counts.
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 2307e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200 NVL": 835e12,
    "NVIDIA H200": 989e12,
    "NVIDIA GH200": 989e12,
    "NVIDIA B200": 2250e12,
}


def peak_flops(device_kind: str) -> float | None:
    """Peak of bfloat16 products, FLOP/s, of devices of this kind; None where it is not known."""
    return _of_kind(PEAK_FLOPS, device_kind)


# Of their main memory, bytes/s; the data sheets again.
PEAK_BANDWIDTH = {
    "TPU v4": 1228e9,
    "TPU v5 lite": 819e9,
    "TPU v5e": 819e9,
    "TPU v5p": 2765e9,
    "TPU v5": 2765e9,
    "TPU v6 lite": 1640e9,
    "TPU v6e": 1640e9,
    "NVIDIA A100-SXM4-40GB": 1555e9,
    "NVIDIA A100": 2039e9,
    "NVIDIA H100 PCIe": 2000e9,
    "NVIDIA H100 NVL": 3900e9,
    "NVIDIA H100": 3350e9,
    "NVIDIA H200": 4800e9,
    "NVIDIA B200": 7700e9,
}


def peak_bandwidth(device_kind: str) -> float | None:
    """Peak of reading and writing main memory, bytes/s; None where it is not known."""
    return _of_kind(PEAK_BANDWIDTH, device_kind)


def _of_kind(table: Mapping[str, float], device_kind: str) -> float | None:
    return next((peak for name, peak in table.items() if device_kind.startswith(name)), None)


def peak_memory(devices: Sequence[jax.Device] | None = None) -> int | None:
    """Most bytes that any of the devices (this process's) has held so far; None where not known."""
    devices = jax.local_devices() if devices is None else devices
    stats = [device.memory_stats() or {} for device in devices]
    peaks = [stat["peak_bytes_in_use"] for stat in stats if "peak_bytes_in_use" in stat]
    return max(peaks, default=None)


class Meter:
    """Throughput of a loop between two reports.

        with meter.waiting(metrics):  # of the step before
            record = next(records)
        state, metrics = step(state, record)
        meter.count(program)
        ...
        jax.block_until_ready(metrics)
        log(meter.report())

    Attributes:
        flops: program of a step -> its FLOPs; where they are missing, rates of them are left out.

    Args:
        batch_size: global.
        num_devices: that share a step, in all processes.
        device_kind: of them.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        batch_size: int,
        *,
        num_devices: int | None = None,
        device_kind: str | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.flops: dict[Hashable, int] = {}
        self._batch_size, self._clock = batch_size, clock
        self._num_devices = jax.device_count() if num_devices is None else num_devices
        self._peak = peak_flops(device_kind or jax.devices()[0].device_kind)
        self.reset()

    def reset(self) -> None:
        """Start over, e.g. after the first step, whose time is mostly compilation."""
        self._start = self._clock()
        self._waited = 0.0
        self._steps: dict[Hashable, int] = {}

    @contextlib.contextmanager
    def waiting(self, newest: object) -> Iterator[None]:
        """Count the time inside as waiting for data, if the devices have nothing else to do.

        Steps are dispatched ahead. While one of them still runs when its successor's data is
        there, nothing has waited but the host; otherwise all of the time counts, although the
        devices may have begun to wait in the midst of it.

        Args:
            newest: a pytree of outputs of the step dispatched last; None where there is none.
        """
        start = self._clock()
        try:
            yield
        finally:
            if all(output.is_ready() for output in jax.tree.leaves(newest)):
                self._waited += self._clock() - start

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time inside, e.g. of compilation; no step may be running."""
        start = self._clock()
        try:
            yield
        finally:
            self._start += self._clock() - start

    def count(self, program: Hashable) -> None:
        """Count a step that was dispatched, by what tells its program from others."""
        self._steps[program] = self._steps.get(program, 0) + 1

    def report(self) -> dict[str, float]:
        """Return the rates since the last report and start over; call it when the steps are done.

        Returns:
            "images_per_second" and "step_seconds" of the global batch, "data_wait_share" 0..1,
            "tflops_per_device", "mfu" 0..1 and "memory_peak_gib"; what is not known is left out.
        """
        seconds = max(self._clock() - self._start, 1e-9)
        steps = sum(self._steps.values())
        rates = {
            "images_per_second": steps * self._batch_size / seconds,
            "step_seconds": seconds / max(steps, 1),
            "data_wait_share": self._waited / seconds,
        }
        if self._steps.keys() <= self.flops.keys():
            total = sum(self.flops[program] * count for program, count in self._steps.items())
            per_device = total / seconds / self._num_devices
            rates["tflops_per_device"] = per_device / 1e12
            if self._peak is not None:
                rates["mfu"] = per_device / self._peak
        memory = peak_memory()
        if memory is not None:
            rates["memory_peak_gib"] = memory / 2**30
        self.reset()
        return rates
