"""Parsing of compiled programs (HLO): their loops and their collectives.

Compiled programs are read as text. An operation inside a loop counts as often as the loop runs.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

# Operations without work of their own: they name, group or view the results of others.
FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "partition-id",
    "replica-id",
    "while",
    "conditional",
    "call",
    "async-start",
    "async-update",
    "opt-barrier",
    "domain",
    "add-dependency",
}

BITS = {"pred": 8, "bf16": 16, "f16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128}

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](?:\{([^{}]*)\})?")
_OPCODE = re.compile(r"\s([a-z][\w\-]*)\(")
_CALLED = re.compile(r"(?:calls|body|condition|to_apply)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\s*\{\s*"n":\s*"(\d+)"\s*\}')


@dataclass(frozen=True)
class Operation:
    """One instruction.

    Attributes:
        name: unique in the program.
        opcode: what it does.
        shapes: of its results: (dtype, dimensions, layout).
        operands: names.
        text: the whole line.
    """

    name: str
    opcode: str
    shapes: tuple[tuple[str, tuple[int, ...], str], ...]
    operands: tuple[str, ...]
    text: str

    @property
    def bytes(self) -> int:
        """Size of its results, without padding."""
        return sum(size_of(dtype, dims) for dtype, dims, _ in self.shapes)

    @property
    def source(self) -> str:
        """Where in the traced program it comes from."""
        match = re.search(r'op_name="([^"]*)"', self.text)
        return match[1] if match else ""


@dataclass
class Program:
    """A compiled program.

    Attributes:
        computations: name -> operations in order.
        entry: name of the first one.
    """

    computations: dict[str, list[Operation]] = field(default_factory=dict)
    entry: str = ""

    def repeats(self) -> dict[str, int]:
        """How often each computation that is not inside a fusion or reduction runs."""
        counts: dict[str, int] = {}

        def visit(name: str, times: int) -> None:
            counts[name] = counts.get(name, 0) + times
            for operation in self.computations[name]:
                for called, trips in self.called(operation):
                    visit(called, times * trips)

        visit(self.entry, 1)
        return counts

    def called(self, operation: Operation) -> Iterator[tuple[str, int]]:
        """Computations that an operation runs as its own, and how often."""
        if operation.opcode == "while":
            trips = self.trip_count(operation)
            for name in _CALLED.findall(operation.text):
                yield name, trips
        elif operation.opcode == "conditional":
            for names in _BRANCHES.findall(operation.text):
                for name in names.split(","):
                    yield name.strip().lstrip("%"), 1
        elif operation.opcode in ("call", "async-start"):
            for name in _CALLED.findall(operation.text):
                yield name, 1

    def trip_count(self, operation: Operation) -> int:
        """How often a loop runs, as the compiler knows or as its condition compares; else 1."""
        match = _TRIPS.search(operation.text)
        if match:
            return int(match[1])
        condition = re.search(r"condition=%?([\w.\-]+)", operation.text)
        limits = [
            int(number)
            for o in self.computations.get(condition[1] if condition else "", [])
            for number in re.findall(r"s32\[\][^=]* constant\((\d+)\)", o.text)
        ]
        return max(limits, default=1)


def parse(text: str) -> Program:
    """Read a program as `compiled.as_text()` writes it."""
    program = Program()
    current: list[Operation] = []
    for line in text.splitlines():
        header = _COMPUTATION.match(line)
        if header:
            current = program.computations.setdefault(header[2], [])
            program.entry = header[2] if header[1] else program.entry
            continue
        match = _INSTRUCTION.match(line)
        if match:
            current.append(_operation(match[2], match[3]))
    return program


def _operation(name: str, rest: str) -> Operation:
    opcode = _OPCODE.search(" " + rest)
    head = rest[: opcode.start()] if opcode else rest
    arguments = _balanced(rest, opcode.end() - 1) if opcode else ""
    shapes = tuple(
        (dtype, tuple(int(n) for n in dims.split(",") if n), layout)
        for dtype, dims, layout in _SHAPE.findall(head)
    )
    operands = tuple(re.findall(r"%([\w.\-]+)", arguments))
    return Operation(name, opcode[1] if opcode else "", shapes, operands, rest)


def _balanced(text: str, start: int) -> str:
    """The text from `start` to the bracket that closes the one before it."""
    depth = 1
    for end in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[end], 0)
        if not depth:
            return text[start:end]
    return text[start:]


def size_of(dtype: str, dims: Sequence[int]) -> int:
    """Bytes of an array, without padding."""
    bits = BITS.get(dtype)
    if bits is None:
        digits = re.search(r"\d+", dtype)
        bits = int(digits[0]) if digits else 0
    return math.prod(dims) * bits // 8


# ------------------------------------------------------------------------- what devices send


@dataclass(frozen=True)
class Collective:
    """One exchange between devices, of one dtype.

    Attributes:
        name: of the operation.
        kind: of `COLLECTIVES`.
        size: bytes of the whole: of what is gathered, reduced, scattered, exchanged or passed on.
        group: devices that take part together.
        axes: of the mesh that they lie along.
        times: how often a step does it.
        source: where in the traced program it comes from.
        shapes: dimensions of all its results.
        dtype: of what is sent.
    """

    name: str
    kind: str
    size: int
    group: int
    axes: tuple[str, ...]
    times: int
    source: str
    shapes: tuple[tuple[int, ...], ...]
    dtype: str

    @property
    def sent(self) -> float:
        """Bytes that each device sends at least, all repeats together (ring algorithms)."""
        share = (self.group - 1) / self.group
        factor = {"collective-permute": 1.0, "all-reduce": 2 * share}.get(self.kind, share)
        return factor * self.size * self.times


def collectives(program: Program, mesh_shape: Mapping[str, int]) -> list[Collective]:
    """List the collectives of a program.

    Args:
        program: of `parse`.
        mesh_shape: axis -> number of devices, in the order in which the mesh numbers its devices.
    """
    found = []
    for name, times in program.repeats().items():
        # TPUs fuse the steps of a collective into overlapping computation: count each channel once.
        seen = set()
        for operation, known in _with_fused(program, name):
            kind = operation.opcode.removesuffix("-start")
            if kind not in COLLECTIVES:
                continue
            channel = re.search(r"channel_id=\d+", operation.text)
            exchange = channel[0] if channel else operation.name
            if exchange not in seen:
                found += _collectives(kind, operation, known, times, mesh_shape)
                seen.add(exchange)
    return [exchange for exchange in found if exchange.group > 1]


def _with_fused(program: Program, name: str) -> Iterator[tuple[Operation, Mapping[str, Operation]]]:
    """Operations of a computation and of the fusions in it, each with its computation's others."""
    known = {operation.name: operation for operation in program.computations[name]}
    for operation in program.computations[name]:
        yield operation, known
        if operation.opcode == "fusion":
            for fused in _CALLED.findall(operation.text):
                yield from _with_fused(program, fused)


def _collectives(
    kind: str,
    operation: Operation,
    known: Mapping[str, Operation],
    times: int,
    mesh_shape: Mapping[str, int],
) -> list[Collective]:
    """What an operation sends, one of every dtype: the compiler combines exchanges of several."""
    groups = _groups(operation.text, math.prod(mesh_shape.values()))
    # (axes, groups, devices of a group)
    places = np.array(np.unravel_index(groups, tuple(mesh_shape.values())))
    varies = (places != places[:, :, :1]).any(axis=(1, 2))
    return [
        Collective(
            name=operation.name,
            kind=kind,
            size=size,
            group=groups.shape[1] if varies.any() else 1,
            axes=tuple(axis for axis, along in zip(mesh_shape, varies, strict=True) if along),
            times=times,
            source=operation.source,
            shapes=tuple(dims for own, dims, _ in operation.shapes if own == dtype),
            dtype=dtype,
        )
        for dtype, size in _sent_sizes(kind, operation, known).items()
    ]


def _sent_sizes(kind: str, operation: Operation, known: Mapping[str, Operation]) -> dict[str, int]:
    """Bytes of what is exchanged, by dtype."""
    inputs, outputs = Counter(), Counter()
    for dtype, dims, _ in operation.shapes:
        outputs[dtype] += size_of(dtype, dims)
    for operand in (known[name] for name in operation.operands if name in known):
        for dtype, dims, _ in operand.shapes:
            inputs[dtype] += size_of(dtype, dims)
    if operation.opcode.endswith("-start"):  # returns its operands beside its results
        outputs -= inputs
    if kind == "all-gather":
        return dict(outputs)
    return dict(inputs if kind == "reduce-scatter" or inputs else outputs)


def _groups(text: str, num_devices: int) -> np.ndarray:
    """(groups, devices of one), of any of the notations; pairs of a permutation are groups too."""
    listed = re.search(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{}]+\})\}", text)
    if listed:
        groups = re.findall(r"\{([\d,]+)\}", listed[1])
        return np.array([[int(number) for number in group.split(",")] for group in groups])
    tiled = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    if tiled:
        shape, dims, order = ([int(n) for n in (t or "").split(",") if n] for t in tiled.groups())
        ids = np.arange(num_devices).reshape(dims)
        return (ids.transpose(order) if order else ids).reshape(shape)
    named = re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", text)
    if named:
        sizes = {axis: int(size) for axis, size in re.findall(r"'(\w+)'=(\d+)", named[1])}
        along = [axis for axis in sizes if f"'{axis}'" in named[2]]
        ids = np.arange(num_devices).reshape(tuple(sizes.values()))
        last = [list(sizes).index(axis) for axis in along]
        ids = np.moveaxis(ids, last, range(-len(last), 0))
        return ids.reshape(-1, math.prod(sizes[axis] for axis in along))
    return np.arange(num_devices)[None]
