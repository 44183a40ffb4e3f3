"""What a GPU spends the time of a program on, by the profiler's record of its kernels."""

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
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
        take longest, all calls of a kernel together; "span": seconds from the first kernel's start
        to the last one's end; "busy": those in which a kernel ran. Empty on other devices than
        GPUs.
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
    events = sorted(events, key=lambda event: event[1])
    busy, end = 0.0, events[0][1] if events else 0.0
    for name, start, seconds in events:
        kinds[kind_of(name)] += seconds
        kernels[name][0] += seconds
        kernels[name][1] += 1
        busy += max(0.0, start + seconds - max(start, end))
        end = max(end, start + seconds)
    span = end - events[0][1] if events else 0.0
    largest = sorted(kernels.items(), key=lambda item: -item[1][0])[:LARGEST]
    return {
        "span": span,
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


def in_words(found: Mapping[str, Any]) -> str:
    """Shares of the kinds in the time of all kernels, and of the span in which none ran."""
    kinds = found.get("kinds", {})
    whole = sum(kinds.values())
    shares = [f"{kind} {seconds / whole:.0%}" for kind, seconds in kinds.items()]
    if kinds:
        shares.append(f"no kernel in {1 - found['busy'] / found['span']:.0%} of the span")
    return ", ".join(shares)
