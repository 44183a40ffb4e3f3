"""Ahead-of-time compilation of a training step for other machines: memory, FLOPs, lower bounds.

    report = compile_step(config, "v5e:8x8").report     what train.py --compile_only writes

Bytes and FLOPs are those of the compiled program; the time is a lower bound, see `roofline`.
"""

import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from colorize_jax import sharding
from colorize_jax.analysis import needs
from colorize_jax.analysis.compiled import hlo, traffic
from colorize_jax.analysis.hardware.machines import Machines
from colorize_jax.analysis.hardware.topology import describe
from colorize_jax.analysis.rematerialization import settle
from colorize_jax.analysis.roofline import in_order, roofline
from colorize_jax.analysis.shapes import arguments, for_platform
from colorize_jax.analysis.stored_step import HASH, save_step
from colorize_jax.analysis.summary import summary
from colorize_jax.config.options import Config
from colorize_jax.errors import UserError
from colorize_jax.io.formats.atomic import atomic_output, check_output
from colorize_jax.nn import attention
from colorize_jax.setup.networks import build_train_system
from colorize_jax.training.state import TrainState
from colorize_jax.training.step import TrainSystem, jit_step

Report = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """A compiled step and its report.

    Attributes:
        report: plain values, as they go into JSON.
        compiled: the program; None where the compiler found no room for it.
    """

    report: Report
    compiled: jax.stages.Compiled | None


def compile_step(
    config: Config, topology: str, *, dual: bool = True, options: Mapping[str, Any] | None = None
) -> Step:
    """Compile one training step for machines that need not be present, and report what it needs.

    Args:
        config: of the run; its mesh and batch must go with the machines.
        topology: e.g. "v5e:8x8" or "h100:8"; `config.mesh.num_slices` of them.
        dual: with the misaligned branch, as most of a run's steps are.
        options: of the compiler, beside its own for these machines.

    Raises:
        UserError: unknown topology, or mesh, batch and machines do not go together.
    """
    machines = describe(topology, config.mesh.num_slices)
    compiler_options = dict(machines.compiler_options) | dict(options or {})
    start, worked = time.perf_counter(), time.process_time()
    lowered, system, (state, record, _), mesh = lower_step(config, machines, dual=dual)
    try:
        compiled = lowered.compile(compiler_options=compiler_options or None)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        compiled, needed = None, _needed(str(error))
    config = system.config
    report = _header(config, machines, mesh, dual) | {
        "compiler_options": compiler_options,
        "compile_seconds": round(time.perf_counter() - start, 1),
        "compile_cpu_seconds": round(time.process_time() - worked, 1),
        "compiled_on": f"{os.cpu_count()} CPU cores",
    }
    capacity = machines.device.memory
    report["memory"] = needs.state_memory(state) | {"capacity": capacity}
    report["flops"] = needs.flops(system, state, record, dual=dual)
    if compiled is None:
        report["memory"]["needed"] = needed
        report["largest"] = needs.largest_values(system, state, record, dual=dual)
    else:
        program = hlo.parse(compiled.as_text())
        report["memory"] |= needs.program_memory(compiled)
        report["largest"] = needs.largest_buffers(program)
        report["kernels"] = traffic.kernels(program)
        exchanges = hlo.collectives(program, dict(mesh.shape))
        report |= needs.exchanges(program, exchanges, state)
        report["hbm_bytes"] = traffic.total(program)
        report["in_order"] = in_order(program, exchanges, report, machines)
        report["roofline"] = roofline(report, machines)
    report["fits"] = compiled is not None and report["memory"]["total"] <= capacity
    report["remedies"] = [] if report["fits"] else needs.remedies(config, mesh)
    return Step(report, compiled)


def lower_step(
    config: Config, machines: Machines, *, dual: bool = True
) -> tuple[jax.stages.Lowered, TrainSystem, tuple[TrainState, Any, Any], Mesh]:
    """Lower one training step for machines that need not be present.

    Args:
        config: of the run; its mesh and batch must go with the machines.
        machines: of `topology.describe`.
        dual: with the misaligned branch.

    Returns:
        The lowered step, what it was made from, the shapes of its arguments, and its mesh.

    Raises:
        UserError: mesh, batch and machines do not go together.
    """
    mesh = sharding.make_mesh(config.mesh, machines.devices)
    sharding.check_batch(mesh, config.data.batch_size, config.optimizer.accumulation)
    config = for_platform(config, machines.platform)
    config = settle(config, mesh, machines.device.memory)
    system = build_train_system(config)
    shapes = arguments(system, mesh)
    shardings = sharding.state_shardings(mesh, shapes[0])
    with jax.set_mesh(mesh):
        lowered = jit_step(system, mesh, shardings, dual=dual).lower(*shapes)
    return lowered, system, shapes, mesh


def compile_only(
    config: Config,
    topology: str | None,
    folder: epath.PathLike,
    step_file: str | None = None,
    *,
    overwrite: bool = False,
    all_sizes: bool = False,
) -> bool:
    """Compile a run's largest step, print what it needs and write it to a JSON file; nothing runs.

    Args:
        config: of the run.
        topology: e.g. "v5e:8x8" or "h100:8".
        folder: where the file goes.
        step_file: where the compiled step is stored, if it fits; see `stored_step`.
        overwrite: replace both where they exist.
        all_sizes: compile the programs of all sizes of pictures and branches too.

    Returns:
        Whether what was compiled fits.

    Raises:
        UserError: as for `compile_step`.
    """
    # Sizes of buckets need the readers of pictures, which no other use of this module installs.
    from colorize_jax.analysis import run_programs

    if topology is None:
        raise UserError(
            "got no --topology to compile for, expected a slice or node; name e.g. v5e:8x8 or "
            "h100:8"
        )
    jax.config.update("jax_platforms", "cpu")  # no device is needed: none is initialized
    path = epath.Path(folder) / f"aot-{topology.replace(':', '-')}.json"
    for output in filter(None, (path, step_file)):
        check_output(output, overwrite=overwrite)
    step = compile_step(run_programs.largest(config), topology, dual=config.gram.maximum > 0)
    report = step.report
    report["programs"] = run_programs.list_programs(config)
    if all_sizes:
        report["programs"] = run_programs.compile_all(
            config, lambda config, dual: compile_step(config, topology, dual=dual).report
        )
        report["fits"] = report["fits"] and all(one["fits"] for one in report["programs"])
    if step_file and step.compiled is not None:
        report[HASH] = save_step(step.compiled, config, step_file, overwrite=overwrite)
    text = json.dumps(report, indent=2) + "\n"
    with atomic_output(path, nbytes=len(text), overwrite=overwrite) as place:
        place.write_text(text)
    print(summary(report))
    print("\n".join(run_programs.table(report["programs"])))
    print(f"written to {path}")
    if HASH in report:
        print(f"the step itself is in {step_file}, SHA-256 {report[HASH]}")
    return report["fits"]


def _header(config: Config, machines: Machines, mesh: Mesh, dual: bool) -> Report:
    return {
        "topology": machines.name,
        "platform": machines.platform,
        "slice_shape": list(machines.shape),
        "num_slices": machines.count,
        "chips": mesh.size,
        "mesh": dict(mesh.shape),
        "batch_size": config.data.batch_size,
        "images_per_chip": config.data.batch_size / mesh.size,
        "height": config.data.height,
        "width": config.data.width,
        "dual": dual,
        "dtype": config.model.dtype,
        "remat": config.model.remat,
        "attention": attention.preferred(config.model.attention),
        "accumulation": config.optimizer.accumulation,
    }


def _needed(message: str) -> str:
    """The compiler's message about memory."""
    numbers = re.search(r"\(?\d[\d.]*[GMK]\)? exceeds[^.]*\(?[\d.]+[GMK]\)?", message)
    return numbers[0] if numbers else " ".join(message.split())[:200]
