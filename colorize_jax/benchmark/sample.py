"""Sampling as training and evaluation do it: timed on devices, or compiled for others."""

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from colorize_jax.analysis.compiled import hlo, traffic
from colorize_jax.analysis.flops import count_flops
from colorize_jax.analysis.hardware.topology import describe
from colorize_jax.analysis.needs import exchanges, program_memory
from colorize_jax.analysis.roofline import in_order, roofline
from colorize_jax.analysis.shapes import abstract_record, for_platform
from colorize_jax.analysis.step_flops import countable
from colorize_jax.benchmark.filled import filled
from colorize_jax.benchmark.profile import kernel_times
from colorize_jax.benchmark.step import synthetic_record
from colorize_jax.benchmark.timing import (
    Report,
    compile_program,
    fitting,
    header,
    rates,
    repeat,
    table,
    title,
)
from colorize_jax.config.options import Config
from colorize_jax.diffusion.samplers import find_sampler
from colorize_jax.errors import UserError
from colorize_jax.inference.options import InferenceOptions
from colorize_jax.inference.program_options import make_traced_options
from colorize_jax.setup.networks import (
    build_colorize,
    build_train_system,
    inference_system,
    random_params,
)
from colorize_jax.sharding import (
    batch_sharding,
    batch_shards,
    check_batch,
    in_bytes,
    make_mesh,
    state_shardings,
    with_shardings,
)
from colorize_jax.training.augment import to_batch
from colorize_jax.training.step import TrainSystem
from colorize_jax.types import Array, Params


def benchmark_sample(config: Config, batch_size: int | None = None, calls: int = 10) -> Report:
    """Time the colouring of batches by the config's sampler, from references to pixels.

    Args:
        config: of a run; its weights are not read. Parameters have the dtype of its products.
        batch_size: pictures at a time, all devices together; by default one a device.
        calls: how many batches.

    Raises:
        UserError: batch, mesh and devices do not go together, or the program does not fit.
    """
    mesh = make_mesh(config.mesh)
    system = _build(config, batch_size, mesh, mesh.devices.flat[0].platform)
    config, trips = system.config, _evaluations(system)
    steps = config.sampling.num_steps
    report = header("sample", config, mesh) | {
        "sampler": config.sampling.sampler,
        "steps": steps,
        "evaluations": trips,
        "reference_guidance": config.sampling.reference_guidance,
    }
    with jax.set_mesh(mesh), fitting("a sampling program"):
        params = _params(system, mesh)
        record = synthetic_record(config, mesh)
        keys = _keys(config, mesh)
        flops = None if trips is None else sample_flops(system, trips)
        compiled, program = compile_program(jax.jit(_on_records(system)), params, record, keys)
        seconds = repeat(lambda: compiled(params, record, keys), calls)
        kernels = kernel_times(lambda: compiled(params, record, keys))
    program |= rates(seconds, config.data.batch_size, flops, mesh) | {"kernels": kernels}
    return report | {"programs": {"sample": program}}


def compile_sample(config: Config, topology: str, batch_size: int | None = None) -> Report:
    """Compile the colouring of a batch for machines that need not be there; nothing runs.

    Args:
        config: of a run, whose mesh goes with the machines.
        topology: e.g. "h200:1" or "v5e:2x2".
        batch_size: pictures at a time, all devices together; by default one a device.

    Returns:
        Memory of a device, FLOPs, bytes, "roofline" and "in_order" of one batch, in the form of
        `aot.compile_step`.

    Raises:
        UserError: unknown topology, the sampler's number of evaluations is not known ahead, or
            mesh, batch and machines do not go together.
    """
    if find_sampler(config.sampling.sampler).evaluations is None:
        raise UserError(
            f"got the sampler {config.sampling.sampler}, which chooses its steps as it goes, "
            "expected one whose evaluations are known; choose another with "
            "--config.sampling.sampler"
        )
    machines = describe(topology, config.mesh.num_slices)
    mesh = make_mesh(config.mesh, machines.devices)
    system = _build(config, batch_size, mesh, machines.platform)
    config, trips = system.config, _evaluations(system)
    run, options = _on_records(system), dict(machines.compiler_options)
    abstract = jax.eval_shape(lambda: _cast_params(system))
    params = with_shardings(abstract, state_shardings(mesh, abstract))
    record = abstract_record(config)
    record = with_shardings(record, dict.fromkeys(record, batch_sharding(mesh)))
    keys = jax.eval_shape(lambda: _new_keys(config))
    keys = with_shardings(keys, batch_sharding(mesh))
    worked = time.process_time()
    with jax.set_mesh(mesh):
        compiled = jax.jit(run).lower(params, record, keys).compile(compiler_options=options)
    seconds = time.process_time() - worked
    program = hlo.parse(compiled.as_text())
    found = hlo.collectives(program, dict(mesh.shape))
    flops = sample_flops(system, trips)
    report = header("sample, compiled", config, mesh) | {
        "topology": machines.name,
        "chips": mesh.size,
        "images_per_chip": config.data.batch_size / mesh.size,
        "sampler": config.sampling.sampler,
        "steps": config.sampling.num_steps,
        "evaluations": trips,
        "reference_guidance": config.sampling.reference_guidance,
        "products": config.model.products,
        "compile_cpu_seconds": round(seconds, 1),
        "memory": program_memory(compiled) | {"capacity": machines.device.memory},
        "flops": {"model": flops, "executed": flops},
        "hbm_bytes": traffic.total(program),
        "kernels": traffic.kernels(program),
        **exchanges(program, found, params),
    }
    report["fits"] = report["memory"]["total"] <= report["memory"]["capacity"]
    report["in_order"] = in_order(program, found, report, machines)
    return report | {"roofline": roofline(report, machines)}


def compile_summary(report: Report) -> str:
    """The report of `compile_sample` as text."""
    memory, ordered = report["memory"], report["in_order"]
    lines = [
        title(report),
        f"{report['sampler']}, {report['steps']} steps, guidance "
        f"{report['reference_guidance']:g}, products {report['products']}, compiled for "
        f"{report['topology']} in {report['compile_cpu_seconds'] / 60:.1f} processor minutes",
        "",
        f"memory of a device: {in_bytes(memory['total'])} of {in_bytes(memory['capacity'])}",
        f"read and written by a device: {report['hbm_bytes'] / 1e9:.4g} GB",
        f"FLOPs: {report['flops']['model'] / 1e12:.4g} T",
        f"roofline: {_rate(report, report['roofline']['step_seconds'])}",
        f"one operation after another: {_rate(report, ordered['step_seconds'])}",
    ]
    if ordered["expected_seconds"]:
        lines.append(f"expected of this card: {_rate(report, ordered['expected_seconds'])}")
    return "\n".join(lines)


def _rate(report: Report, seconds: float) -> str:
    return f"{1e3 * seconds:.4g} ms, {report['batch_size'] / seconds:.3g} pictures/s"


def summary(report: Report) -> str:
    """The report of `benchmark_sample` as a table."""
    return (
        f"{title(report)}\n{report['sampler']}, {report['steps']} steps, guidance "
        f"{report['reference_guidance']:g}\n\n{table(report['programs'])}"
    )


def sample_flops(system: TrainSystem, evaluations: int) -> int:
    """FLOPs of the colouring of a batch, encoders and decoder included, from shapes alone.

    Args:
        system: static; its config's batch is counted.
        evaluations: of the denoiser, as often as the sampler's loop runs.
    """
    batch = system.config.data.batch_size
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batch))
    params = jax.eval_shape(lambda: random_params(system, jax.random.key(0)))
    run = _on_records(countable(system))
    return count_flops(run, params, abstract_record(system.config), keys, while_trips=evaluations)


def _build(config: Config, batch_size: int | None, mesh: Mesh, platform: str) -> TrainSystem:
    """The networks of a config for a batch of so many pictures, one a device by default."""
    config = sampling_config(config, batch_size or batch_shards(mesh))
    check_batch(mesh, config.data.batch_size)
    return build_train_system(for_platform(config, platform))


def _evaluations(system: TrainSystem) -> int | None:
    """How often the config's sampler asks the UNet; None: that depends on what it answers."""
    sampling = system.config.sampling
    evaluations = find_sampler(sampling.sampler).evaluations
    if evaluations is None:
        return None
    traced = make_traced_options(inference_system(system), InferenceOptions.from_config(sampling))
    return evaluations(int(traced.plan.num_steps))  # equal levels of noise are one


def sampling_config(config: Config, batch_size: int) -> Config:
    """The config with another batch size and without micro-batches."""
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, batch_size=batch_size),
        optimizer=dataclasses.replace(config.optimizer, accumulation=1),
    )


def _on_records(system: TrainSystem) -> Any:
    """(parameters, loader's batch, keys) -> pictures."""
    colorize = build_colorize(system)

    def run(params: Params, record: dict[str, Array], keys: Array) -> Array:
        return colorize(params, to_batch(record), keys)

    return run


def _keys(config: Config, mesh: Mesh) -> Array:
    return jax.jit(lambda: _new_keys(config), out_shardings=batch_sharding(mesh))()


def _new_keys(config: Config) -> Array:
    return jax.random.split(jax.random.key(config.seed), config.data.batch_size)


def _params(system: TrainSystem, mesh: Mesh) -> Params:
    abstract = jax.eval_shape(lambda: _cast_params(system))
    return filled(abstract, state_shardings(mesh, abstract))


def _cast_params(system: TrainSystem) -> Params:
    dtype = jnp.dtype(system.config.model.dtype)
    params = random_params(system, jax.random.key(0))
    return jax.tree.map(lambda leaf: leaf.astype(dtype), params)
