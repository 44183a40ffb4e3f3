"""The training step with one branch and with both: timed, compiled ahead of time, or counted.

benchmark_step(config)              warm steps on the devices that are there
compile_steps(config, "v5p:2x2x1")  memory and bounds on TPUs that need not be there
count_step(config)                  model FLOPs, from shapes alone
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from colorize_jax.analysis.aot import compile_step
from colorize_jax.analysis.flops import count_flops
from colorize_jax.analysis.rematerialization import settle
from colorize_jax.analysis.shapes import abstract_record, arguments, for_platform
from colorize_jax.analysis.step_flops import countable, step_flops
from colorize_jax.benchmark.filled import filled
from colorize_jax.benchmark.profile import kernel_times
from colorize_jax.benchmark.timing import (
    Report,
    compile_program,
    fitting,
    header,
    rates,
    repeat,
    sustain,
    table,
    title,
)
from colorize_jax.config.options import Config
from colorize_jax.errors import UserError
from colorize_jax.setup.initialize import abstract_state, run_key
from colorize_jax.setup.networks import build_train_system
from colorize_jax.sharding import (
    check_batch,
    global_batch,
    in_bytes,
    local_rows,
    make_mesh,
    state_shardings,
)
from colorize_jax.training import trees
from colorize_jax.training.augment import to_batch
from colorize_jax.training.step import (
    Inputs,
    TrainSystem,
    embed,
    gradients,
    jit_step,
    join_context,
    prepare,
)
from colorize_jax.types import Array, Params

BRANCHES = {"single": (False,), "dual": (True,), "both": (False, True)}


def benchmark_step(
    config: Config, branches: str = "both", calls: int = 10, flops: int | None = None
) -> Report:
    """Time warm steps, waited for and one after another, on made-up weights and pictures.

    Args:
        config: of a run; its weights are not read.
        branches: of `BRANCHES`.
        calls: how many steps of each program.
        flops: of a step, where they are known; counted otherwise.

    Raises:
        UserError: batch, mesh and devices do not go together, or the step does not fit.
    """
    duals = _programs(config, branches)
    mesh = make_mesh(config.mesh)
    check_batch(mesh, config.data.batch_size, config.optimizer.accumulation)
    config = settle(for_platform(config, mesh.devices.flat[0].platform), mesh)
    system = build_train_system(config)
    report = header("step", config, mesh) | {"programs": {}}
    with jax.set_mesh(mesh), fitting("a step"):
        shardings = state_shardings(mesh, abstract_state(system))
        state = filled(abstract_state(system), shardings)
        record = synthetic_record(config, mesh)
        key = run_key(config, mesh)
        for dual in duals:
            flops = flops or step_flops(system, state, record, dual=dual)
            jitted = jit_step(system, mesh, shardings, dual=dual)
            compiled, program = compile_program(jitted, state, record, key)

            def advance(compiled: Any = compiled) -> Any:
                nonlocal state
                state, metrics = compiled(state, record, key)
                return metrics

            seconds = repeat(advance, calls)
            mean = sustain(advance, calls)
            program |= rates(seconds, config.data.batch_size, flops, mesh, mean)
            program["kernels"] = kernel_times(advance)
            report["programs"]["dual" if dual else "single"] = program
    return report


def summary(report: Report) -> str:
    """The report of `benchmark_step` as a table."""
    programs = report["programs"]
    lines = [title(report), "", table(programs)]
    for name, one in programs.items():
        memory = {part: in_bytes(size) for part, size in one["memory"].items()}
        lines.append(
            f"{name}: arguments {memory['arguments']}, temporaries {memory['temporaries']} a device"
        )
    if len(programs) == 2:
        single, dual = programs["single"], programs["dual"]
        pairs = {
            "FLOPs": (dual["flops"], single["flops"]),
            "time": (dual["seconds"]["median"], single["seconds"]["median"]),
            "temporaries": (dual["memory"]["temporaries"], single["memory"]["temporaries"]),
        }
        ratios = [f"{name} {a / b:.3f}" for name, (a, b) in pairs.items()]
        lines.append("dual / single: " + ", ".join(ratios))
    return "\n".join(lines)


def synthetic_record(config: Config, mesh: Mesh) -> dict[str, Array]:
    """A global batch of random pictures, as a loader gives it; each process makes its own rows."""
    rows = local_rows(mesh, config.data.batch_size)

    def draw(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if leaf.dtype == jnp.uint8:
            random = np.random.default_rng(int(rows[0]))
            return random.integers(0, 256, (len(rows), *leaf.shape[1:]), np.uint8)
        return np.full((len(rows), *leaf.shape[1:]), 5 if leaf.ndim == 1 else 0, leaf.dtype)

    return global_batch(mesh, {name: draw(x) for name, x in abstract_record(config).items()})


def _programs(config: Config, branches: str) -> Sequence[bool]:
    if config.gram.maximum > 0:
        return BRANCHES[branches]
    if branches == "dual":
        raise UserError(
            "got --branches dual with gram.maximum = 0, expected a weight of the Gram loss: no "
            "step of this config has two branches; choose single"
        )
    return BRANCHES["single"]


# ---------------------------------------------------------------------------------- compiled only


def compile_steps(config: Config, topology: str | None = None, branches: str = "both") -> Report:
    """Compile steps; nothing runs.

    Args:
        config: of a run; mesh and batch must go with the devices.
        topology: slice of TPUs that need not be there, e.g. "v5p:2x2x1"; None: the devices here.
        branches: of `BRANCHES`.

    Returns:
        "programs": "single" and "dual" -> "memory" of a device, "flops" and more; for a slice all
        that `aot.compile_step` reports.

    Raises:
        UserError: no such slice, or mesh, batch and devices do not go together.
    """
    programs = {
        "dual" if dual else "single": (
            _compile_here(config, dual)
            if topology is None
            else compile_step(config, topology, dual=dual).report
        )
        for dual in _programs(config, branches)
    }
    return {"benchmark": "step, compiled", "jax": jax.__version__, "programs": programs}


def _compile_here(config: Config, dual: bool) -> Report:
    mesh = make_mesh(config.mesh)
    check_batch(mesh, config.data.batch_size, config.optimizer.accumulation)
    config = settle(for_platform(config, mesh.devices.flat[0].platform), mesh)
    system = build_train_system(config)
    state, record, key = arguments(system, mesh)
    report = header("step", config, mesh)
    with jax.set_mesh(mesh), fitting("a step"):
        jitted = jit_step(system, mesh, state_shardings(mesh, state), dual=dual)
        _, program = compile_program(jitted, state, record, key)
    report |= program | {"topology": report["device_kind"], "num_slices": mesh.size}
    return report | {"flops": {"model": step_flops(system, state, record, dual=dual)}}


def compile_summary(report: Report) -> str:
    """The report of `compile_steps` as a table."""
    programs = report["programs"]
    one = next(iter(programs.values()))
    lines = [
        f"step at {one['width']}x{one['height']} px, batch {one['batch_size']}, {one['dtype']}, "
        f"remat {one['remat']}, attention {one['attention']}, compiled for "
        f"{one['num_slices']} x {one['topology']}",
        "",
        f"{'':<8}{'compile':>9}{'arguments':>13}{'temporaries':>13}{'model FLOPs':>15}",
    ]
    for name, one in programs.items():
        memory = one["memory"]
        if "temporaries" not in memory:
            lines.append(f"{name:<8} does not fit: {memory['needed']}")
            continue
        lines.append(
            f"{name:<8}{one['compile_seconds']:>7.0f} s{in_bytes(memory['arguments']):>13}"
            f"{in_bytes(memory['temporaries']):>13}{one['flops']['model'] / 1e12:>9.4g} TFLOP"
        )
    sizes = [one["memory"].get("temporaries") for one in programs.values()]
    if len(sizes) == 2 and all(sizes):
        lines.append(f"dual / single: temporaries {sizes[1] / sizes[0]:.3f}")
    return "\n".join(lines)


# ----------------------------------------------------------------------------------- counted only


def count_step(config: Config) -> Report:
    """Count the model FLOPs of a step with each number of branches, from shapes alone.

    Recomputation by rematerialization and blockwise attention is not counted, whatever the config
    says. The parts are those to which the second branch adds different shares.

    Args:
        config: of a run; mesh and devices do not matter.

    Returns:
        "programs" with "single" and "dual": FLOPs of a picture by part ("encoders": frozen;
        "conditions": sketch encoder and reference projection; "unet") and "total"; "ratios":
        dual / single of "total", of "trained" (without the frozen encoders) and of "unet".
    """
    system = build_train_system(config)
    plain, batch = countable(system), config.data.batch_size
    state, record = abstract_state(system), abstract_record(config)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def inputs_of(frozen: Params, record: Mapping[str, Array], key: Array) -> Inputs:
        return prepare(plain, frozen, to_batch(record), key, jnp.int32(0))

    def own_conditions(params: Params, frozen: Params, inputs: Inputs) -> Any:
        def total(params: Params) -> Array:
            networks = trees.merge(params, frozen)
            return sum(map(jnp.sum, jax.tree.leaves(embed(plain.colorizer, networks, inputs))))

        return jax.value_and_grad(total)(params)

    def other_context(params: Params, frozen: Params, inputs: Inputs) -> Any:
        def total(params: Params) -> Array:
            networks = trees.merge(params, frozen)
            return jnp.sum(join_context(plain.colorizer, networks, inputs.other_tokens))

        return jax.value_and_grad(total)(params)

    inputs = jax.eval_shape(inputs_of, state.frozen, record, key)
    encoders = count_flops(inputs_of, state.frozen, record, key)
    own = count_flops(own_conditions, state.params, state.frozen, inputs)
    other = count_flops(other_context, state.params, state.frozen, inputs)
    programs = {}
    for dual in (False, True):
        trained = _count_gradients(plain, state, inputs, dual=dual)
        conditions = own + other * dual
        parts = {"encoders": encoders, "conditions": conditions, "unet": trained - conditions}
        parts["total"] = sum(parts.values())
        programs["dual" if dual else "single"] = {
            name: count / batch for name, count in parts.items()
        }
    return {
        "benchmark": "step, counted",
        "jax": jax.__version__,
        "height": config.data.height,
        "width": config.data.width,
        "programs": programs,
        "ratios": _ratios(programs["single"], programs["dual"]),
        "config": dataclasses.asdict(config),
    }


def _count_gradients(plain: TrainSystem, state: Any, inputs: Inputs, *, dual: bool) -> int:
    def compute(params: Params, frozen: Params, inputs: Inputs) -> Any:
        return gradients(plain, params, frozen, inputs, jnp.float32(1), dual=dual)

    return count_flops(compute, state.params, state.frozen, inputs)


def _ratios(single: Mapping[str, float], dual: Mapping[str, float]) -> dict[str, float]:
    trained = [one["total"] - one["encoders"] for one in (dual, single)]
    return {
        "total": dual["total"] / single["total"],
        "trained": trained[0] / trained[1],
        "unet": dual["unet"] / single["unet"],
    }


def count_summary(report: Report) -> str:
    """The report of `count_step` as a table."""
    names = {
        "encoders": "frozen encoders",
        "conditions": "sketch encoder, reference projection",
        "unet": "UNet",
        "total": "all",
    }
    single, dual = report["programs"]["single"], report["programs"]["dual"]
    lines = [
        f"step at {report['width']}x{report['height']} px, model TFLOP a picture",
        "",
        f"{'':<38}{'single':>11}{'dual':>11}{'ratio':>8}",
    ]
    for part, name in names.items():
        ratio = f"{dual[part] / single[part]:.3f}" if single[part] else "-"
        lines.append(f"{name:<38}{single[part] / 1e12:>11.4g}{dual[part] / 1e12:>11.4g}{ratio:>8}")
    lines.append(f"{'all but the frozen encoders':<60}{report['ratios']['trained']:>8.3f}")
    return "\n".join(lines)
