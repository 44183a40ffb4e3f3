"""FLOPs of compiled operations: 2 per multiply-add of products, convolutions and attention.

What a compiled program computes is counted, with all that it computes a second time; `flops` counts
traced programs.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from colorize_jax.analysis.compiled.hlo import Operation, Program

# Products of attention over all pairs of a query and a key. Backward, kernels compute the logits
# again; TPUs have one kernel for the gradients of keys and values and one for those of queries.
ATTENTION = {
    "__cudnn$fmhaSoftmaxBackward": 5,
    "__cudnn$fmhaSoftmax": 2,
    "splash_mha_fwd": 2,
    "splash_mha_dkv": 4,
    "splash_mha_dq": 3,
}
_CALLED = re.compile(r"calls=%?([\w.\-]+)")
_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
_WINDOW = re.compile(r"window=\{([^}]*)\}")
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_INTERMEDIATE = re.compile(r'"intermediate_tensor_shape":\s*\{[^\]]*?"dimensions":\s*\[([^\]]*)\]')

Dims = tuple[int, ...]


def operation_flops(
    program: Program, operation: Operation, known: Mapping[str, Operation]
) -> Counter[str]:
    """FLOPs of one operation, by the dtype of what is multiplied; fusions with all that they hold.

    Args:
        program: that it is of.
        operation: counted once, however often it runs.
        known: the operations of its computation, by name.
    """
    opcode = operation.opcode
    if opcode in ("fusion", "fusion-start", "call", "async-start"):
        found: Counter[str] = Counter()
        for name in _CALLED.findall(operation.text):
            inner = {o.name: o for o in program.computations.get(name, ())}
            for one in inner.values():
                found += operation_flops(program, one, inner)
        return found
    operands = [known[name].shapes[0] for name in operation.operands if _has_shape(known, name)]
    if len(operands) < 2 or not operation.shapes:
        return Counter()
    shapes = [dims for _, dims, _ in operands]
    result = operation.shapes[0][1]
    if opcode == "dot":
        count = _dot(operation.text, shapes, result)
    elif opcode == "convolution":
        count = _convolution(operation.text, *shapes[:2], result)
    elif opcode == "custom-call":
        count = _library_call(operation.text, shapes, result)
    else:
        return Counter()
    return Counter({operands[0][0]: count} if count else {})


def _has_shape(known: Mapping[str, Operation], name: str) -> bool:
    return name in known and bool(known[name].shapes)


def _library_call(text: str, shapes: Sequence[Dims], result: Dims) -> int:
    target = _TARGET.search(text)
    name = target[1] if target else ""
    if name.startswith("__cublas"):
        return _dot(text, shapes, result)
    if name.startswith("__cudnn$conv"):
        first, second = shapes[:2]
        if name.endswith("BackwardInput"):
            return _convolution(text, result, second, first)
        if name.endswith("BackwardFilter"):
            return _convolution(text, first, result, second)
        return _convolution(text, first, second, result)
    for kernel, products in ATTENTION.items():
        if name == kernel or (name == "tpu_custom_call" and kernel in text):
            pairs = _INTERMEDIATE.search(text)
            if pairs:  # (B, K, N, S)
                count = math.prod(int(n) for n in re.findall(r"\d+", pairs[1]))
            else:
                count = _splash_pairs(shapes)
            return 2 * products * count * shapes[0][-1]
    return 0


def _splash_pairs(shapes: Sequence[Dims]) -> int:
    """Pairs of queries (..., N, D) and keys (..., S, D), the first two of a kernel's large inputs.

    Before them stand small ones: which blocks of keys a block of queries sees.
    """
    tokens = [dims for dims in shapes if len(dims) >= 3 and dims[-1] > 1 and dims[-2] > 1]
    queries, keys = tokens[:2]
    return math.prod(queries[:-1]) * keys[-2]


def _dot(text: str, shapes: Sequence[Dims], result: Dims) -> int:
    named = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", text)
    if named is None:  # of a library's call
        named = re.search(r'"lhs_contracting_dimensions":\s*\[([^\]]*)\]', text)
    axes = [int(axis) for axis in re.findall(r"\d+", named[1])] if named else []
    return 2 * math.prod(result) * math.prod(shapes[0][axis] for axis in axes)


def _convolution(text: str, inputs: Dims, kernel: Dims, result: Dims) -> int:
    """Products with padding, and with the zeros between dilated inputs, count nothing."""
    labels, window = _LABELS.search(text), _WINDOW.search(text)
    if labels is None:
        return 0
    facts = _facts(window[1] if window else "")
    of_input, of_kernel, of_result = labels.groups()
    count = 2 * math.prod(
        size
        for size, label in zip(result, of_result, strict=True)
        if not label.isdigit()  # samples and channels: of a group, where there are groups
    )
    count *= kernel[of_kernel.index("i")]
    for axis in range(len(of_result) - 2):
        sizes = (
            dims[places.index(str(axis))]
            for dims, places in ((inputs, of_input), (kernel, of_kernel), (result, of_result))
        )
        count *= _positions(axis, facts, *sizes)
    return count


def _facts(window: str) -> dict[str, list[str]]:
    return {
        name: values.split("x")
        for name, values in (part.split("=", 1) for part in window.split() if "=" in part)
    }


def _positions(
    axis: int, facts: Mapping[str, Sequence[str]], inputs: int, kernel: int, result: int
) -> int:
    """Pairs of a place of the result and one of the kernel that read an input."""

    def fact(name: str) -> int:
        return int(facts[name][axis]) if name in facts else 1

    before = int(facts["pad"][axis].split("_")[0]) if "pad" in facts else 0
    spread = fact("lhs_dilate")
    places = (
        np.arange(result)[:, None] * fact("stride")
        + np.arange(kernel) * fact("rhs_dilate")
        - before
    )
    read = (places >= 0) & (places <= (inputs - 1) * spread) & (places % spread == 0)
    return int(read.sum())
