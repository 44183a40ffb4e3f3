"""Sampling as training and evaluation do it, timed on devices."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from colorize_jax.analysis.flops import count_flops
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
from colorize_jax.setup.networks import build_colorize, build_train_system, random_params
from colorize_jax.sharding import (
    batch_sharding,
    batch_shards,
    check_batch,
    make_mesh,
    state_shardings,
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
    config = sampling_config(config, batch_size or batch_shards(mesh))
    check_batch(mesh, config.data.batch_size)
    config = for_platform(config, mesh.devices.flat[0].platform)
    system = build_train_system(config)
    evaluations = find_sampler(config.sampling.sampler).evaluations
    steps = config.sampling.num_steps
    trips = None if evaluations is None else evaluations(steps)
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
    def create() -> Array:
        return jax.random.split(jax.random.key(config.seed), config.data.batch_size)

    return jax.jit(create, out_shardings=batch_sharding(mesh))()


def _params(system: TrainSystem, mesh: Mesh) -> Params:
    dtype = jnp.dtype(system.config.model.dtype)

    def create() -> Params:
        params = random_params(system, jax.random.key(0))
        return jax.tree.map(lambda leaf: leaf.astype(dtype), params)

    abstract = jax.eval_shape(create)
    return filled(abstract, state_shardings(mesh, abstract))
