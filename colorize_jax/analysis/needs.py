"""The needs of a compiled step: memory, FLOPs, collectives, and settings that would make it fit."""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax

from colorize_jax import sharding
from colorize_jax.analysis.compiled import hlo
from colorize_jax.analysis.compiled.traffic import SCRATCH, beside_products
from colorize_jax.analysis.flops import count_jaxpr, equations, trace
from colorize_jax.analysis.step_flops import step_flops
from colorize_jax.config.options import Config
from colorize_jax.setup.networks import build_train_system
from colorize_jax.training.state import TrainState
from colorize_jax.training.step import TrainSystem, train_step

Report = dict[str, Any]

NUM_LARGEST = 8
# The TPU compiler may implement an all-gather as an all-reduce of shards padded with zeros.
GATHERS = ("all-gather", "all-reduce")


def state_memory(state: TrainState) -> dict[str, int]:
    """Bytes a device of every part of the state, from shapes and shardings."""
    parts = {
        "parameters": state.params,
        "optimizer": state.opt_state,
        "ema": state.ema,
        "frozen": state.frozen,
    }
    return {name: sharding.device_bytes(tree) for name, tree in parts.items()}


def program_memory(compiled: jax.stages.Compiled) -> dict[str, int]:
    """Bytes a device of the compiled program; its arguments with the padding of their layouts."""
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
    """FLOPs of a step, all devices together: of the model, and with rematerialization."""
    model = step_flops(system, state, record, dual=dual)
    blockwise = build_train_system(
        dataclasses.replace(
            system.config, model=dataclasses.replace(system.config.model, attention="blockwise")
        )
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    jaxpr = trace(lambda *args: train_step(blockwise, *args, dual=dual), state, record, key)
    return {"model": model, "executed": count_jaxpr(jaxpr)}


def exchanges(program: hlo.Program, found: Sequence[hlo.Collective], state: Any) -> Report:
    """Collectives of a step by kind, axes of the mesh and dtype; all-gathers of whole stacks.

    Args:
        program: compiled.
        found: its collectives.
        state: whose stacked parameters are looked for; shapes.
    """
    count, sent, beside = Counter(), Counter(), Counter()
    overlapped = beside_products(program)
    for exchange in found:
        key = (exchange.kind, exchange.axes, exchange.dtype)
        count[key] += exchange.times
        sent[key] += exchange.sent
        beside[key] += exchange.sent if exchange.name in overlapped else 0
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
            {
                "kind": kind,
                "axes": list(axes),
                "dtype": dtype,
                "count": count[kind, axes, dtype],
                "bytes": round(total),
                "beside_products": round(beside[kind, axes, dtype]),
            }
            for (kind, axes, dtype), total in sent.most_common()
        ],
        "stack_gathers": whole,
    }


def largest_buffers(program: hlo.Program) -> list[dict[str, Any]]:
    """The largest results of the program's operations, bytes a device."""
    sizes: dict[tuple[str, str], int] = {}
    for name in program.repeats():
        for operation in program.computations[name]:
            if operation.opcode not in hlo.FREE:
                scratch = SCRATCH if operation.opcode == "custom-call" else ()
                for dtype, dims, _ in operation.shapes:
                    if dtype in scratch:
                        continue
                    shape = f"{dtype}[{','.join(map(str, dims))}]"
                    sizes[shape, operation.source] = hlo.size_of(dtype, dims)
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


def remedies(config: Config, mesh: jax.sharding.Mesh) -> list[str]:
    """Settings that need less memory, the cheapest first."""
    found = []
    if config.model.dtype == "float32":
        found.append("--config.model.dtype=bfloat16 halves activations")
    if config.model.remat != "block":
        found.append("--config.model.remat=block computes a block's inside again")
    if config.data.batch_size > sharding.batch_shards(mesh):
        count = config.data.batch_size // sharding.batch_shards(mesh)
        found.append(
            f"--config.optimizer.accumulation={count} computes a sample a device at a time"
        )
    if mesh.shape["data"] > 1:
        found.append(
            "--config.mesh.data=1 --config.mesh.fsdp=-1 splits parameters over all devices"
        )
    if config.optimizer.moment_dtype == "float32":
        found.append("--config.optimizer.moment_dtype=bfloat16 halves Adam's first moment")
    if config.mesh.tensor == 1:
        found.append("--config.mesh.tensor=2 splits channels and heads")
    return [*found, "smaller pictures (data.height, data.width), or more devices"]
