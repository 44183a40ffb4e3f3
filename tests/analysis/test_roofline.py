"""Weak scaling on paper, by hand."""

import json

import pytest

from colorize_jax.analysis import roofline
from colorize_jax.analysis.hardware.cards import CARDS
from colorize_jax.analysis.hardware.chips import CHIPS
from colorize_jax.analysis.hardware.machines import Machines

MIB = 2**20


def make_report(topology="v5e:8x8", chips=64):
    """A report of a step that computes 1.97 s, moves 0.819 s, and sends 100 GB on two links."""
    memory = {"parameters": 10 * MIB, "optimizer": 20 * MIB, "ema": 10 * MIB, "frozen": 5 * MIB}
    report = {
        "topology": topology,
        "chips": chips,
        "images_per_chip": 2.0,
        "mesh": {"data": 1, "fsdp": chips, "tensor": 1},
        "memory": memory | {"temporaries": MIB, "total": 100 * MIB, "capacity": 16 * 2**30},
        "flops": {"model": 197e12 * chips, "executed": 1.97 * 197e12 * chips},
        "hbm_bytes": 819e9,
        "collectives": [
            {"kind": "all-gather", "axes": ["fsdp"], "count": 1, "bytes": 63e9},
            {"kind": "collective-permute", "axes": ["fsdp"], "count": 1, "bytes": 1e9},
        ],
        "stack_gathers": [],
        "compile_cpu_seconds": 60.0,
    }
    seconds = {"compute": 1.97, "hbm": 1.0, "ici": 0.64, "dcn": 0.0}
    ordered = {
        "step_seconds": 4.0,
        "mfu": 0.25,
        "images_per_second_per_chip": 0.5,
        "expected_seconds": None,
        "bounds": {"compute": 1.97, "memory": 2.03},
        "kinds": [],
    }
    return report | {"roofline": roofline.bound(seconds, 1.0, report), "in_order": ordered}


def test_the_largest_time_bounds():
    result = roofline.bound({"compute": 2.0, "ici": 4.0}, 1.0, {"images_per_chip": 3.0})
    assert result["bound_by"] == "ici"
    assert (result["mfu"], result["images_per_second_per_chip"]) == (0.25, 0.75)


def test_as_many_chips_as_the_report_has():
    at = roofline.scaled(make_report(), 64)
    assert (at["mesh"], at["slices"], at["memory"]) == ((1, 64), "8x8", 100 * MIB)
    assert at["sent"] == pytest.approx(64e9)
    assert at["seconds"] == pytest.approx({"compute": 1.97, "hbm": 1.0, "ici": 0.64, "dcn": 0.0})
    assert at["mfu_apart"] == pytest.approx(1 / (1.97 + 0.64))


def test_fewer_chips_hold_more_of_the_state():
    at = roofline.scaled(make_report(), 16)
    assert (at["mesh"], at["slices"]) == ((1, 16), "4x4")
    # Four times of parameters, moments, average, frozen ones and gradients.
    assert at["memory"] == (100 + 3 * (10 + 20 + 10 + 5 + 10)) * MIB
    assert at["sent"] == pytest.approx(63e9 * (15 / 16) / (63 / 64) + 1e9)
    assert at["seconds"]["hbm"] == pytest.approx(1 + 3 * 2 * 50 * MIB / 819e9)


def test_more_chips_sum_gradients_and_cross_slices():
    at = roofline.scaled(make_report(), 1024)
    assert (at["mesh"], at["slices"]) == ((16, 64), "4 x 16x16")
    reduced = 2 * 15 / 16 * 10 * MIB
    assert at["sent"] == pytest.approx(64e9 + reduced)
    # 64 chips are one axis of 16, a ring, and four of the other.
    assert at["seconds"]["ici"] == pytest.approx(64e9 / 3 / 50e9 + reduced / 50e9)
    assert at["seconds"]["dcn"] == pytest.approx(2 * 3 / 4 * 10 * MIB / 3.1e9)


def test_nodes_of_cards_sum_gradients_over_the_network_alone():
    report = make_report("h100:8", 8)
    at = roofline.scaled(report, 64)
    assert (at["mesh"], at["slices"], at["sent"]) == ((8, 8), "8 x 8", pytest.approx(64e9))
    assert at["seconds"]["ici"] == pytest.approx(64e9 / 450e9)
    assert at["seconds"]["dcn"] == pytest.approx(2 * 7 / 8 * 10 * MIB / 50e9)
    # One card's report, on a node: parameters are whole, gradients go over NVLink.
    alone = roofline.scaled(make_report("h200:1", 1) | {"collectives": []}, 8)
    assert alone["seconds"]["ici"] == pytest.approx(2 * 7 / 8 * 10 * MIB / 450e9)
    assert alone["seconds"]["dcn"] == 0


def test_links_of_a_node_and_the_network_between_nodes():
    report = make_report("h100:8", 8) | {
        "collectives": [
            {"kind": "all-gather", "axes": ["fsdp"], "bytes": 45e9},
            {"kind": "all-reduce", "axes": ["data"], "bytes": 5e9},
        ]
    }
    nodes = Machines("h100:8", "gpu", CARDS["h100"], (8,), 2, (), 450e9)
    seconds = roofline.roofline(report, nodes)["seconds"]
    assert seconds["ici"] == pytest.approx(0.1) and seconds["dcn"] == pytest.approx(0.1)
    assert seconds["hbm"] == pytest.approx(819 / 3352.32)
    # Of products of 8 bits there are twice as many a second.
    eight = [
        {"of": ["product", "f8e4m3fn"], "flops": 1e15},
        {"of": ["product", "bf16"], "flops": 1},
    ]
    fast = roofline.roofline(report | {"in_order": {"kinds": eight}}, nodes)["seconds"]
    peak = CARDS["h100"].peak_flops
    assert seconds["compute"] - fast["compute"] == pytest.approx(1e15 / peak / 2)


@pytest.mark.parametrize(
    ("chip", "shape", "inner", "expected"),
    [
        ("v5e", (4, 4), 16, (2, 1)),  # two lines
        ("v5e", (16, 16), 256, (4, 1)),  # two rings
        ("v5e", (16, 16), 16, (2, 2)),
        ("v5p", (4, 4, 4), 64, (6, 1)),
        ("v5p", (4, 8, 8), 64, (4, 2)),
        ("v5p", (8, 8, 16), 64, (3, 3)),
    ],
)
def test_links(chip, shape, inner, expected):
    assert roofline.links(CHIPS[chip], shape, inner) == expected


@pytest.mark.parametrize(
    ("chip", "chips", "expected"),
    [
        ("v5e", 16, ((4, 4), 1)),
        ("v5e", 1024, ((16, 16), 4)),
        ("v5p", 16, ((2, 2, 4), 1)),
        ("v5p", 1024, ((8, 8, 16), 1)),
    ],
)
def test_arrangement(chip, chips, expected):
    assert roofline.arrangement(CHIPS[chip], chips) == expected


def test_tables_of_reports(tmp_path, capsys):
    paths = []
    for name in ("v5e:8x8", "v5p:4x4x4"):
        paths.append(tmp_path / f"{name[:3]}.json")
        paths[-1].write_text(json.dumps(make_report(name)))
    assert roofline.main([str(path) for path in paths]) == 0
    first, second = capsys.readouterr().out.split("\n\n")
    assert (
        first.splitlines()[0]
        == "|  | v5e:8x8, 2 image(s) a device | v5p:4x4x4, 2 image(s) a device |"
    )
    assert "| a step takes at least | 1970 ms (compute) | 1970 ms (compute) |" in first
    assert len(second.splitlines()) == 2 + 2 * 4
    assert "| 1024 v5e | 4 x 16x16 | 16 x 64 | 2 | 2048 |" in second
    assert roofline.main(["--short", str(paths[0])]) == 0
    assert "| 64 v5e | 128 | compute | 65 | 51 % | 38 % |" in capsys.readouterr().out
