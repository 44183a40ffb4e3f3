"""The programs of a whole run: one for every size of its pictures and each branch."""

import dataclasses
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from colorize_jax.config.options import Config
from colorize_jax.setup.datasets import bucket_shapes
from colorize_jax.training.step import is_dual

Report = dict[str, Any]


def of_size(config: Config, height: int, width: int) -> Config:
    """A config whose pictures all have one size, px."""
    data = dataclasses.replace(config.data, height=height, width=width)
    return dataclasses.replace(config, data=data)


def largest(config: Config) -> Config:
    """The config at that of its pictures' sizes which has the most pixels."""
    return of_size(config, *max(bucket_shapes(config.data), key=lambda size: size[0] * size[1]))


def list_programs(config: Config) -> list[Report]:
    """Height, width and branches of all programs, the largest first."""
    branches = {is_dual(config, step) for step in (0, config.total_steps - 1)}
    shapes = sorted(bucket_shapes(config.data), key=lambda size: -size[0] * size[1])
    return [
        {"height": height, "width": width, "dual": dual}
        for dual in sorted(branches, reverse=True)
        for height, width in shapes
    ]


def compile_all(config: Config, compile_one: Callable[..., Report]) -> list[Report]:
    """Compile all programs, and say of each what it needs and whether it fits.

    Args:
        config: of the run.
        compile_one: (config, dual=) -> the report of `aot.compile_step`.
    """
    programs = list_programs(config)
    for program in tqdm(programs, "programs", unit="program"):
        size = of_size(config, program["height"], program["width"])
        report = compile_one(size, dual=program["dual"])
        memory = report["memory"]
        program |= {name: report[name] for name in ("fits", "flops", "compile_seconds")}
        program["memory"] = memory.get("total", memory.get("needed"))
    return programs


def table(programs: list[Report]) -> list[str]:
    """Lines for people: how many programs a run has, and what is known of each."""
    sizes = {(program["height"], program["width"]) for program in programs}
    lines = [f"programs of a run: {len(programs)}, of {len(sizes)} sizes"]
    for program in programs:
        if "fits" not in program:
            continue
        needs, flops = program["memory"], program["flops"]["executed"]
        needs = f"{needs / 2**30:.2f} GiB" if isinstance(needs, int | float) else needs
        lines.append(
            f"  {program['width']:>5} x {program['height']:<5}"
            f"{'both branches' if program['dual'] else 'one branch':<15}{needs:>12}"
            f"{flops / 1e12:10.2f} TFLOPs{'' if program['fits'] else '  does not fit'}"
        )
    return lines
