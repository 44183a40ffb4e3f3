"""Rematerialization by budget: `model.remat=auto` becomes the policy that a device has room for.

What a policy keeps from the forward to the backward pass is known from the traced step, before
anything is compiled. It is traced with a number of samples that no other length is a multiple of:
what has that number in its shape is of samples, the rest of parameters. The first policy of
`LADDER` is taken whose state, gradients and kept values fit.

"none" is not on the ladder: it keeps twice as much as "elementwise", whose second computation of
norms and activations takes no product, and moves fewer bytes.
"""

import dataclasses
import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.sharding import Mesh

from colorize_jax import sharding
from colorize_jax.analysis.hardware.machines import GIB
from colorize_jax.analysis.shapes import abstract_record
from colorize_jax.config.options import Config
from colorize_jax.setup.initialize import abstract_state
from colorize_jax.setup.networks import build_train_system
from colorize_jax.training.augment import to_batch
from colorize_jax.training.step import TrainSystem, prepare, total_loss

logger = logging.getLogger(__name__)

AUTO = "auto"
# The less is computed again, the earlier.
LADDER = ("norms", "elementwise", "wide", "block")
# Share of the memory that a step may take by the estimate, which knows nothing of what an operation
# holds while it runs. Of compiled programs it was between 0.9 and 1.15 of what they took.
SHARE = 0.85
SAMPLES = 101  # a prime that is no length of anything else
LANES = 128  # of a TPU's tiles: shorter last axes are padded


@dataclass(frozen=True)
class Estimate:
    """Memory of a device under a policy, bytes.

    Attributes:
        policy: of `nn.remat.POLICIES`.
        state: parameters, optimizer, average, frozen parameters, and gradients.
        kept: from the forward to the backward pass.
    """

    policy: str
    state: int
    kept: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.state + self.kept


def settle(config: Config, mesh: Mesh, memory: float | None = None) -> Config:
    """Replace `model.remat=auto` by a policy that fits, and say which.

    Args:
        config: of the run.
        mesh: of the run; its devices need not be there.
        memory: bytes that a process may take of a device; by default those of `mesh`.

    Returns:
        The config, with the policy; the same where it names one.
    """
    if config.model.remat != AUTO:
        return config
    memory = device_memory(mesh) if memory is None else memory
    found = []
    for policy in LADDER:
        config = with_policy(config, policy)
        found.append(estimate(config, mesh))
        if found[-1].total <= SHARE * memory:
            break
    listed = ", ".join(f"{one.policy} {one.total / GIB:.1f}" for one in found)
    logger.info(
        "model.remat=auto: %s (estimates for a device of %.1f GiB, in GiB: %s)",
        config.model.remat,
        memory / GIB,
        listed,
    )
    return config


def with_policy(config: Config, policy: str) -> Config:
    """The config with another `model.remat`."""
    return dataclasses.replace(config, model=dataclasses.replace(config.model, remat=policy))


def device_memory(mesh: Mesh) -> float:
    """Bytes that a process may take of a device of a mesh that is there."""
    stats = mesh.devices.flat[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return float(stats["bytes_limit"])
    local = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / len(local)


def estimate(config: Config, mesh: Mesh) -> Estimate:
    """Estimate the memory of a step of both branches; nothing is compiled.

    Args:
        config: of the run, with a policy.
        mesh: of the run.
    """
    # One part of a batch that is computed in parts.
    whole = dataclasses.replace(config.optimizer, accumulation=1)
    system = build_train_system(dataclasses.replace(config, optimizer=whole))
    state = abstract_state(system)
    placed = sharding.with_shardings(state, sharding.state_shardings(mesh, state))
    held = sharding.device_bytes(placed) + sharding.device_bytes(placed.params)
    of_samples = of_parameters = 0
    dual = config.gram.maximum > 0
    for value in kept_values(system, state, dual=dual):
        size = _padded_bytes(value, mesh)
        if any(length % SAMPLES == 0 for length in value.shape if length):
            of_samples += size
        else:
            of_parameters += size
    shards = sharding.batch_shards(mesh) * config.optimizer.accumulation
    kept = of_samples / SAMPLES * config.data.batch_size / shards
    kept += of_parameters / mesh.shape["fsdp"]
    return Estimate(config.model.remat, held, int(kept / mesh.shape["tensor"]))


def kept_values(system: TrainSystem, state: Any, *, dual: bool) -> Iterator[jax.core.ShapedArray]:
    """What the backward pass of `SAMPLES` samples reads of the forward pass, parameters aside."""
    data = dataclasses.replace(system.config.data, batch_size=SAMPLES)
    record = abstract_record(dataclasses.replace(system.config, data=data))
    key = jax.eval_shape(lambda: jax.random.key(0))
    inputs = jax.eval_shape(
        lambda state, record, key: prepare(system, state.frozen, to_batch(record), key, state.step),
        state,
        record,
        key,
    )

    def forward(params: Any, frozen: Any, inputs: Any) -> Any:
        def loss(params: Any) -> Any:
            return total_loss(system, params, frozen, inputs, jnp.float32(1), dual=dual)

        _, backward, _ = jax.vjp(loss, params, has_aux=True)
        return backward

    jaxpr = jax.make_jaxpr(forward)(state.params, state.frozen, inputs).jaxpr
    given = {*jaxpr.invars, *jaxpr.constvars}
    kept = {var for var in jaxpr.outvars if not isinstance(var, core.Literal)}
    for var in kept - given:
        yield var.aval


def _padded_bytes(value: jax.core.ShapedArray, mesh: Mesh) -> int:
    shape = list(value.shape)
    if mesh.devices.flat[0].platform == "tpu" and shape and shape[-1] < LANES:
        shape[-1] = LANES
    return math.prod(shape) * getattr(value.dtype, "itemsize", 4)
