"""Kernels and their bytes: of programs that XLA made, and of lines as XLA for GPUs writes them."""

import jax
import jax.numpy as jnp

from colorize_jax.analysis.compiled import hlo, traffic

GPU = """
HloModule step, is_scheduled=true

%flip (p: f32[64,32]) -> bf16[32,64] {
  %p = f32[64,32]{1,0} parameter(0)
  %t = f32[32,64]{1,0} transpose(%p), dimensions={1,0}
  ROOT %c = bf16[32,64]{1,0} convert(%t)
}

%total (q: f32[32,64]) -> f32[32] {
  %q = f32[32,64]{1,0} parameter(0)
  %zero = f32[] constant(0)
  ROOT %sum = f32[32]{0} reduce(%q, %zero), dimensions={1}, to_apply=%add
}

%send (r: f32[32,64]) -> f32[4,64] {
  %r = f32[32,64]{1,0} parameter(0)
  ROOT %scattered = f32[4,64]{1,0} reduce-scatter(%r), replica_groups=[1,8]<=[8], \
dimensions={0}, to_apply=%add
}

ENTRY %main (k: f32[64,32], x: bf16[16,32]) -> f32[32] {
  %k = f32[64,32]{1,0} parameter(0)
  %x = bf16[16,32]{1,0} parameter(1)
  %w = bf16[32,64]{1,0} fusion(%k), kind=kInput, calls=%flip
  %product = (f32[16,64]{1,0}, s8[33554432]{0}) custom-call(%x, %w), \
custom_call_target="__cublas$lt$matmul", metadata={op_name="jit(step)/dot_general"}
  %attended = (bf16[16,32]{1,0}, u8[0]{0}) custom-call(%x), custom_call_target="__cudnn$fmhaSoftmax"
  %gather = (bf16[16,32]{1,0}, bf16[128,32]{1,0}) all-gather-start(%x), \
replica_groups=[1,8]<=[8], dimensions={0}
  %again = (bf16[16,64]{1,0}, s8[33554432]{0}) custom-call(%x, %w), \
custom_call_target="__cublas$lt$matmul"
  %gathered = bf16[128,32]{1,0} all-gather-done(%gather)
  %y = f32[32,64]{1,0} parameter(2)
  %started = ((f32[32,64]{1,0}), f32[4,64]{1,0}) async-start(%y), calls=%send
  %done = f32[4,64]{1,0} async-done(%started)
  ROOT %out = f32[32]{0} fusion(%y), kind=kInput, calls=%total
}
"""


def test_kernels_by_kind():
    program = hlo.parse(GPU)
    found = {(k["kind"], k["dtype"]): (k["calls"], k["bytes"]) for k in traffic.kernels(program)}
    assert found == {
        ("layout", "bf16"): (1, 64 * 32 * (4 + 2)),
        # Scratch memory is no result.
        ("cuBLASLt product", "bf16"): (2, 2 * 2 * (16 * 32 + 32 * 64) + (4 + 2) * 16 * 64),
        ("cuDNN attention", "bf16"): (1, 2 * 2 * 16 * 32),
        ("all-gather", "bf16"): (1, 2 * (16 + 128) * 32),
        ("reduce-scatter", "f32"): (1, 4 * (32 + 4) * 64),
        ("reduction", "f32"): (1, 4 * (32 * 64 + 32)),
    }
    assert traffic.total(program) == sum(size for _, size in found.values())
    sources = {(kernel.kind, kernel.source) for kernel in traffic.list_kernels(program)}
    assert ("cuBLASLt product", "jit(step)/dot_general") in sources


def test_exchanges_of_gpus():
    found = {c.kind: c for c in hlo.collectives(hlo.parse(GPU), {"data": 1, "fsdp": 8})}
    assert (found["all-gather"].size, found["all-gather"].dtype) == (2 * 128 * 32, "bf16")
    # A product runs between the start and the end of one of them.
    assert traffic.beside_products(hlo.parse(GPU)) == {found["all-gather"].name}
    scatter = found["reduce-scatter"]
    assert (scatter.size, scatter.axes, scatter.dtype) == (4 * 32 * 64, ("fsdp",), "f32")


def test_traffic_of_a_program_that_xla_made():
    x = jax.ShapeDtypeStruct((256, 1024), jnp.float32)
    compiled = jax.jit(lambda x: jnp.sin(x) + 1).lower(x).compile()
    # It reads and writes everything once.
    assert traffic.total(hlo.parse(compiled.as_text())) == 2 * 256 * 1024 * 4


def test_slices_count_and_not_what_they_are_of():
    def first(x, i):
        return jnp.sin(jax.lax.dynamic_slice_in_dim(x, i, 1))

    x = jax.ShapeDtypeStruct((1000, 1024), jnp.float32)
    compiled = jax.jit(first).lower(x, jax.ShapeDtypeStruct((), jnp.int32)).compile()
    assert traffic.total(hlo.parse(compiled.as_text())) < 20 * 1024 * 4
