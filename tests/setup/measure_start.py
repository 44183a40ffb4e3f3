"""Host memory of a run's start from weights: what it takes beside the state itself, at its peak.

    python tests/setup/measure_start.py DIR --config=configs/base.py

Made-up weights of the config's sizes are written to DIR, in float32; a process of its own then
builds the state of step 0 from them, its parameters split over `--devices` CPU devices. Only the
reference projection is trained, so that the state is little larger than the networks.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

WRITE, START = "write", "start"


def peak_bytes() -> int:
    """Most that this process held at a time."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))


def make_config(options):
    """The config, started from the weights in DIR."""
    from colorize_jax.config.load import load_config

    flags = [
        *options.overrides,
        f"--config.model.init_from={options.dir}",
        "--config.model.frozen_dtype=bfloat16",
        '--config.optimizer.trainable=("^reference_projection/",)',
    ]
    if load_config(options.config, options.overrides).encoders.autoencoder != "patch":
        flags.append(f'--config.encoders.weights=("{options.dir}",)')
    return load_config(options.config, flags)


def write(options) -> None:
    """Networks of random numbers."""
    import jax
    import numpy as np

    from colorize_jax.io.formats.weights_folder import save_weights
    from colorize_jax.setup.networks import build_train_system, random_params, weights_metadata

    config = make_config(options)
    system, rng = build_train_system(config), np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: random_params(system, jax.random.key(0)))
    networks = (
        (name, jax.tree.map(lambda leaf: rng.random(leaf.shape, np.float32), tree))
        for name, tree in shapes.items()
        if jax.tree.leaves(tree)
    )
    save_weights(options.dir, networks, weights_metadata(config))


def start(options) -> None:
    """The state of step 0, and what its making took."""
    import jax

    from colorize_jax.config.options import MeshConfig
    from colorize_jax.io.open_weights import open_weights
    from colorize_jax.setup.initialize import abstract_state, initial_state
    from colorize_jax.setup.networks import build_train_system
    from colorize_jax.sharding import make_mesh, state_shardings

    config = make_config(options)
    mesh = make_mesh(MeshConfig(data=1, fsdp=-1))
    system = build_train_system(config)
    shardings = state_shardings(mesh, abstract_state(system))

    def size(tree) -> int:
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))

    sizes = {name: size(tree) for name, tree in open_weights(options.dir).abstract.items()}
    before, begin = peak_bytes(), time.perf_counter()
    with jax.set_mesh(mesh):
        state = jax.block_until_ready(initial_state(system, shardings))
    shards = (shard for leaf in jax.tree.leaves(state) for shard in leaf.addressable_shards)
    held = sum(shard.data.nbytes for shard in shards)
    report = {
        "weights": sum(sizes.values()),
        "largest_network": max(sizes.values()),
        "state": held,
        "beside_it": peak_bytes() - before - held,
        "seconds": round(time.perf_counter() - begin, 1),
    }
    print(json.dumps(report))


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("dir")
    parser.add_argument("--config", default="configs/base.py")
    parser.add_argument("--devices", type=int, default=4)
    parser.add_argument("--part", choices=(WRITE, START))
    options, options.overrides = parser.parse_known_args()
    options.dir = os.path.abspath(options.dir)
    if options.part:
        {WRITE: write, START: start}[options.part](options)
        return
    flag = f"--xla_force_host_platform_device_count={options.devices}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"
    parts = [START] if os.path.isdir(options.dir) else [WRITE, START]
    for part in parts:
        command = [sys.executable, __file__, *sys.argv[1:], f"--part={part}"]
        subprocess.run(command, env=environment, check=True)


if __name__ == "__main__":
    main()
