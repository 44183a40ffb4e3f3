"""A training step compiled for TPUs that are not there: does it fit, and how fast can it be.

    report = compile_step(config, "v5e:8x8").report     what train.py --compile_only writes

Bytes and FLOPs are those of the compiled program; the time is a lower bound, see `roofline`.
"""

import dataclasses
import json
import math
import os
import re
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from colorize_jax import sharding
from colorize_jax.analysis import hlo
from colorize_jax.analysis.chips import GIB, Slice, describe
from colorize_jax.analysis.flops import count_jaxpr, equations, trace
from colorize_jax.analysis.roofline import roofline
from colorize_jax.analysis.step_flops import step_flops
from colorize_jax.analysis.stored_step import HASH, save_step
from colorize_jax.config.options import Config
from colorize_jax.errors import UserError
from colorize_jax.io.formats.atomic import atomic_output, check_output
from colorize_jax.nn.attention import default_implementation
from colorize_jax.setup.initialize import abstract_state
from colorize_jax.setup.networks import build_train_system
from colorize_jax.training.state import TrainState
from colorize_jax.training.step import TrainSystem, jit_step, train_step

NUM_LARGEST = 8
# TPUs' compiler may gather by adding up parts padded with zeros.
GATHERS = ("all-gather", "all-reduce")
PICTURES = {"image": 3, "sketch": 1, "reference": 3, "sketch_mask": 1, "reference_mask": 1}

Report = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """A step and what is known of it.

    Attributes:
        report: plain values, as they go into JSON.
        compiled: the program; None where it does not fit.
    """

    report: Report
    compiled: jax.stages.Compiled | None


def compile_step(
    config: Config, topology: str, *, dual: bool = True, options: Mapping[str, Any] | None = None
) -> Step:
    """Compile one training step for a slice and say what it needs.

    Args:
        config: of the run; its mesh and batch must go with the slice.
        topology: e.g. "v5e:8x8"; `config.mesh.num_slices` of them.
        dual: with the misaligned branch, as most of a run's steps are.
        options: of the compiler.

    Raises:
        UserError: unknown topology, or mesh, batch and slice do not go together.
    """
    slices = describe(topology, config.mesh.num_slices)
    mesh = sharding.make_mesh(config.mesh, slices.devices)
    sharding.check_batch(mesh, config.data.batch_size, config.optimizer.accumulation)
    config = for_platform(config, "tpu")
    system = build_train_system(config)
    state, record, key = arguments(system, mesh)
    shardings = sharding.state_shardings(mesh, state)
    start, worked = time.perf_counter(), time.process_time()
    with jax.set_mesh(mesh):
        lowered = jit_step(system, mesh, shardings, dual=dual).lower(state, record, key)
        try:
            compiled = lowered.compile(compiler_options=dict(options) if options else None)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            compiled, needed = None, _needed(str(error))
    report = _header(config, slices, mesh, dual) | {
        "compile_seconds": round(time.perf_counter() - start, 1),
        "compile_cpu_seconds": round(time.process_time() - worked, 1),
        "compiled_on": f"{os.cpu_count()} CPU cores",
    }
    report["memory"] = state_memory(state) | {"capacity": slices.chip.memory}
    report["flops"] = flops(system, state, record, dual=dual)
    if compiled is None:
        report["memory"]["needed"] = needed
        report["largest"] = largest_values(system, state, record, dual=dual)
    else:
        program = hlo.parse(compiled.as_text())
        report["memory"] |= program_memory(compiled)
        report["largest"] = largest_buffers(program)
        report |= exchanges(program, mesh, state)
        report["hbm_bytes"] = hlo.traffic(program)
        report["roofline"] = roofline(report, slices)
    report["fits"] = compiled is not None and report["memory"]["total"] <= slices.chip.memory
    report["remedies"] = [] if report["fits"] else remedies(config, mesh)
    return Step(report, compiled)


def compile_only(
    config: Config,
    topology: str | None,
    folder: epath.PathLike,
    step_file: str | None = None,
    *,
    overwrite: bool = False,
) -> bool:
    """Compile a step, print what it needs and write it to a JSON file; nothing runs.

    Args:
        config: of the run.
        topology: e.g. "v5e:8x8".
        folder: where the file goes.
        step_file: where the compiled step is stored, if it fits; see `stored_step`.
        overwrite: replace both where they exist.

    Returns:
        Whether the step fits.

    Raises:
        UserError: as for `compile_step`.
    """
    if topology is None:
        raise UserError("got no --topology to compile for, expected a slice; name e.g. v5e:8x8")
    jax.config.update("jax_platforms", "cpu")  # no chip is needed, so none is taken
    path = epath.Path(folder) / f"aot-{topology.replace(':', '-')}.json"
    for output in filter(None, (path, step_file)):
        check_output(output, overwrite=overwrite)
    step = compile_step(config, topology)
    report = step.report
    if step_file and step.compiled is not None:
        report[HASH] = save_step(step.compiled, config, step_file, overwrite=overwrite)
    text = json.dumps(report, indent=2) + "\n"
    with atomic_output(path, nbytes=len(text), overwrite=overwrite) as place:
        place.write_text(text)
    print(summary(report))
    print(f"written to {path}")
    if HASH in report:
        print(f"the step itself is in {step_file}, SHA-256 {report[HASH]}")
    return report["fits"]


# ------------------------------------------------------------------------------ what is compiled


def for_platform(config: Config, platform: str) -> Config:
    """Replace the choice that depends on the machine that a program is traced on."""
    if config.model.attention != "auto":
        return config
    model = dataclasses.replace(config.model, attention=default_implementation(platform))
    return dataclasses.replace(config, model=model)


def arguments(system: TrainSystem, mesh: jax.sharding.Mesh) -> tuple[TrainState, Any, Any]:
    """Shapes of a step's state, record and key, with where they lie."""
    state = abstract_state(system)
    state = sharding.with_shardings(state, sharding.state_shardings(mesh, state))
    record = abstract_record(system.config)
    record = sharding.with_shardings(record, dict.fromkeys(record, sharding.batch_sharding(mesh)))
    key = jax.eval_shape(lambda: jax.random.key(0))
    return state, record, sharding.with_shardings(key, sharding.replicated(mesh))


def abstract_record(config: Config) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a loader's batch, pictures at the config's own size."""
    data, batch = config.data, config.data.batch_size
    sizes = dict.fromkeys(PICTURES, (data.height, data.width))
    if data.reference_size:
        sizes |= dict.fromkeys(("reference", "reference_mask"), (data.reference_size,) * 2)
    record = {
        name: jax.ShapeDtypeStruct((batch, *sizes[name], channels), jnp.uint8)
        for name, channels in PICTURES.items()
    }
    numbers = ("size", "aesthetic_score")
    return record | {name: jax.ShapeDtypeStruct((batch,), jnp.float32) for name in numbers}


# ----------------------------------------------------------------------------------- what it needs


def _header(config: Config, slices: Slice, mesh: jax.sharding.Mesh, dual: bool) -> Report:
    return {
        "topology": slices.name,
        "slice_shape": list(slices.shape),
        "num_slices": slices.count,
        "chips": mesh.size,
        "mesh": dict(mesh.shape),
        "batch_size": config.data.batch_size,
        "images_per_chip": config.data.batch_size / mesh.size,
        "height": config.data.height,
        "width": config.data.width,
        "dual": dual,
        "dtype": config.model.dtype,
        "remat": config.model.remat,
        "attention": config.model.attention,
        "accumulation": config.optimizer.accumulation,
    }


def state_memory(state: TrainState) -> dict[str, int]:
    """Bytes a chip of every part of the state, from shapes and shardings."""
    parts = {
        "parameters": state.params,
        "optimizer": state.opt_state,
        "ema": state.ema,
        "frozen": state.frozen,
    }
    return {name: sharding.device_bytes(tree) for name, tree in parts.items()}


def program_memory(compiled: jax.stages.Compiled) -> dict[str, int]:
    """Bytes a chip of the compiled program; its arguments with the padding of their layouts."""
    analysis = compiled.memory_analysis()
    fresh = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    memory = {
        "arguments": analysis.argument_size_in_bytes,
        "results": fresh,
        "temporaries": analysis.temp_size_in_bytes,
        "program": analysis.generated_code_size_in_bytes,
    }
    return memory | {"total": sum(memory.values())}


def flops(system: TrainSystem, state: TrainState, record: Any, *, dual: bool) -> dict[str, int]:
    """FLOPs of a step, all chips together: the model's own, and with what is computed again."""
    model = step_flops(system, state, record, dual=dual)
    blockwise = build_train_system(
        dataclasses.replace(
            system.config, model=dataclasses.replace(system.config.model, attention="blockwise")
        )
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    jaxpr = trace(lambda *args: train_step(blockwise, *args, dual=dual), state, record, key)
    return {"model": model, "executed": count_jaxpr(jaxpr)}


def exchanges(program: hlo.Program, mesh: jax.sharding.Mesh, state: Any) -> Report:
    """What chips send each other, by kind and axes of the mesh, and which whole stacks they gather.

    Args:
        program: compiled.
        mesh: of the run.
        state: whose stacked parameters are looked for; shapes.
    """
    found = hlo.collectives(program, dict(mesh.shape))
    count, sent = Counter(), Counter()
    for exchange in found:
        count[exchange.kind, exchange.axes] += exchange.times
        sent[exchange.kind, exchange.axes] += exchange.sent
    stacks = {
        tuple(sorted(leaf.shape))
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        if re.search(sharding.STACKED, sharding.join(path)) and leaf.shape[0] > 1
    }
    whole = [
        f"{list(dims)} {exchange.source}"
        for exchange in found
        for dims in exchange.shapes
        if exchange.kind in GATHERS and tuple(sorted(dims)) in stacks
    ]
    return {
        "collectives": [
            {"kind": kind, "axes": list(axes), "count": count[kind, axes], "bytes": round(total)}
            for (kind, axes), total in sent.most_common()
        ],
        "stack_gathers": whole,
    }


def largest_buffers(program: hlo.Program) -> list[dict[str, Any]]:
    """The largest results of the program's operations, bytes a chip."""
    sizes = {}
    for name in program.repeats():
        for operation in program.computations[name]:
            if operation.opcode not in hlo.FREE:
                key = (operation.text.split("{")[0].split(" ")[0], operation.source)
                sizes[key] = max(operation.bytes, sizes.get(key, 0))
    top = sorted(sizes.items(), key=lambda item: -item[1])[:NUM_LARGEST]
    return [{"shape": s, "bytes": size, "source": source} for (s, source), size in top]


def largest_values(
    system: TrainSystem, state: TrainState, record: Any, *, dual: bool
) -> list[dict[str, Any]]:
    """The same, estimated from the traced program, for one that did not compile.

    Values with a batch axis are split over the batch's shards; the compiler may never hold some.
    """
    batch = system.config.data.batch_size
    leaf = record["size"]
    share = leaf.sharding.shard_shape(leaf.shape)[0] / batch
    key = jax.eval_shape(lambda: jax.random.key(0))
    jaxpr = trace(lambda *args: train_step(system, *args, dual=dual), state, record, key)
    sizes: dict[tuple[str, str], int] = {}
    for eqn in equations(jaxpr):
        for var in eqn.outvars:
            shape = getattr(var.aval, "shape", ())
            if any(length in (batch, 2 * batch) for length in shape[:3]):
                place = str(eqn.source_info.name_stack)
                dtype = var.aval.dtype
                size = math.prod(shape) * getattr(dtype, "itemsize", 4) * share
                sizes[f"{dtype}{list(shape)}", place] = int(size)
    top = sorted(sizes.items(), key=lambda item: -item[1])[:NUM_LARGEST]
    return [{"shape": s, "bytes": size, "source": place} for (s, place), size in top]


def _needed(message: str) -> str:
    """What the compiler said of memory."""
    numbers = re.search(r"\(?\d[\d.]*[GMK]\)? exceeds[^.]*\(?[\d.]+[GMK]\)?", message)
    return numbers[0] if numbers else " ".join(message.split())[:200]


def remedies(config: Config, mesh: jax.sharding.Mesh) -> list[str]:
    """Settings that need less memory, the cheapest first."""
    found = []
    if config.model.dtype == "float32":
        found.append("--config.model.dtype=bfloat16 halves activations")
    if config.model.remat != "block":
        found.append("--config.model.remat=block computes a block's inside again")
    if config.data.batch_size > sharding.batch_shards(mesh):
        count = config.data.batch_size // sharding.batch_shards(mesh)
        found.append(f"--config.optimizer.accumulation={count} computes a sample a chip at a time")
    if mesh.shape["data"] > 1:
        found.append("--config.mesh.data=1 --config.mesh.fsdp=-1 splits parameters over all chips")
    if config.optimizer.moment_dtype == "float32":
        found.append("--config.optimizer.moment_dtype=bfloat16 halves Adam's first moment")
    if config.mesh.tensor == 1:
        found.append("--config.mesh.tensor=2 splits channels and heads")
    return [*found, "smaller pictures (data.height, data.width), or a larger slice"]


# ------------------------------------------------------------------------------------------ text


def summary(report: Report) -> str:
    """The report as a page of text."""
    memory, total = report["memory"], report["memory"].get("total")
    mesh = " x ".join(f"{axis} {size}" for axis, size in report["mesh"].items())
    branches = "both branches" if report["dual"] else "aligned branch"
    lines = [
        f"{report['topology']} x {report['num_slices']}: {report['chips']} chips, mesh {mesh}; "
        f"batch {report['batch_size']} ({report['images_per_chip']:g} a chip) of "
        f"{report['width']}x{report['height']} px, {branches}, attention {report['attention']}; "
        f"compiled in {report['compile_seconds']:.0f} s",
        "",
        f"HBM a chip, of {memory['capacity'] / GIB:.1f} GiB:",
    ]
    names = ("parameters", "optimizer", "ema", "frozen")
    names += ("arguments", "temporaries", "results", "program", "total")
    lines += [f"  {name:<12}{memory[name] / GIB:8.2f} GiB" for name in names if name in memory]
    lines.append("")
    largest = report["largest"]
    lines += [f"  {b['bytes'] / GIB:6.2f} GiB {b['shape']} {b['source']}" for b in largest]
    lines.append("")
    if "roofline" in report:
        lines += _speed(report)
    if report["fits"]:
        lines.append(f"fits: {total / GIB:.2f} of {memory['capacity'] / GIB:.1f} GiB")
    else:
        need = memory.get("needed") or f"{total / GIB:.2f} GiB"
        lines.append(f"does not fit: {need}; what helps:")
        lines += [f"  {remedy}" for remedy in report["remedies"]]
    return "\n".join(lines)


def _speed(report: Report) -> list[str]:
    roof, flops = report["roofline"], report["flops"]
    lines = [
        f"FLOPs of a step: {flops['model'] / 1e12:.1f} T, {flops['executed'] / 1e12:.1f} T with "
        "what is computed again",
        "sent by a chip:",
    ]
    lines += [
        f"  {c['bytes'] / 1e9:8.3f} GB {c['kind']} x {c['count']} along {' x '.join(c['axes'])}"
        for c in report["collectives"]
    ]
    times = ", ".join(f"{name} {1e3 * s:.0f} ms" for name, s in roof["seconds"].items())
    return [
        *lines,
        f"  of which gathers of whole stacks: {len(report['stack_gathers'])}",
        f"a step takes at least {1e3 * roof['step_seconds']:.0f} ms, bound by {roof['bound_by']} "
        f"({times}): MFU up to {100 * roof['mfu']:.0f} %, "
        f"{roof['images_per_second_per_chip']:.2f} images/s a chip",
        "",
    ]
