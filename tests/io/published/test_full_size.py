"""One pass with every tensor of the published colorizer: 5.4 GB there, back, and through the UNet.

Needs 17 GB of disk, and 17 GB of memory for the forward; 10 minutes on two CPU cores.
"""

import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from colorize_jax.io.formats.readers import open_checkpoint
from colorize_jax.io.formats.safetensors_writer import write_safetensors
from colorize_jax.io.formats.tensors import LazyTensor

pytestmark = pytest.mark.slow

MANIFEST = Path(__file__).parents[1] / "manifests" / "colorizer_xl.json.gz"
ROOM = 2e9  # bytes that a conversion may need beside the size of the file

# Runs a command and says how much memory it and its children had at most.
MEASURED = """
import resource, sys
from colorize_jax.commands.cli import main
status = main(sys.argv[1:])
kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
print("peak", sum(resource.getrusage(kind).ru_maxrss for kind in kinds) * 1024)
sys.exit(status)
"""

FORWARD = """
import resource, sys, time
import jax, jax.numpy as jnp
from colorize_jax.models import architectures
from colorize_jax.io.open_weights import open_weights
weights = open_weights(sys.argv[1])
module = architectures.build("unet", weights.metadata.configs["unet"], dtype=jnp.bfloat16)
params = {}
for name in weights.abstract["unet"]:
    part = weights.read("unet", name)[name]
    params[name] = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), part)
inputs = (jnp.ones((1, 32, 32, 4)), jnp.ones(1), jnp.ones((1, 196, 2048)), None, jnp.ones((1, 512)))
forward = jax.jit(lambda params, *inputs: module.apply({"params": params}, *inputs)[0])
for run in ("first", "second"):
    start = time.time()
    prediction = forward(params, *inputs).block_until_ready()
    print(run, "forward", round(time.time() - start, 1), "s")
assert prediction.shape == (1, 32, 32, 4) and bool(jnp.isfinite(prediction).all())
assert float(prediction.std()) > 0
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def _random_file(path):
    """Write a float16 file of all colorizer tensors, of magnitudes up to 0.03."""
    shapes = json.loads(gzip.decompress(MANIFEST.read_bytes()))["tensors"]
    random = np.random.default_rng(0)

    def tensor(name, shape):
        def load():
            bits = random.integers(0x0400, 0x2800, shape, np.uint16)
            bits[random.random(shape[0]) < 0.5] |= 0x8000
            return bits.view(np.float16)

        return LazyTensor(name, tuple(shape), np.dtype(np.float16), load)

    write_safetensors(path, [tensor(name, shape) for name, shape in shapes.items()], {})


def _measured(script, *arguments):
    """Run a script in a process of its own; returns its peak memory in bytes."""
    start = time.time()
    result = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    print(f"{arguments[0]}: {time.time() - start:.0f} s\n{result.stdout}")
    return int(result.stdout.split("peak")[-1])


def test_the_whole_colorizer_there_and_back(tmp_path):
    file, folder, again = tmp_path / "in.safetensors", tmp_path / "weights", tmp_path / "out"
    _random_file(file)
    size = file.stat().st_size
    print(f"file: {size / 1e9:.2f} GB")
    peak = _measured(MEASURED, "import", "--input", file, "--output", folder)
    assert peak <= size + ROOM, f"import took {peak / 1e9:.2f} GB"
    peak = _measured(MEASURED, "export", "--checkpoint", folder, "--output", again)
    assert peak <= size + ROOM, f"export took {peak / 1e9:.2f} GB"
    before, after = open_checkpoint(file).tensors, open_checkpoint(again).tensors
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert (after[name].shape, after[name].dtype) == (tensor.shape, tensor.dtype)
        assert np.asarray(tensor).tobytes() == np.asarray(after[name]).tobytes(), name
    for path in (file, again):
        path.unlink()  # the forward needs the memory that their pages would take
    _measured(FORWARD, folder)
