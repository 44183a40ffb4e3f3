"""The report of a compiled step as a page of text."""

from typing import Any

from colorize_jax.analysis.hardware.machines import GIB

Report = dict[str, Any]

STATE = ("parameters", "optimizer", "ema", "frozen")
PROGRAM = ("arguments", "temporaries", "results", "program", "total")
# What takes less than this share of all bytes, or of the time, is left to the JSON.
MIN_SHARE = 0.005


def summary(report: Report) -> str:
    """The report of `aot.compile_step` as a page of text."""
    memory, total = report["memory"], report["memory"].get("total")
    mesh = " x ".join(f"{axis} {size}" for axis, size in report["mesh"].items())
    branches = "both branches" if report["dual"] else "aligned branch"
    options = ", ".join(f"{name}={value}" for name, value in report["compiler_options"].items())
    lines = [
        f"{report['topology']} x {report['num_slices']}: {report['chips']} devices, mesh {mesh}; "
        f"batch {report['batch_size']} ({report['images_per_chip']:g} a device) of "
        f"{report['width']}x{report['height']} px, {branches}, attention {report['attention']}, "
        f"remat {report['remat']}; "
        f"compiled in {report['compile_seconds']:.0f} s",
        *([f"compiler options: {options}"] if options else []),
        "",
        f"memory of a device, of {memory['capacity'] / GIB:.1f} GiB that a process may take:",
    ]
    lines += [
        f"  {name:<12}{memory[name] / GIB:8.2f} GiB" for name in STATE + PROGRAM if name in memory
    ]
    lines.append("")
    largest = report["largest"]
    lines += [f"  {b['bytes'] / GIB:6.2f} GiB {b['shape']} {b['source']}" for b in largest]
    lines.append("")
    if "roofline" in report:
        lines += [*_kernels(report), *_speed(report)]
    if report["fits"]:
        lines.append(f"fits: {total / GIB:.2f} of {memory['capacity'] / GIB:.1f} GiB")
    else:
        need = memory.get("needed") or f"{total / GIB:.2f} GiB"
        lines.append(f"does not fit: {need}; what helps:")
        lines += [f"  {remedy}" for remedy in report["remedies"]]
    return "\n".join(lines)


def _kernels(report: Report) -> list[str]:
    kernels, total = report["kernels"], report["hbm_bytes"]
    lines = [f"kernels of a step, and what they read and write of {total / 1e9:.0f} GB:"]
    lines += [
        f"  {kernel['bytes'] / 1e9:8.1f} GB  {kernel['calls']:6d} x {kernel['kind']} "
        f"{kernel['dtype']}"
        for kernel in kernels
        if kernel["bytes"] >= MIN_SHARE * total
    ]
    return [*lines, ""]


def _speed(report: Report) -> list[str]:
    roof, flops = report["roofline"], report["flops"]
    lines = [
        f"FLOPs of a step: {flops['model'] / 1e12:.1f} T, {flops['executed'] / 1e12:.1f} T with "
        "what is computed again",
        "sent by a device:",
    ]
    lines += [
        f"  {c['bytes'] / 1e9:8.3f} GB {c['kind']} x {c['count']} along {' x '.join(c['axes'])}, "
        f"{c['dtype']}; {c['beside_products'] / 1e9:.3f} GB beside products"
        for c in report["collectives"]
    ]
    times = ", ".join(f"{name} {1e3 * s:.0f} ms" for name, s in roof["seconds"].items())
    return [
        *lines,
        f"  of which gathers of whole stacks: {len(report['stack_gathers'])}",
        f"a step takes at least {1e3 * roof['step_seconds']:.0f} ms, bound by {roof['bound_by']} "
        f"(roofline: {times}): MFU up to {100 * roof['mfu']:.0f} %, "
        f"{roof['images_per_second_per_chip']:.2f} images/s a device",
        *_in_order(report["in_order"]),
        "",
    ]


def _in_order(found: Report) -> list[str]:
    bounds = ", ".join(f"{name} {1e3 * s:.0f} ms" for name, s in found["bounds"].items())
    lines = [
        f"one operation after another it takes at least {1e3 * found['step_seconds']:.0f} ms "
        f"({bounds}): MFU up to {100 * found['mfu']:.0f} %, "
        f"{found['images_per_second_per_chip']:.2f} images/s a device"
    ]
    if found["expected_seconds"]:
        lines.append(
            f"with the shares of the peaks that were measured (docs/gpu.md), "
            f"{1e3 * found['expected_seconds']:.0f} ms are expected"
        )
    for name in ("modules", "kinds"):
        lines += [
            f"  {1e3 * one['seconds']:8.1f} ms {one['flops'] / 1e12:8.2f} T "
            f"{one['bytes'] / 1e9:8.1f} GB  {' '.join(one['of'])}"
            for one in found[name]
            if one["seconds"] >= MIN_SHARE * found["step_seconds"]
        ]
    return lines
