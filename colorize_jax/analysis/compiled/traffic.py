"""The kernels of a compiled program, by kind, and the bytes that they read and write."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from colorize_jax.analysis.compiled.hlo import COLLECTIVES, FREE, Operation, Program, size_of

# Library kernels, by their custom-call targets.
LIBRARIES = {
    "__cudnn$fmha": "cuDNN attention",
    "__cudnn$conv": "cuDNN convolution",
    "__cublas$lt$matmul": "cuBLASLt product",
    "__cublas$gemm": "cuBLAS product",
    "tpu_custom_call": "Pallas kernel",
}
# What a library's kernel returns beside its results: scratch memory.
SCRATCH = ("s8", "u8")
LAYOUTS = ("copy", "transpose")
PRODUCTS = ("dot", "convolution")
# What a fusion may end in behind what makes it one of its kind.
VIEWS = ("bitcast", "convert", "reshape", "tuple")


@dataclass(frozen=True)
class Kernel:
    """One operation that does work.

    Attributes:
        name: of the operation.
        kind: see `kernels`.
        dtype: of its first operand for products and attention, else of its result.
        times: how often a step runs it.
        bytes: that it reads and writes each time.
        source: where in the traced program it comes from.
    """

    name: str
    kind: str
    dtype: str
    times: int
    bytes: int
    source: str


def total(program: Program) -> int:
    """Bytes that a device reads and writes in its main memory, at least, as the program stands.

    Every operation reads its operands and writes its result once; of an operand of which it takes
    slices it reads the slices. What the compiler keeps in faster memory (layouts with "S(1)") does
    not count.
    """
    return sum(kernel.times * kernel.bytes for kernel in list_kernels(program))


def kernels(program: Program) -> list[dict[str, Any]]:
    """Count a program's kernels by kind and dtype.

    Returns:
        The kinds, most bytes first: "kind" (a library's kernel, a collective, "layout" for copies
        and transposes alone, "product", "reduction" or "elementwise" fusions), "dtype", "calls" of
        a step and their "bytes".
    """
    rows: dict[tuple[str, str], list[int]] = {}
    for kernel in list_kernels(program):
        row = rows.setdefault((kernel.kind, kernel.dtype), [0, 0])
        row[0] += kernel.times
        row[1] += kernel.times * kernel.bytes
    ranked = sorted(rows.items(), key=lambda item: -item[1][1])
    return [
        {"kind": kind, "dtype": dtype, "calls": calls, "bytes": size}
        for (kind, dtype), (calls, size) in ranked
    ]


def list_kernels(program: Program) -> Iterator[Kernel]:
    """Every operation that does work, in the order of the program's text."""
    for name, times in program.repeats().items():
        known = {operation.name: operation for operation in program.computations[name]}
        for operation in program.computations[name]:
            if works(operation):
                yield kernel(program, operation, known, times)


def works(operation: Operation) -> bool:
    """Whether an operation is work, and no name for or end of another's."""
    return operation.opcode not in FREE and not operation.opcode.endswith("-done")


def kernel(
    program: Program, operation: Operation, known: Mapping[str, Operation], times: int
) -> Kernel:
    """Describe an operation that works.

    Args:
        program: that it is of.
        operation: one for which `works` holds.
        known: the operations of its computation, by name.
        times: how often a step runs it.
    """
    fused = _fused(program, operation)
    kind = _kind(operation, fused)
    first = known.get(operation.operands[0]) if operation.operands else None
    typed = first if first is not None and kind in LIBRARIES.values() else operation
    return Kernel(
        name=operation.name,
        kind=kind,
        dtype=max(typed.shapes, key=lambda s: size_of(*s[:2]))[0] if typed.shapes else "",
        times=times,
        bytes=_traffic(fused, operation, known),
        source=operation.source or next((o.source for o in reversed(fused) if o.source), ""),
    )


def beside_products(program: Program) -> set[str]:
    """Names of the exchanges between whose start and end products or attention run."""
    busy = {*LIBRARIES.values(), *PRODUCTS, "product"}
    found: set[str] = set()
    for name in program.repeats():
        open_ones: dict[str, set[str]] = {}  # start -> the exchanges that it starts
        for operation in program.computations[name]:
            opcode = operation.opcode
            if opcode.endswith("-done"):
                for start in operation.operands:
                    open_ones.pop(start, None)
            elif opcode.endswith("-start") and opcode.removesuffix("-start") in COLLECTIVES:
                open_ones[operation.name] = {operation.name}
            elif opcode == "async-start":
                inner = _fused(program, operation)
                open_ones[operation.name] = {o.name for o in inner if o.opcode in COLLECTIVES}
            elif open_ones and _kind(operation, _fused(program, operation)) in busy:
                found |= set().union(*open_ones.values())
    return found


def _kind(operation: Operation, fused: Sequence[Operation]) -> str:
    opcode = operation.opcode.removesuffix("-start")
    if opcode == "custom-call":
        target = re.search(r'custom_call_target="([^"]*)"', operation.text)
        name = target[1] if target else opcode
        return next((kind for start, kind in LIBRARIES.items() if name.startswith(start)), name)
    called = [o for o in fused if o.opcode == "custom-call"]
    if opcode == "fusion" and called:  # a library's kernel that reads or writes slices in place
        return _kind(called[0], ())
    if opcode in COLLECTIVES or opcode in PRODUCTS:
        return opcode
    if opcode in LAYOUTS:
        return "layout"
    opcodes = {o.opcode for o in fused}
    if opcode == "async":
        return next((name for name in COLLECTIVES if name in opcodes), "elementwise")
    if opcode != "fusion":
        return "elementwise"
    if opcodes & set(PRODUCTS):
        return "product"
    if _ending(fused) in LAYOUTS:
        return "layout"
    return "reduction" if "reduce" in opcodes else "elementwise"


def _ending(fused: Sequence[Operation]) -> str:
    """The last operation of a fusion, not counting views."""
    known = {operation.name: operation for operation in fused}
    last = fused[-1] if fused else None
    while last is not None and last.opcode in VIEWS and last.operands:
        last = known.get(last.operands[0])
    return last.opcode if last is not None else ""


def _fused(program: Program, operation: Operation) -> Sequence[Operation]:
    inner = re.search(r"calls=%?([\w.\-]+)", operation.text)
    return program.computations.get(inner[1], []) if inner else []


def _traffic(
    fused: Sequence[Operation], operation: Operation, known: Mapping[str, Operation]
) -> int:
    total = 0
    for index, name in enumerate(operation.operands):
        operand = known.get(name)
        if operand is not None and not _fast(operand):
            total += min(operand.bytes, _read(fused, index, operand.bytes))
    if operation.opcode == "fusion-start":
        return total + _written(fused, fused[-1])
    if operation.opcode.endswith("-start"):  # returns its operands beside its results
        read = sum(_slow_bytes(known[name]) for name in operation.operands if name in known)
        return total + max(0, _slow_bytes(operation) - read)
    return total + (0 if _fast(operation) else _written(fused, operation))


def _fast(operation: Operation) -> bool:
    return all("S(" in layout for _, _, layout in operation.shapes) and bool(operation.shapes)


def _slow_bytes(operation: Operation) -> int:
    """Bytes of an operation's results in main memory."""
    return sum(
        size_of(dtype, dims) for dtype, dims, layout in operation.shapes if "S(" not in layout
    )


def _read(fused: Sequence[Operation], index: int, whole: int) -> int:
    """Bytes that a fusion reads of its operand: slices if it slices it, none if it updates it."""
    parameter = next(
        (o.name for o in fused if o.opcode == "parameter" and f"parameter({index})" in o.text), None
    )
    users = [o for o in fused if parameter in o.operands]
    if not users:
        return whole
    total = 0
    for user in users:
        if user.opcode in ("dynamic-slice", "slice", "gather"):
            total += user.bytes
        elif user.opcode != "dynamic-update-slice" or user.operands[0] != parameter:
            return whole
    return total


def _written(fused: Sequence[Operation], operation: Operation) -> int:
    """Bytes that an operation writes: an update in place writes the update, scratch counts none."""
    if operation.opcode == "custom-call" and len(operation.shapes) > 1:
        return sum(size_of(*s[:2]) for s in operation.shapes if s[0] not in SCRATCH)
    known = {o.name: o for o in fused}
    updates = [o for o in fused if o.opcode == "dynamic-update-slice"] or (
        [operation] if operation.opcode == "dynamic-update-slice" else []
    )
    total = operation.bytes
    for update in updates:
        if update.bytes <= total and len(update.operands) > 1 and update.operands[1] in known:
            total += known[update.operands[1]].bytes - update.bytes
    return total
