"""Rooflines: lower bounds of a step's time, from its FLOPs, memory traffic and communication.

    python -m colorize_jax.analysis.roofline docs/aot/*.json

prints two tables of the reports that `train.py --compile_only` wrote: what they say, and weak
scaling on paper, which is the same batch a device on 16 to 1024 chips or 8 to 256 cards.

On paper, parameters stay split among as many devices as the report has (fewer where there are
fewer), and further devices repeat them on the data axis. What a device computes and gathers stays
the same then; what is added is the sum of gradients over that axis, and on a part of a slice's axis
a ring lacks links. Between slices or nodes the sum is counted whole on the slow network.
"""

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from colorize_jax.analysis.compiled import hlo, timeline
from colorize_jax.analysis.hardware.cards import CARDS, Card
from colorize_jax.analysis.hardware.chips import CHIPS, Chip, min_links
from colorize_jax.analysis.hardware.machines import GIB, Device, Machines

Report = dict[str, Any]

DEVICES: dict[str, Device] = CHIPS | CARDS
CHIP_COUNTS = (16, 64, 256, 1024)
CARD_COUNTS = (8, 16, 64, 256)
# Links are those inside a slice (ICI) or node (NVLink), the network joins slices or nodes.
RESOURCES = {"compute": "compute", "hbm": "HBM", "ici": "links", "dcn": "network"}
BOUNDS = {"compute": "compute", "memory": "HBM", "links": "links"}
# Columns of the short table.
SHORT = ["devices", "batch", "bound by", "images/s at most", "MFU at most", "MFU without overlap"]


def roofline(report: Report, machines: Machines) -> dict[str, Any]:
    """Least seconds of a step, which resource bounds it, and the utilization that this allows."""
    device = machines.device
    # What products of 8 bits save of the time that all FLOPs take at the usual peak.
    kinds = report["in_order"]["kinds"]
    doubled = sum(one["flops"] for one in kinds if device.doubles(one["of"][1]))
    saved = doubled / device.peak_flops / 2
    across = machines.count > 1
    inner = sum(c["bytes"] for c in report["collectives"] if not (across and "data" in c["axes"]))
    outer = sum(c["bytes"] for c in report["collectives"] if across and "data" in c["axes"])
    seconds = {
        "compute": report["flops"]["executed"] / report["chips"] / device.peak_flops - saved,
        "hbm": report["hbm_bytes"] / device.memory_bandwidth,
        "ici": inner / machines.inner_bandwidth if inner else 0.0,
        "dcn": outer / device.network_bandwidth,
    }
    return bound(seconds, report["flops"]["model"] / report["chips"] / device.peak_flops, report)


def in_order(
    program: hlo.Program,
    exchanges: Sequence[hlo.Collective],
    report: Report,
    machines: Machines,
) -> dict[str, Any]:
    """Least seconds of a step whose operations run one after another; see `timeline`.

    Args:
        program: compiled.
        exchanges: its collectives.
        report: with "flops", "chips" and "images_per_chip".
        machines: that it is for.

    Returns:
        "step_seconds", "mfu" and "images_per_second_per_chip" as in `bound`; "expected_seconds",
        where shares of the peaks were measured; and `timeline.as_report`.
    """
    device, linked = machines.device, defaultdict(float)
    for exchange in exchanges:
        slow = machines.count > 1 and "data" in exchange.axes
        rate = device.network_bandwidth if slow else machines.inner_bandwidth
        linked[exchange.name] += exchange.sent / exchange.times / rate
    found = timeline.timeline(program, device, linked)
    useful = report["flops"]["model"] / report["chips"] / device.peak_flops
    return {
        "step_seconds": found.seconds,
        "mfu": useful / found.seconds,
        "images_per_second_per_chip": report["images_per_chip"] / found.seconds,
        "expected_seconds": timeline.expected(found, device),
    } | timeline.as_report(found)


def bound(seconds: Mapping[str, float], useful: float, report: Report) -> dict[str, Any]:
    """Join the times of a roofline.

    Args:
        seconds: resource -> time that it takes alone.
        useful: time of the model's own FLOPs at their peak.
        report: with `images_per_chip`.
    """
    limit = max(seconds, key=seconds.get)
    step = seconds[limit]
    return {
        "seconds": dict(seconds),
        "step_seconds": step,
        "bound_by": limit,
        "mfu": useful / step,
        "images_per_second_per_chip": report["images_per_chip"] / step,
    }


# --------------------------------------------------------------------------------- weak scaling


def scaled(report: Report, chips: int) -> dict[str, Any]:
    """What a step takes on another number of chips or cards, at the report's batch a device.

    Args:
        report: of one slice or node, its parameters split over all of its devices.
        chips: how many; a power of two.

    Returns:
        As `bound`, with "mesh" (data, fsdp), "slices", "sent" and "memory", bytes a device, and
        "mfu_apart", the utilization if nothing is sent while something is computed.
    """
    chip, own = DEVICES[report["topology"].split(":")[0]], report["mesh"]["fsdp"]
    fsdp = min(chips, own)
    data = chips // fsdp
    shape, count = arrangement(chip, chips)
    inner, outer = links(chip, shape, fsdp)
    memory = report["memory"]
    more = own / fsdp  # of the state, on a device

    shrunk = _share(fsdp) / _share(own) if own > 1 else 1.0
    gathered = sum(
        c["bytes"] * (1 if c["kind"] == "collective-permute" else shrunk)
        for c in report["collectives"]
    )
    gradients = memory["parameters"] * more
    reduced = 2 * _share(data) * gradients if data > count else 0.0
    across = 2 * _share(count) * gradients
    # The update reads and writes the trained state; gradients are written and read once.
    trained = memory["parameters"] + memory["optimizer"] + memory["ema"]
    update = 2 * (trained + memory["parameters"])
    state = trained + memory["frozen"] + memory["parameters"]
    seconds = {
        "compute": report["flops"]["executed"] / report["chips"] / chip.peak_flops,
        "hbm": (report["hbm_bytes"] + (more - 1) * update) / chip.memory_bandwidth,
        "ici": (gathered / inner + reduced / outer) / chip.link_bandwidth,
        "dcn": across / chip.network_bandwidth,
    }
    useful = report["flops"]["model"] / report["chips"] / chip.peak_flops
    apart = max(seconds["compute"], seconds["hbm"]) + seconds["ici"] + seconds["dcn"]
    return bound(seconds, useful, report) | {
        "mesh": (data, fsdp),
        "slices": (f"{count} x " if count > 1 else "") + "x".join(map(str, shape)),
        "sent": gathered + reduced,
        "memory": memory["total"] + (more - 1) * state,
        "mfu_apart": useful / apart,
    }


def arrangement(chip: Device, chips: int) -> tuple[tuple[int, ...], int]:
    """Shape and number of slices or nodes with so many devices: as few as there can be."""
    shapes = [tuple(map(int, name.split("x"))) for name in chip.slices]
    largest = max((math.prod(s) for s in shapes if chips % math.prod(s) == 0), default=1)
    # Of several shapes the most compact one.
    shape = min((s for s in shapes if math.prod(s) == largest), key=max)
    return shape, chips // largest


def links(chip: Chip | Card, shape: Sequence[int], inner: int) -> tuple[int, int]:
    """Links that a chip has for neighbouring chips, and for the same place in other such groups.

    A card reaches all others of its node through one switch, with all that it has.

    Args:
        chip: of the slice or node.
        shape: of it.
        inner: chips of a group, which takes the longest axes whole and a part of one more.
    """
    if isinstance(chip, Card):
        return 1, 1
    whole, parts, rest = [], [], []
    for size in sorted(shape, reverse=True):
        taken = math.gcd(size, inner)
        inner //= taken
        if taken == size:
            whole.append(size)
        elif taken == 1:
            rest.append(size)
        else:
            parts.append(taken)
    # A part of an axis is no ring but a line; each group has one direction of it.
    return min_links(chip, whole) + len(parts), max(1, min_links(chip, rest) + len(parts))


def _share(count: int) -> float:
    return (count - 1) / count


# --------------------------------------------------------------------------------------- tables


def report_table(reports: Sequence[Report]) -> str:
    """What reports say, as a Markdown table with a column for each."""
    rows: dict[str, list[str]] = {}

    def row(name: str, text: str) -> None:
        rows.setdefault(name, []).append(text)

    for report in reports:
        memory, roof, flops = report["memory"], report["roofline"], report["flops"]
        row("", f"{report['topology']}, {report['images_per_chip']:g} image(s) a device")
        row("mesh", ", ".join(f"{axis} {size}" for axis, size in report["mesh"].items()))
        for name in ("parameters", "optimizer", "ema", "frozen", "temporaries", "total"):
            row(f"memory of a device: {name}", f"{memory[name] / GIB:.2f} GiB")
        row("that a process may take", f"{memory['capacity'] / GIB:.0f} GiB")
        row("FLOPs of a step (executed)", _pair(flops, 1e12, "T"))
        row("read and written", f"{report['hbm_bytes'] / 1e9:.0f} GB")
        for kind in ("all-gather", "reduce-scatter", "all-reduce", "all-to-all"):
            total = sum(c["bytes"] for c in report["collectives"] if c["kind"] == kind)
            row(f"sent by a device: {kind}", f"{total / 1e9:.2f} GB")
        row("gathers of whole stacks", str(len(report["stack_gathers"])))
        for name in ("compute", "hbm", "ici"):
            row(f"time at the peak: {RESOURCES[name]}", f"{1e3 * roof['seconds'][name]:.0f} ms")
        row(
            "a step takes at least",
            f"{1e3 * roof['step_seconds']:.0f} ms ({RESOURCES[roof['bound_by']]})",
        )
        row("MFU at most", f"{100 * roof['mfu']:.0f} %")
        for name, text in _ordered(report).items():
            row(name, text)
        row("images/s a device at most", f"{roof['images_per_second_per_chip']:.2f}")
        row("compiled in, processor", f"{report['compile_cpu_seconds'] / 60:.1f} min")
    return _markdown([[name, *texts] for name, texts in rows.items()])


def _ordered(report: Report) -> dict[str, str]:
    """Rows of the roofline in order, which reports of earlier versions lack."""
    found = report.get("in_order", {})

    def text(seconds: float | None) -> str:
        return f"{1e3 * seconds:.0f} ms" if seconds else "–"

    bounds = found.get("bounds", {})
    return {
        "one operation after another": text(found.get("step_seconds")),
        **{f"of which bound by {BOUNDS[name]}": text(bounds.get(name)) for name in BOUNDS},
        "MFU at most in that order": f"{100 * found['mfu']:.0f} %" if found else "–",
        "expected by what was measured": text(found.get("expected_seconds")),
    }


def scaling_table(reports: Sequence[Report], *, short: bool = False) -> str:
    """Weak scaling on paper, as a Markdown table with a row for each report and number of chips."""
    rows = [_scaling_row(report, chips) for report in reports for chips in _counts(report)]
    names = SHORT if short else list(rows[0])
    return _markdown([names, *([row[name] for name in names] for row in rows)])


def _counts(report: Report) -> Sequence[int]:
    return CARD_COUNTS if report["topology"].split(":")[0] in CARDS else CHIP_COUNTS


def _scaling_row(report: Report, chips: int) -> dict[str, str]:
    at = scaled(report, chips)
    times = {name: f"{1e3 * seconds:.0f} ms" for name, seconds in at["seconds"].items()}
    batch = report["images_per_chip"]
    return {
        "devices": f"{chips} {report['topology'].split(':')[0]}",
        "slices": at["slices"],
        "data x fsdp": " x ".join(map(str, at["mesh"])),
        "images a device": f"{batch:g}",
        "batch": f"{chips * batch:g}",
        "memory": f"{at['memory'] / GIB:.1f} GiB",
        "sent by a device": f"{at['sent'] / 1e9:.1f} GB",
        "compute": times["compute"],
        "HBM": times["hbm"],
        "links": times["ici"],
        "network": times["dcn"] if at["seconds"]["dcn"] else "–",
        "bound by": RESOURCES[at["bound_by"]],
        "images/s at most": f"{chips * at['images_per_second_per_chip']:.0f}",
        "MFU at most": f"{100 * at['mfu']:.0f} %",
        "MFU without overlap": f"{100 * at['mfu_apart']:.0f} %",
    }


def _pair(flops: Mapping[str, int], unit: float, name: str) -> str:
    return f"{flops['model'] / unit:.0f} {name} ({flops['executed'] / unit:.0f} {name})"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print both tables; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m colorize_jax.analysis.roofline")
    parser.add_argument("reports", nargs="+", metavar="REPORT", help="of train.py --compile_only")
    parser.add_argument("--short", action="store_true", help="weak scaling alone, in few columns")
    options = parser.parse_args(arguments)
    reports = [json.loads(Path(path).read_text()) for path in options.reports]
    if options.short:
        print(scaling_table(reports, short=True))
        return 0
    print(report_table(reports))
    print()
    print(scaling_table(reports))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
