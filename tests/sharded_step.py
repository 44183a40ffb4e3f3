"""Gradients of a very small dual-branch step on eight devices, against those on one.

A program of its own, because the number of devices is fixed when JAX starts:

    python tests/sharded_step.py 2,2,2 1,8,1

prints a JSON object: mesh -> largest differences, and what its devices exchange. With --refine
first, the step is the second stage's.
"""

import dataclasses
import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax import sharding
from colorize_jax.analysis.compiled import hlo
from colorize_jax.config.options import (
    Config,
    DataConfig,
    EncodersConfig,
    GramConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    RefineConfig,
)
from colorize_jax.setup.networks import build_train_system, random_params
from colorize_jax.training import augment, trees
from colorize_jax.training.step import gradients, prepare

CONFIG = Config(
    model=ModelConfig(
        model_channels=32,
        channel_mult=(1, 2),
        num_res_blocks=1,
        transformer_depth=(0, 2),
        head_dim=16,
        context_channels=64,
        vector_channels=32,
        hint_blocks=(0, 2, 3),
        sketch_head_dim=16,
        sketch_strides=(2, 2, 1),
        context_tokens=16,
        projection_head_dim=16,
    ),
    encoders=EncodersConfig(
        autoencoder="patch",
        reference="patch",
        patch_size=4,
        reference_image_size=16,
        reference_patch_size=4,
        dtype="float32",
    ),
    gram=GramConfig(blocks=(1, 3), zero_share=0.0),
    data=DataConfig(batch_size=8, height=32, width=32),
)
REFINED = dataclasses.replace(
    CONFIG,
    model=dataclasses.replace(CONFIG.model, loras=(("background", 2),), foreground_channels=4),
    gram=dataclasses.replace(CONFIG.gram, maximum=0.0),
    refine=RefineConfig(enabled=True, vector_channels=32, bleach_rate=0.5),
    optimizer=OptimizerConfig(trainable=("^background_encoder/", "/lora_(down|up)_background/")),
)
# Everything here is small: split it all the same, or nothing would be tested.
SMALL = 2**8


def make_record(batch_size):
    """A batch as a loader gives it."""
    random = np.random.default_rng(0)
    pictures = {"image": 3, "sketch": 1, "reference": 3, "sketch_mask": 1, "reference_mask": 1}
    size = (CONFIG.data.height, CONFIG.data.width)
    record = {
        name: random.integers(0, 256, (batch_size, *size, channels), np.uint8)
        for name, channels in pictures.items()
    }
    return record | {
        "size": np.full(batch_size, 512, np.float32),
        "aesthetic_score": np.linspace(3, 7, batch_size, dtype=np.float32),
    }


def loss_and_gradients(system, params, record):
    """What a step, with both branches where it has two, computes before its update."""
    config = system.config
    trained, frozen = trees.split(params, config.optimizer.trainable, system.held)
    inputs = prepare(system, frozen, augment.to_batch(record), jax.random.key(1), jnp.int32(5))
    dual = config.gram.maximum > 0
    grads, metrics = gradients(system, trained, frozen, inputs, jnp.float32(2.0), dual=dual)
    return metrics, grads


def on_mesh(function, params, record, shape):
    """Results as NumPy arrays, and what the devices exchange."""
    mesh = sharding.make_mesh(MeshConfig(*shape))
    shardings = sharding.state_shardings(mesh, params)
    stacks = {
        tuple(sorted(leaf.shape))
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if "transformer_blocks/" in sharding.join(path)
    }
    with jax.set_mesh(mesh):
        arguments = sharding.place(shardings, params), sharding.global_batch(mesh, record)
        compiled = jax.jit(function).lower(*arguments).compile()
        results = jax.device_get(compiled(*arguments))
    exchanged = hlo.collectives(hlo.parse(compiled.as_text()), dict(mesh.shape))
    gathered = [e for e in exchanged if e.kind == "all-gather"]
    report = {
        "split": sum(any(where.spec) for where in jax.tree.leaves(shardings)),
        "kinds": sorted({exchange.kind for exchange in exchanged}),
        "stack_gathers": sum(tuple(sorted(d)) in stacks for e in gathered for d in e.shapes),
        "other_gathers": [e.source for e in gathered if "sharding_constraint" not in e.source],
    }
    return results, report


def differences(results, expected):
    """Of metrics; of gradients over a leaf's largest entry where that is not next to nothing."""
    (metrics, grads), (own_metrics, own_grads) = results, expected
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(own_grads))

    def relative(a, b):
        return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-2 * largest))

    return {
        "metrics": max(abs(float(metrics[k] - own_metrics[k])) for k in own_metrics),
        "gradients": max(jax.tree.leaves(jax.tree.map(relative, grads, own_grads))),
        "gram_loss": float(own_metrics["gram_loss"]),
    }


def main(meshes):
    """See above."""
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_default_matmul_precision", "highest")
    sharding.SMALL = SMALL
    refines = meshes[:1] == ["--refine"]
    system = build_train_system(REFINED if refines else CONFIG)
    abstract = jax.eval_shape(functools.partial(random_params, system), jax.random.key(0))
    random = np.random.default_rng(0)

    def draw(path, leaf):
        # Parameters that keep the scale of activations, so that no gradient vanishes.
        name = sharding.join(path)
        first = 1 if "transformer_blocks/" in name else 0
        fan_in = np.prod(leaf.shape[first:-1]) if leaf.ndim > 1 else 25
        noise = random.standard_normal(leaf.shape) / np.sqrt(fan_in)
        return np.asarray(noise + name.endswith("scale"), np.float32)

    params = jax.tree_util.tree_map_with_path(draw, abstract)
    function, record = functools.partial(loss_and_gradients, system), make_record(8)
    expected = jax.device_get(jax.jit(function)(params, record))
    report = {}
    for name in meshes[refines:]:
        shape = tuple(map(int, name.split(",")))
        results, report[name] = on_mesh(function, params, record, shape)
        report[name] |= differences(results, expected)
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1:])
