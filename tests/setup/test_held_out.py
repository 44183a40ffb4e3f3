"""Samples during training are shared among the devices, however many there are of each."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

PROGRAM = """
import json
from types import SimpleNamespace

import jax
import numpy as np

from colorize_jax.config.options import MeshConfig
from colorize_jax.setup import held_out
from colorize_jax.sharding import make_mesh

COUNT = 6
rng = np.random.default_rng(0)
record = {"image": rng.integers(0, 255, (COUNT, 8, 8, 3), np.uint8)}
record |= {"sketch": record["image"][..., :1], "reference": record["image"]}
record |= {"size": np.ones(COUNT), "aesthetic_score": np.ones(COUNT)}
placed, drawn, sheets = [], [], []

def colorize(params, batch, keys):
    jax.debug.inspect_array_sharding(batch.image, callback=drawn.append)
    return batch.image

def place(shardings, tree):
    placed.append(real(shardings, tree))
    return placed[-1]

real, held_out.place = held_out.place, place
held_out.build_colorize = lambda system: colorize
held_out.all_params = lambda state, ema: {}
held_out.datasets.sample_record = lambda config, source, count: record
held_out.contact_sheet = lambda rows, columns: sheets.append(len(rows))
config = SimpleNamespace(
    seed=0, logging=SimpleNamespace(num_samples=COUNT), sampling=SimpleNamespace(ema=False)
)
mesh = make_mesh(MeshConfig())
with jax.set_mesh(mesh):
    held_out.make_sampler(SimpleNamespace(config=config), None, mesh)(None)
image = placed[0]["image"]
shape = drawn[0].shard_shape(image.shape)
print(json.dumps({"rows": image.shape[0], "a_device": shape[0], "pictures": sheets[0]}))
"""


def test_samples_are_split_over_devices_that_do_not_divide_them():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-c", PROGRAM]
    result = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert json.loads(result.stdout) == {"rows": 8, "a_device": 2, "pictures": 6}
