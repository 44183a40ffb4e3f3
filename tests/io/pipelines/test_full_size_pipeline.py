"""A pipeline folder of the published sizes, written from random weights and loaded by diffusers.

Needs 10 GB of disk and 4 GB of memory; two minutes of one CPU core.
"""

import os
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.slow

ROOM = 3e9  # bytes that writing or loading may need beside the folder's size

WRITE = """
import resource, sys
import jax, ml_dtypes, numpy as np
from colorize_jax.io.formats.weights_folder import WeightsMetadata
from colorize_jax.io.pipelines import card, names, write
from colorize_jax.io.published.torch_names import PREFIXES
from colorize_jax.models.architectures import PUBLISHED, abstract_params

NETWORKS = [name for name in names.FOLDERS if name != "background_encoder"]
BF16 = np.dtype(ml_dtypes.bfloat16)

class Random:
    metadata = WeightsMetadata(
        "colorizer",
        {name: PUBLISHED[name] for name in NETWORKS},
        {name: PREFIXES[name] for name in NETWORKS},
        "v",
        0.13025,
        size=[1024, 1024],
    )
    abstract = {
        name: jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, BF16), abstract_params(name, config)
        )
        for name, config in metadata.configs.items()
    }
    noise = (np.random.default_rng(0).standard_normal(10_007) / 50).astype(BF16)

    def read(self, component, module=None):
        tree = self.abstract[component]
        tree = tree if module is None else {module: tree[module]}
        return jax.tree.map(lambda leaf: np.resize(self.noise, leaf.shape), tree)

limits = {"default_size": 1024, "minimum_size": 256, "size_multiple": 8, "autofit_multiple": 32}
sizes = write.write_pipeline(
    Random(), sys.argv[1], write.Suggestions(limits), card.Card(), max_shard_bytes=5 * 10**9
)
print({name: round(size / 1e9, 2) for name, size in sizes.items()}, "GB")
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""

LOAD = """
import resource, sys
import torch
from diffusers import DiffusionPipeline
torch.set_num_threads(1)
folder = sys.argv[1]
pipe = DiffusionPipeline.from_pretrained(
    folder, custom_pipeline=folder, trust_remote_code=True, torch_dtype=torch.bfloat16
)
modules = [module for module in pipe.components.values() if isinstance(module, torch.nn.Module)]
print(sum(p.numel() for module in modules for p in module.parameters()), "parameters")
assert all(p.dtype == torch.bfloat16 for module in modules for p in module.parameters())
assert abs(float(pipe.unet.conv_in.weight.float().std()) - 0.02) < 0.002
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def _measured(script, folder):
    """Run a script in a process of its own; returns its peak memory in bytes."""
    start = time.time()
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.getcwd()}
    result = subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    print(f"{time.time() - start:.0f} s\n{result.stdout}")
    return int(result.stdout.split("peak")[-1])


def test_the_published_sizes_written_and_loaded(tmp_path):
    folder = tmp_path / "folder"
    peak = _measured(WRITE, folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"folder: {size / 1e9:.2f} GB")
    assert peak <= size + ROOM, f"writing took {peak / 1e9:.2f} GB"
    for library in ("torch", "diffusers", "transformers"):
        pytest.importorskip(library)
    peak = _measured(LOAD, folder)
    assert peak <= size + ROOM, f"loading took {peak / 1e9:.2f} GB"
