"""How long a compiled program takes at least if its operations run one after another, as scheduled.

    python -m colorize_jax.analysis.compiled.timeline PROGRAM h200

reads a program of one device, as `compiled.as_text()` writes it.

An operation takes the longer of its FLOPs at the peak of their dtype and of its bytes at the
memory's bandwidth. What the schedule starts in one place and ends in another goes on beside what
stands between: exchanges on the links, copies in what operations leave of the memory's bandwidth.
Where the end comes before they are done, the device waits; an exchange with a single place is
waited for as a whole.

A roofline of sums, `roofline`, lets every operation hide behind every other one. This does not, but
still has no cost of starting a kernel, and no kernel that falls short of its peak: `expected` has,
where somebody measured how short they fall.
"""

import argparse
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from colorize_jax.analysis.compiled import hlo, traffic
from colorize_jax.analysis.compiled.hlo import Operation, Program
from colorize_jax.analysis.compiled.operation_flops import operation_flops
from colorize_jax.analysis.hardware.cards import CARDS
from colorize_jax.analysis.hardware.chips import CHIPS
from colorize_jax.analysis.hardware.machines import Device

# The module of a place in the traced program: a class of networks, and how it is traced.
_MODULE = re.compile(r"^(?:\w+\()*([A-Z]\w*)")
NO_MODULE = "losses, optimizer and the rest"
WAITING = "waiting for"
NUM_LISTED = 40
# What takes its time for computing; all else for memory or links.
WORK = ("product", "convolution", "attention")


@dataclass(frozen=True)
class Row:
    """All that operations of one kind do for one module, all repeats together.

    Attributes:
        kind, dtype: see `traffic.Kernel`; of waiting, what is waited for.
        module: class of the network.
        phase: "forward", "backward" or "recomputed".
        bound: what takes longest: "compute", "memory", "links".
    """

    kind: str
    dtype: str
    module: str
    phase: str
    bound: str


@dataclass
class Amount:
    """What a `Row` adds up to."""

    calls: int = 0
    seconds: float = 0.0
    flops: int = 0
    bytes: int = 0


@dataclass
class Timeline:
    """The time of a program.

    Attributes:
        seconds: of one run.
        rows: what it goes into.
    """

    seconds: float = 0.0
    rows: dict[Row, Amount] = field(default_factory=lambda: defaultdict(Amount))

    def add(
        self, row: Row, times: int, seconds: float = 0.0, flops: int = 0, size: int = 0
    ) -> None:
        """Enter what an operation does `times` times."""
        amount = self.rows[row]
        amount.calls += times
        amount.seconds += times * seconds
        amount.flops += times * flops
        amount.bytes += times * size


def timeline(program: Program, device: Device, exchanges: Mapping[str, float]) -> Timeline:
    """Add up a program in the order of its schedule.

    Args:
        program: compiled for `device`.
        device: whose peaks count.
        exchanges: name of every collective -> seconds that one run of it occupies the links.
    """
    walk = _Walk(program, device, exchanges)
    walk.result.seconds = walk.run(program.entry, 1).elapsed
    return walk.result


def expected(found: Timeline, device: Device) -> float | None:
    """Seconds with the shares of the peaks that were measured; None where none were."""
    if not device.REACHED:
        return None

    def share(row: Row) -> float:
        kind = next((kind for kind in WORK if kind in row.kind), "memory")
        return 1.0 if row.bound == "links" else device.REACHED[kind]

    return sum(amount.seconds / share(row) for row, amount in found.rows.items())


def as_report(found: Timeline) -> dict[str, Any]:
    """What a timeline goes into, as plain values: by bound, by kind and dtype, by module."""

    def total(key: Any) -> list[dict[str, Any]]:
        sums: dict[tuple[str, ...], Amount] = defaultdict(Amount)
        for row, amount in found.rows.items():
            of = sums[key(row)]
            of.calls += amount.calls
            of.seconds += amount.seconds
            of.flops += amount.flops
            of.bytes += amount.bytes
        ranked = sorted(sums.items(), key=lambda item: -item[1].seconds)
        return [{"of": list(names)} | vars(amount) for names, amount in ranked[:NUM_LISTED]]

    return {
        "bounds": {one["of"][0]: one["seconds"] for one in total(lambda row: (row.bound,))},
        "kinds": total(lambda row: (row.kind, row.dtype)),
        "modules": total(lambda row: (row.module, row.phase)),
    }


def place(source: str) -> tuple[str, str] | None:
    """Module and phase of an operation, by where in the traced program it comes from."""
    if not source:
        return None
    phase = "backward" if "transpose(" in source else "forward"
    phase = "recomputed" if "rematted_computation" in source else phase
    for part in source.split("/"):
        found = _MODULE.match(part)
        if found:
            return found[1], phase
    return NO_MODULE, phase


# --------------------------------------------------------------------------------------- the walk


class _Queue:
    """Work that goes on beside the operations, in the order in which it was started."""

    def __init__(self) -> None:
        self._left: dict[str, float] = {}

    def add(self, name: str, seconds: float) -> None:
        self._left[name] = seconds

    def drain(self, seconds: float) -> None:
        """Let `seconds` pass."""
        for name, left in list(self._left.items()):
            if left > seconds:
                self._left[name] = left - seconds
                return
            seconds -= left
            del self._left[name]

    def until(self, name: str) -> float:
        """Seconds until `name` is done."""
        if name not in self._left:
            return 0.0
        names = list(self._left)
        return sum(self._left[one] for one in names[: names.index(name) + 1])


class _Clock:
    """Time in one run of a computation.

    Attributes:
        elapsed: seconds.
        linked: of them, those in which the links are busy.
        queues: what goes on beside, on the "links" and in "memory".
    """

    def __init__(self) -> None:
        self.elapsed = self.linked = 0.0
        self.queues = {"links": _Queue(), "memory": _Queue()}

    def spend(self, seconds: float, *, links: float = 0.0, memory: float = 0.0) -> None:
        """Let time pass, in parts of which links or memory are taken."""
        self.elapsed += seconds
        self.linked += links
        self.queues["links"].drain(seconds - links)
        self.queues["memory"].drain(seconds - memory)

    def wait(self, name: str) -> tuple[str, float]:
        """Let time pass until something is done; for what and how long."""
        resource, seconds = max(
            ((resource, queue.until(name)) for resource, queue in self.queues.items()),
            key=lambda item: item[1],
        )
        self.spend(seconds)
        self.linked += seconds if resource == "links" else 0.0
        return resource, seconds


class _Walk:
    """One pass over a program; loops are walked once and count as often as they run."""

    def __init__(self, program: Program, device: Device, exchanges: Mapping[str, float]) -> None:
        self.program, self.device, self.exchanges = program, device, exchanges
        self.result = Timeline()

    def run(self, name: str, times: int) -> _Clock:
        """Walk a computation that runs `times` times; returns the clock of one run."""
        operations = self.program.computations[name]
        known = {operation.name: operation for operation in operations}
        clock, where = _Clock(), (NO_MODULE, "forward")
        for operation in operations:
            if operation.opcode in ("while", "conditional", "call"):
                for called, trips in self.program.called(operation):
                    inner = self.run(called, times * trips)
                    clock.spend(trips * inner.elapsed, links=trips * inner.linked)
            elif operation.opcode.endswith("-done"):
                for start in operation.operands:
                    resource, seconds = clock.wait(start)
                    if seconds:
                        kind = f"{WAITING} {known[start].opcode.removesuffix('-start')}"
                        self.result.add(Row(kind, "", *where, resource), times, seconds)
            elif traffic.works(operation) or operation.opcode == "async-start":
                kernel = traffic.kernel(self.program, operation, known, times)
                where = place(kernel.source) or where
                self._work(operation, known, kernel, where, clock)
        return clock

    def _work(
        self,
        operation: Operation,
        known: Mapping[str, Operation],
        kernel: traffic.Kernel,
        where: tuple[str, str],
        clock: _Clock,
    ) -> None:
        """Let an operation take its time, or start what goes on beside others."""
        links = self._linked(operation)
        memory = kernel.bytes / self.device.memory_bandwidth
        counted = operation_flops(self.program, operation, known)
        compute = sum(count / self.device.peak(dtype) for dtype, count in counted.items())
        needs = {"compute": compute, "memory": memory, "links": links}
        bound = max(needs, key=needs.get)
        row = Row(kernel.kind, kernel.dtype, *where, bound)
        seconds = 0.0
        if operation.opcode.endswith("-start") and not compute:
            resource = "links" if links else "memory"
            clock.queues[resource].add(operation.name, needs[resource])
        else:
            seconds = needs[bound]
            clock.spend(seconds, links=links, memory=memory)
        self.result.add(row, kernel.times, seconds, sum(counted.values()), kernel.bytes)

    def _linked(self, operation: Operation) -> float:
        """Seconds for which an operation occupies the links."""
        found = self.exchanges.get(operation.name, 0.0)
        if operation.opcode != "async-start":
            return found
        return found + sum(
            self.exchanges.get(one.name, 0.0)
            for name, _ in self.program.called(operation)
            for one in self.program.computations[name]
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the times of a program in a file; returns the exit status."""
    devices = CHIPS | CARDS
    parser = argparse.ArgumentParser(prog="python -m colorize_jax.analysis.compiled.timeline")
    parser.add_argument("program", type=Path, help="text of a compiled program")
    parser.add_argument("device", choices=sorted(devices))
    options = parser.parse_args(arguments)
    device = devices[options.device]
    found = timeline(hlo.parse(options.program.read_text()), device, {})
    report = as_report(found)
    print(f"{1e3 * found.seconds:.1f} ms at the peaks")
    if device.REACHED:
        print(f"{1e3 * expected(found, device):.1f} ms expected")
    for name in ("kinds", "modules"):
        for one in report[name]:
            print(f"  {1e3 * one['seconds']:8.1f} ms  {' '.join(one['of'])}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
