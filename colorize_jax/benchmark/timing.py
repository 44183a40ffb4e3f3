"""Compile a program, time repeated calls, and describe the devices."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from colorize_jax.analysis.needs import program_memory
from colorize_jax.config.options import Config
from colorize_jax.errors import UserError
from colorize_jax.nn import attention
from colorize_jax.sharding import in_bytes
from colorize_jax.training.monitoring.throughput import peak_flops, peak_memory

NUM_WARM_UP = 1  # the first call loads the program and finds its memory

Report = dict[str, Any]


def header(kind: str, config: Config, mesh: Mesh) -> Report:
    """What a measurement is of: devices, versions, sizes, and the whole config."""
    device = mesh.devices.flat[0]
    return {
        "benchmark": kind,
        "jax": jax.__version__,
        "platform": device.platform,
        "device_kind": device.device_kind,
        "num_devices": mesh.size,
        "mesh": dict(mesh.shape),
        "height": config.data.height,
        "width": config.data.width,
        "batch_size": config.data.batch_size,
        "dtype": config.model.dtype,
        "remat": config.model.remat,
        "attention": attention.preferred(config.model.attention),
        "accumulation": config.optimizer.accumulation,
        "config": config.to_dict(),
    }


def compile_program(jitted: Any, *args: Any) -> tuple[Any, Report]:
    """Compile a jitted function for arguments; also return seconds and memory of the program."""
    start = time.perf_counter()
    lowered = jitted.lower(*args)
    traced = time.perf_counter()
    compiled = lowered.compile()
    return compiled, {
        "trace_seconds": traced - start,
        "compile_seconds": time.perf_counter() - traced,
        "memory": program_memory(compiled),
    }


def repeat(call: Callable[[], Any], count: int) -> list[float]:
    """Seconds of each of `count` warm calls; every one is waited for."""
    for _ in range(NUM_WARM_UP):
        jax.block_until_ready(call())
    seconds = []
    for _ in range(count):
        start = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - start)
    return seconds


def sustain(call: Callable[[], Any], count: int) -> float:
    """Mean seconds of `count` warm calls of which each is dispatched while others run, as a run's
    steps are."""
    start = time.perf_counter()
    for _ in range(count):
        result = call()
    jax.block_until_ready(result)
    return (time.perf_counter() - start) / count


def rates(
    seconds: list[float],
    batch_size: int,
    flops: int | None,
    mesh: Mesh,
    sustained: float | None = None,
) -> Report:
    """Rates of timed calls.

    Args:
        seconds: of each that was waited for.
        batch_size: pictures in each.
        flops: of each, all devices together, see `analysis.step_flops`; None: not known.
        mesh: that shared them.
        sustained: seconds of one among others, see `sustain`; rates are of it where it is given.
    """
    least, lower, median, upper, most = np.quantile(seconds, (0, 0.25, 0.5, 0.75, 1)).tolist()
    one = sustained or median
    per_device = None if flops is None else flops / one / mesh.size
    peak = peak_flops(mesh.devices.flat[0].device_kind)
    return {
        "calls": len(seconds),
        "seconds": {
            "median": median,
            "min": least,
            "max": most,
            "lower_quartile": lower,
            "upper_quartile": upper,
        },
        "sustained_seconds": sustained,
        "images_per_second": batch_size / one,
        "flops": flops,
        "tflops_per_device": None if per_device is None else per_device / 1e12,
        "mfu": None if per_device is None or peak is None else per_device / peak,
        "device_peak_bytes": peak_memory(),
    }


@contextmanager
def fitting(what: str) -> Iterator[None]:
    """Turn an out-of-memory error into one line.

    Raises:
        UserError: the device's memory does not suffice.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            f"got {what} that needs more memory than the device has "
            f"({' '.join(str(error).split())[:150]}), expected one that fits; lower --batch_size "
            "or --resolution, or set --config.model.remat=block"
        ) from error


# ------------------------------------------------------------------------------------------ text


def title(report: Mapping[str, Any]) -> str:
    """The first line of a table."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in report["mesh"].items())
    return (
        f"{report['benchmark']}: {report['width']}x{report['height']} px, batch "
        f"{report['batch_size']}, {report['dtype']}, remat {report['remat']}, attention "
        f"{report['attention']}; {report['num_devices']} x {report['device_kind']} ({mesh}), "
        f"jax {report['jax']}"
    )


def table(programs: Mapping[str, Mapping[str, Any]]) -> str:
    """Timed programs, one a line."""
    head = f"{'':<8}{'trace':>8}{'compile':>9}{'median':>11}{'quartiles':>24}{'images/s':>10}"
    lines = [head + f"{'TFLOP':>11}{'TFLOP/s':>11}{'MFU':>8}{'memory':>12}"]
    for name, one in programs.items():
        seconds, memory = one["seconds"], one["device_peak_bytes"] or one["memory"]["total"]
        spread = f"{seconds['lower_quartile']:.4g} .. {seconds['upper_quartile']:.4g} s"
        lines.append(
            f"{name:<8}{one['trace_seconds']:>6.1f} s{one['compile_seconds']:>7.1f} s"
            f"{seconds['median']:>9.4g} s{spread:>24}{one['images_per_second']:>10.4g}"
            f"{_or_dash(one['flops'], 1e-12):>11}{_or_dash(one['tflops_per_device']):>11}"
            f"{_or_dash(one['mfu'], 100, '.1f', ' %'):>8}{in_bytes(memory):>12}"
        )
    return "\n".join(lines)


def _or_dash(value: float | None, factor: float = 1, form: str = ".3g", unit: str = "") -> str:
    return "-" if value is None else f"{value * factor:{form}}{unit}"
