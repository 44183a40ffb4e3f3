"""Reading compiled programs: by hand, and one that XLA made."""

import pytest

from colorize_jax.analysis.compiled import hlo

MESH = {"data": 2, "fsdp": 4, "tensor": 1}
TEXT = """
HloModule step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%condition (p: (s32[], bf16[2,8])) -> pred[] {
  %p = (s32[], bf16[2,8]{1,0}) parameter(0)
  %limit = s32[] constant(10)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

%body (p.1: (s32[], bf16[2,8])) -> (s32[], bf16[2,8]) {
  %p.1 = (s32[], bf16[2,8]{1,0}) parameter(0)
  %x = bf16[2,8]{1,0} get-tuple-element(%p.1), index=1
  %gathered = bf16[8,8]{1,0} all-gather(%x), replica_groups=[2,4]<=[8], dimensions={0}, \
metadata={op_name="jit(step)/loop/gather"}
  %i.1 = s32[] get-tuple-element(%p.1), index=0
  ROOT %out = (s32[], bf16[2,8]{1,0}) tuple(%i.1, %x)
}

ENTRY %main (k: f32[16,4]) -> f32[16,4] {
  %k = f32[16,4]{1,0} parameter(0)
  %start = (s32[], bf16[2,8]{1,0}) custom-call(%k)
  %loop = (s32[], bf16[2,8]{1,0}) while(%start), condition=%condition, body=%body
  %reduced = f32[16,4]{1,0} all-reduce(%k), replica_groups=[4,2]<=[2,4]T(1,0), to_apply=%add
  %moved = f32[16,4]{1,0} collective-permute(%reduced), \
source_target_pairs={{0,1},{1,2},{2,3},{3,0}}
  ROOT %same = f32[16,4]{1,0} copy(%moved)
}
"""


def test_what_devices_send():
    found = {c.kind: c for c in hlo.collectives(hlo.parse(TEXT), MESH)}
    gather = found["all-gather"]
    assert (gather.size, gather.group, gather.axes, gather.times) == (128, 4, ("fsdp",), 10)
    assert gather.source == "jit(step)/loop/gather"
    assert gather.shapes == ((8, 8),)
    assert gather.sent == 10 * 128 * 3 / 4
    reduce = found["all-reduce"]
    assert (reduce.size, reduce.axes, reduce.sent) == (256, ("data",), 2 * 256 / 2)
    permute = found["collective-permute"]
    assert (permute.axes, permute.sent) == (("fsdp",), 256)


FUSED = """
HloModule step, is_scheduled=true

%begin (p: bf16[2,8]) -> (bf16[2,8], bf16[8,8]) {
  %p = bf16[2,8]{1,0} parameter(0)
  %first = bf16[8,8]{1,0} all-gather(%p), channel_id=7, replica_groups=[2,4]<=[8], dimensions={0}
  ROOT %both = (bf16[2,8]{1,0}, bf16[8,8]{1,0}) tuple(%p, %first)
}

%go_on (q: bf16[2,8], x: f32[16]) -> f32[16] {
  %q = bf16[2,8]{1,0} parameter(0)
  %x = f32[16]{0} parameter(1)
  %second = bf16[8,8]{1,0} all-gather(%q), channel_id=7, replica_groups=[2,4]<=[8], dimensions={0}
  ROOT %sine = f32[16]{0} sine(%x)
}

ENTRY %main (k: bf16[2,8], x: f32[16]) -> f32[16] {
  %k = bf16[2,8]{1,0} parameter(0)
  %y = f32[16]{0} parameter(1)
  %start = (bf16[2,8]{1,0}, bf16[8,8]{1,0}) fusion(%k), kind=kCustom, calls=%begin
  ROOT %step = f32[16]{0} fusion(%k, %y), kind=kCustom, calls=%go_on
}
"""


def test_an_exchange_whose_steps_are_fused_into_others_counts_once():
    (gather,) = hlo.collectives(hlo.parse(FUSED), MESH)
    assert (gather.kind, gather.size, gather.group, gather.times) == ("all-gather", 128, 4, 1)


MIXED = """
HloModule step, is_scheduled=true

ENTRY %main (a: f32[2,4], b: bf16[2,8]) -> f32[8,4] {
  %a = f32[2,4]{1,0} parameter(0)
  %b = bf16[2,8]{1,0} parameter(1)
  %start = ((f32[2,4]{1,0}, bf16[2,8]{1,0}), (f32[8,4]{1,0}, bf16[8,8]{1,0})) \
all-gather-start(%a, %b), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}
  %done = (f32[8,4]{1,0}, bf16[8,8]{1,0}) all-gather-done(%start)
  ROOT %out = f32[8,4]{1,0} get-tuple-element(%done), index=0
}
"""


def test_an_exchange_of_several_dtypes_is_one_of_each():
    found = hlo.collectives(hlo.parse(MIXED), MESH)
    assert {c.dtype: c.size for c in found} == {"f32": 4 * 32, "bf16": 2 * 64}
    assert {c.name for c in found} == {"start"}


def test_loops_count_as_often_as_they_run():
    program = hlo.parse(TEXT)
    assert program.entry == "main"
    assert program.repeats() == {"main": 1, "condition": 10, "body": 10}


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ("replica_groups={{0,2},{1,3}}", [[0, 2], [1, 3]]),
        ("replica_groups=[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}", [[0, 2], [1, 3]]),
        ("", [[0, 1, 2, 3]]),
    ],
)
def test_groups(groups, expected):
    assert hlo._groups(groups, 4).tolist() == expected
