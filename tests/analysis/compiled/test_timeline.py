"""The time of a program in the order of its schedule, by hand."""

import dataclasses

import pytest

from colorize_jax.analysis.compiled import hlo, timeline
from colorize_jax.analysis.hardware.cards import CARDS, H200
from colorize_jax.analysis.hardware.chips import CHIPS

# A product of 2e9 FLOPs over 6e6 bytes takes 2 s, a copy of 8e6 bytes 8 s.
CARD = dataclasses.replace(H200, peak_flops=1e9, memory_bandwidth=1e6)
PRODUCT = "bf16[1000,1000]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}"
COPY = "f32[1000,1000]{1,0} copy(%f)"


def run(body, exchanges=(), device=CARD, rest=""):
    text = f"""
{rest}
ENTRY %main (x: bf16[1000,1000], f: f32[1000,1000]) -> f32[] {{
  %x = bf16[1000,1000]{{1,0}} parameter(0)
  %f = f32[1000,1000]{{1,0}} parameter(1)
  %s = f32[1000,1000]{{1,0:S(1)}} parameter(2)
{body}
}}
"""
    return timeline.timeline(hlo.parse(text), device, dict(exchanges))


def bounds(found):
    return timeline.as_report(found)["bounds"]


def test_operations_do_not_hide_behind_each_other():
    found = run(f"  %a = {PRODUCT}\n  %b = {COPY}")
    # The product moves 6e6 bytes in 6 s, in which it computes 2.
    assert found.seconds == pytest.approx(6 + 8)
    assert bounds(found) == pytest.approx({"memory": 14})
    fast = run(f"  %a = {PRODUCT}", device=dataclasses.replace(CARD, memory_bandwidth=1e9))
    assert (fast.seconds, bounds(fast)) == (2, {"compute": 2})


def test_an_exchange_hides_behind_what_stands_between_its_start_and_its_end():
    start = "  %g = (f32[1000]{0}, f32[8000]{0}) all-gather-start(%f), replica_groups={{0,1}}"
    end = "  %d = f32[8000]{0} all-gather-done(%g)"
    work = f"  %b = {COPY}"
    assert run("\n".join((start, work, end)), {"g": 7}).seconds == pytest.approx(8)
    late = run("\n".join((start, work, end)), {"g": 11})
    assert late.seconds == pytest.approx(11)
    assert bounds(late) == pytest.approx({"memory": 8, "links": 3})
    assert run("\n".join((work, start, end)), {"g": 11}).seconds == pytest.approx(19)
    # With one place in the schedule it is waited for.
    alone = run("  %g = f32[1000]{0} all-reduce(%f), replica_groups={{0,1}}", {"g": 11})
    assert (alone.seconds, bounds(alone)) == (11, {"links": 11})


def test_exchanges_share_the_links():
    starts = [
        f"  %g{i} = (f32[1]{{0}}, f32[2]{{0}}) all-gather-start(%f), replica_groups={{{{0,1}}}}"
        for i in range(2)
    ]
    ends = [f"  %d{i} = f32[2]{{0}} all-gather-done(%g{i})" for i in range(2)]
    found = run("\n".join((*starts, f"  %b = {COPY}", *ends)), {"g0": 6, "g1": 6})
    assert found.seconds == pytest.approx(12)


def test_copies_take_what_operations_leave_of_the_memory():
    start = "  %c = (f32[1000,1000]{1,0:S(1)}, f32[1000,1000]{1,0}, u32[]) copy-start(%f)"
    end = "  %d = f32[1000,1000]{1,0:S(1)} copy-done(%c)"
    # Beside a product in fast memory alone, which computes for 2 s.
    hot = PRODUCT.replace("%x, %x", "%s, %s").replace("{1,0} dot", "{1,0:S(1)} dot")
    assert run("\n".join((start, f"  %a = {hot}", end))).seconds == pytest.approx(4)
    # And beside one that takes all of the bandwidth.
    assert run("\n".join((start, f"  %b = {COPY}", end))).seconds == pytest.approx(8 + 4)


LOOP = f"""
%condition (p: s32[]) -> pred[] {{
  %limit = s32[] constant(10)
  ROOT %less = pred[] compare(%limit, %limit), direction=LT
}}

%body (p: s32[]) -> s32[] {{
  %f = f32[1000,1000]{{1,0}} parameter(0)
  %b = {COPY}, metadata={{op_name="jit(step)/transpose(jvp(UNet.body))/rematted_computation/x"}}
}}
"""


def test_loops_and_modules():
    found = run("  %l = s32[] while(%f), condition=%condition, body=%body", rest=LOOP)
    assert found.seconds == pytest.approx(80, rel=1e-4)
    first = timeline.as_report(found)["modules"][0]
    assert (first["of"], first["calls"]) == (["UNet", "recomputed"], 10)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("jit(train_step)/Vae.encode/Vae/conv", ("Vae", "forward")),
        ("jit(train_step)/transpose(jvp(UNet.body))/UNet._run/x", ("UNet", "backward")),
        ("jit(run)/jit(colorize)/while/body/eval_jaxpr/UNet.body/y", ("UNet", "forward")),
        ("jit(train_step)/mul", (timeline.NO_MODULE, "forward")),
        ("", None),
    ],
)
def test_places(source, expected):
    assert timeline.place(source) == expected


def test_what_is_expected_of_cards_and_not_of_chips():
    found = run(f"  %b = {COPY}")
    assert timeline.expected(found, CARD) == pytest.approx(8 / CARD.REACHED["memory"])
    assert timeline.expected(found, CHIPS["v5e"]) is None


def test_peaks_by_dtype():
    assert (H200.peak("bf16"), H200.peak("f32")) == (989e12, 494.5e12)
    assert (CHIPS["v5e"].peak("s8"), CHIPS["v5e"].peak("f32")) == (394e12, 197e12)
    assert H200.peak("f8e4m3fn") == 1978e12
    # Neither has products of float8.
    assert CARDS["a100"].peak("f8e4m3fn") == 312e12 and CARDS["a100"].peak("s8") == 624e12
    assert CHIPS["v5e"].peak("f8e4m3fn") == 197e12


def test_a_program_in_a_file(tmp_path, capsys):
    path = tmp_path / "program.txt"
    path.write_text(
        f"ENTRY %main (f: f32[]) -> f32[] {{\n  %f = f32[] parameter(0)\n  %a = {COPY}\n}}"
    )
    assert timeline.main([str(path), "h200"]) == 0
    printed = capsys.readouterr().out
    assert "ms at the peaks" in printed and "ms expected" in printed and "layout f32" in printed
