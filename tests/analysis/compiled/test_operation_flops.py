"""FLOPs of compiled operations, by hand: of programs that XLA made, and of library kernels."""

import jax
import jax.numpy as jnp
import pytest

from colorize_jax.analysis.compiled import hlo
from colorize_jax.analysis.compiled.operation_flops import operation_flops


def count(text):
    """FLOPs by dtype of a whole program."""
    program = hlo.parse(text)
    total = {}
    for name, times in program.repeats().items():
        known = {operation.name: operation for operation in program.computations[name]}
        for operation in known.values():
            for dtype, flops in operation_flops(program, operation, known).items():
                total[dtype] = total.get(dtype, 0) + times * flops
    return total


def test_products_and_convolutions_forward_and_backward():
    def loss(x, kernel, w):
        x = jax.lax.conv_general_dilated(
            x, kernel, (2, 2), ((0, 0), (0, 0)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.sum(jnp.sin(x @ w))

    shapes = [(2, 17, 17, 8), (3, 3, 8, 16), (16, 12)]
    args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*args).compile()
    # Each thrice: forward, and for the gradients of both operands.
    expected = 3 * (2 * (2 * 8 * 8) * 16 * (3 * 3 * 8) + 2 * (2 * 8 * 8) * 16 * 12)
    assert count(compiled.as_text()) == {"f32": expected}


def test_loops_repeat_them():
    def run(x, ws):
        return jax.lax.scan(lambda x, w: (jnp.sin(x @ w), None), x, ws)[0]

    args = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((64, 32), (5, 32, 32))]
    compiled = jax.jit(run).lower(*args).compile()
    assert count(compiled.as_text()) == {"f32": 5 * 2 * 64 * 32 * 32}


def library_call(shapes, target, rest):
    operands = "\n".join(f"  %p{i} = {s} parameter({i})" for i, s in enumerate(shapes[1:]))
    names = ", ".join(f"%p{i}" for i in range(len(shapes) - 1))
    result = f"({shapes[0]}, u8[64]{{0}})"
    call = f'custom-call({names}), {rest}, custom_call_target="{target}"'
    return f"ENTRY %main (a: f32[]) -> f32[] {{\n{operands}\n  ROOT %call = {result} {call}\n}}\n"


IMAGE, KERNEL, RESULT = "bf16[4,16,16,8]{3,2,1,0}", "bf16[32,3,3,8]{3,2,1,0}", "bf16[4,8,8,32]{3}"
WINDOW = "window={size=3x3 stride=2x2 pad=0_1x0_1}, dim_labels=b01f_o01i->b01f"
# On each axis the last place of the kernel reads padding once.
CONVOLUTION = 2 * 4 * 8 * 32 * (8 * 3 - 1) ** 2


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("__cudnn$convForward", (RESULT, IMAGE, KERNEL)),
        ("__cudnn$convBackwardInput", (IMAGE, RESULT, KERNEL)),
        ("__cudnn$convBackwardFilter", (KERNEL, IMAGE, RESULT)),
    ],
)
def test_convolutions_of_cudnn(name, shapes):
    assert count(library_call(shapes, name, WINDOW)) == {"bf16": CONVOLUTION}


HEADS = "bf16[4,256,10,64]{3,2,1,0}"
# Versions of XLA write it in either way.
PAIRS = (
    'c={"intermediate_tensor_shape":{"dimensions":["4","10","256","196"],"element_type":"BF16"}}',
    'c={"intermediate_tensor_shape": {"element_type": "BF16", "dimensions": ["4", "10", "256", '
    '"196"]}}',
)


@pytest.mark.parametrize("pairs", PAIRS)
@pytest.mark.parametrize(
    ("name", "products"), [("__cudnn$fmhaSoftmax", 2), ("__cudnn$fmhaSoftmaxBackward", 5)]
)
def test_attention_of_cudnn(name, products, pairs):
    text = library_call((HEADS, HEADS, HEADS.replace("256", "196")), name, pairs)
    assert count(text) == {"bf16": 2 * products * 4 * 10 * 256 * 196 * 64}


def test_products_of_cublas():
    rest = 'c={"dot_dimension_numbers":{"lhs_contracting_dimensions":["0"]}}'
    shapes = ("f32[32,16]{1,0}", "f32[64,32]{1,0}", "f32[64,16]{1,0}")
    assert count(library_call(shapes, "__cublas$lt$matmul", rest)) == {"f32": 2 * 64 * 32 * 16}
