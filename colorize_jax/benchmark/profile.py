"""What a GPU spends the time of a program on, by the profiler's record of its kernels."""

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax

# Kind -> parts of the names of its kernels, in the order in which they are looked for.
KINDS = {
    "attention": ("sdpa", "fmha", "flash"),
    "convolutions": ("fprop", "dgrad", "wgrad", "conv2d", "convolve", "implicit"),
    "products": ("nvjet", "gemm", "cutlass", "splitk"),
    "copies": ("memcpy", "memset", "nchwtonhwc", "nhwctonchw"),
}
FUSIONS = "fusions"  # all others: XLA's own
LARGEST = 80  # kernels that a report names


def kernel_times(call: Callable[[], Any]) -> dict[str, Any]:
    """Run a call once under the profiler.

    Args:
        call: compiled and run before.

    Returns:
        "kinds": seconds by kind of kernel; "largest": name, seconds and count of the kernels that
        take longest, all calls of a kernel together; "busy": seconds in which a kernel ran. Empty
        on other devices than GPUs.
    """
    if jax.default_backend() != "gpu":
        return {}
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(call())
        (path,) = Path(folder).rglob("*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(path))
        return totals(
            (event.name, event.start_ns / 1e9, event.duration_ns / 1e9)
            for plane in data.planes
            if plane.name == "/device:GPU:0"
            for line in plane.lines
            if line.name.startswith("Stream")
            for event in line.events
        )


def totals(events: Iterable[tuple[str, float, float]]) -> dict[str, Any]:
    """The result of `kernel_times`, of events' names, starts and durations (s)."""
    kinds, kernels = defaultdict(float), defaultdict(lambda: [0.0, 0])
    busy, end = 0.0, float("-inf")
    for name, start, seconds in sorted(events, key=lambda event: event[1]):
        kinds[kind_of(name)] += seconds
        kernels[name][0] += seconds
        kernels[name][1] += 1
        busy += max(0.0, start + seconds - max(start, end))
        end = max(end, start + seconds)
    largest = sorted(kernels.items(), key=lambda item: -item[1][0])[:LARGEST]
    return {
        "busy": busy,
        "kinds": dict(sorted(kinds.items(), key=lambda item: -item[1])),
        "largest": [[name, *value] for name, value in largest],
    }


def kind_of(name: str) -> str:
    """The kind of a kernel, by its name."""
    name = name.lower()
    for kind, parts in KINDS.items():
        if any(part in name for part in parts):
            return kind
    return FUSIONS


def in_words(found: dict[str, Any]) -> str:
    """Shares of the kinds in the time of all kernels."""
    whole = sum(found.get("kinds", {}).values())
    shares = [f"{kind} {seconds / whole:.0%}" for kind, seconds in found.get("kinds", {}).items()]
    return ", ".join(shares)
