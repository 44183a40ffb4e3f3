"""Saves and restores a small state on meshes, of one process or of several.

A program of its own, because the number of devices is fixed when JAX starts:

    python tests/io/runs/meshes.py DIR save 2,2,2            on eight devices
    python tests/io/runs/meshes.py DIR restore 1,4,1 1,1,1   on the first four, on the first

More arguments (--coordinator=HOST:PORT --num_processes=N --process_id=I) make it one of several
processes of two devices each. Every restored state is compared with the saved one.
"""

import argparse
import logging
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax import sharding
from colorize_jax.config.options import MeshConfig
from colorize_jax.io.runs.checkpoint import Checkpoints
from colorize_jax.setup.machine.distributed import initialize
from colorize_jax.training.state import TrainState

STEP = 3


def numbers():
    """The state, as NumPy arrays: kernels that are split, stacked ones, and a small one."""
    random = np.random.default_rng(0)
    kernels = {"a": (16, 32), "transformer_blocks": (3, 8, 64), "to_q": (32, 16)}
    params = {
        name: {"kernel": random.standard_normal(shape).astype(np.float32)}
        for name, shape in kernels.items()
    }
    params["norm"] = {"scale": np.arange(8, dtype=np.float32)}
    frozen = {"vae": {"kernel": random.standard_normal((64, 8)).astype(jnp.bfloat16)}}
    moments = jax.tree.map(lambda x: 2 * x, params)
    ema = jax.tree.map(lambda x: -x, params)
    return TrainState(np.int32(STEP), params, frozen, (moments,), ema)


def make_mesh(name):
    shape = tuple(map(int, name.split(",")))
    return sharding.make_mesh(MeshConfig(*shape), jax.devices()[: math.prod(shape)])


def check(state, expected):
    """Compare what this process has of a state."""
    for ours, theirs in zip(*map(jax.tree.leaves, (state, expected)), strict=True):
        assert ours.dtype == theirs.dtype
        for shard in ours.addressable_shards:
            np.testing.assert_array_equal(shard.data, theirs[shard.index])


def main():
    """See above."""
    parser = argparse.ArgumentParser()
    parser.add_argument("workdir")
    parser.add_argument("action", choices=("save", "restore"))
    parser.add_argument("meshes", nargs="+")
    parser.add_argument("--coordinator")
    parser.add_argument("--num_processes", type=int)
    parser.add_argument("--process_id", type=int)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    jax.config.update("jax_num_cpu_devices", 2 if options.coordinator else 8)
    initialize(options.coordinator, options.num_processes, options.process_id)
    sharding.SMALL = 2**6
    expected = numbers()
    for name in options.meshes:
        mesh = make_mesh(name)
        shardings = sharding.state_shardings(mesh, expected)
        with Checkpoints(options.workdir) as checkpoints:
            if options.action == "save":
                assert checkpoints.save(STEP, sharding.place(shardings, expected))
            else:
                abstract = sharding.with_shardings(expected, shardings)
                state, step = checkpoints.restore(abstract)
                assert step == STEP
                check(state, expected)
                split = sum(any(where.spec) for where in jax.tree.leaves(shardings))
                print("restored", name, split, flush=True)


if __name__ == "__main__":
    main()
