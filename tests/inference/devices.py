"""Print the pixels of a batch as JSON; run with several devices by `test_pipeline_devices`."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import numpy as np
import small_system

from colorize_jax.config.options import MeshConfig
from colorize_jax.inference.options import InferenceOptions
from colorize_jax.inference.pipeline import ColorizePipeline
from colorize_jax.sharding import make_mesh

devices = jax.devices()
mesh = make_mesh(MeshConfig(), devices) if len(devices) > 1 else None
pipeline = ColorizePipeline(small_system.make_networks(mesh=mesh))
options = InferenceOptions(sampler="Euler a", steps=3, seed=0)
pairs = [small_system.make_pictures(seed) for seed in range(4)]
reference = pipeline.read_reference(pairs[0][1], options)
pictures = [pipeline.read_sketch(sketch, reference, options) for sketch, _ in pairs]
images = pipeline.color(pictures, options, [0] * 4)
with pipeline.networks.on_devices():
    latents = pipeline.denoise(pipeline.condition(pictures, options, [0] * 4), options)
rows = latents.sharding.shard_shape(latents.shape)[0]
print(json.dumps({"rows": rows, "images": [np.asarray(image).tolist() for image in images]}))
