"""What the networks look at while they make one picture: attention and likeness of places.

Everything is read from one forward of the UNet over the finished picture, made noisy again: the
same noise for every reference, so that maps can be compared.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.diffusion.schedule import corrupt
from colorize_jax.errors import UserError
from colorize_jax.inference import programs
from colorize_jax.inference.options import InferenceOptions
from colorize_jax.inference.pipeline import ColorizePipeline
from colorize_jax.inference.program_options import make_static_options, make_traced_options
from colorize_jax.inference.sampling import (
    SamplingInputs,
    StaticOptions,
    TracedOptions,
    make_controls,
    project_inputs,
)
from colorize_jax.inference.system import System
from colorize_jax.nn.attention_layer import Attention
from colorize_jax.rng import stream
from colorize_jax.types import Array, Conditions, Params

QUERIED = "norm2"  # the feature of which cross-attention makes its queries


def denoising(
    pipeline: ColorizePipeline, inputs: SamplingInputs, options: InferenceOptions, count: int
) -> list[tuple[float, np.ndarray]]:
    """What the picture would be if its remaining steps were one: the expected clean picture.

    Args:
        pipeline: loaded.
        inputs: of one picture.
        options: that it is made with.
        count: how many of its steps, evenly spread, the last one among them.

    Returns:
        (noise level sigma before the step, (H, W, 3) in [-1, 1]).

    Raises:
        UserError: the sampler leaves its grid of levels (PNDM).
    """
    traced = make_traced_options(pipeline.system, options)
    if traced.plan.evaluations is not None:
        raise UserError(
            f"got sampler {options.sampler}, whose steps cannot be cut short, expected another "
            "one; name it with --sampler"
        )
    static = make_static_options(pipeline.system, options, inputs.context is not None)
    params = pipeline.networks.params("unet")
    steps = int(traced.plan.num_steps)
    frames = []
    for step in np.unique(np.linspace(0, steps - 1, min(count, steps)).round().astype(int)):
        sigmas = np.array(traced.plan.sigmas)
        level = float(sigmas[step])
        sigmas[step + 1 :] = 0.0
        plan = replace(traced.plan, sigmas=sigmas, num_steps=np.int32(step + 1))
        latents = programs.denoise(
            pipeline.system, static, params, inputs, traced.replace(plan=plan)
        )
        frames.append((level, pipeline.decode(latents, options)[0]))
    return frames


def collect(
    pipeline: ColorizePipeline,
    inputs: SamplingInputs,
    latents: Array,
    options: InferenceOptions,
    noise: float,
    wanted: tuple[tuple[str, str], ...],
) -> tuple[dict[tuple[str, str], np.ndarray], dict[str, np.ndarray]]:
    """Run the UNet once, with the reference and without guidance.

    Args:
        pipeline: loaded.
        inputs: of one picture.
        latents: (1, h, w, C) scaled, clean.
        options: that it is made with.
        noise: 0..1, share of the timesteps.
        wanted: (stack, feature) pairs, see `nn.transformer`.

    Returns:
        (stack, feature) -> (L, N, C); stack -> keys of the context (L, S, K, D).
    """
    system = pipeline.system
    static = replace(
        make_static_options(system, options), guide_reference=False, guide_sketch=False
    )
    traced = make_traced_options(system, options)
    timestep = np.full(1, round(noise * (system.schedule.num_timesteps - 1)), np.int32)
    params = pipeline.networks.params("unet")
    features, keys = _collect(
        system, static, wanted, params, inputs.replace(blank_hints=None), traced, latents, timestep
    )
    return {name: np.asarray(value[:, 0], np.float32) for name, value in features.items()}, {
        stack: np.asarray(value[:, 0], np.float32) for stack, value in keys.items()
    }


@partial(jax.jit, static_argnums=(0, 1, 2))
def _collect(
    system: System,
    static: StaticOptions,
    wanted: tuple[tuple[str, str], ...],
    params: Params,
    inputs: SamplingInputs,
    traced: TracedOptions,
    latents: Array,
    timestep: Array,
) -> tuple[dict[tuple[str, str], Array], dict[str, Array]]:
    conditions = project_inputs(system, params, inputs, traced)
    controls = make_controls(system, static, params, inputs, traced)
    noise = jax.vmap(lambda key: jax.random.normal(stream(key, 0, "looking"), latents.shape[1:]))(
        inputs.keys
    )
    noisy = corrupt(system.schedule, latents, noise, timestep)
    own = Conditions(None, conditions.hints, conditions.vector)
    state = system.colorizer.prefix(params, noisy, timestep, own, foreground=controls.foreground)
    _, features = system.colorizer.body(
        params, state, conditions.keys_values, conditions.hints, controls=controls, collect=wanted
    )
    keys = {stack: kv[0] for stack, kv in (conditions.keys_values or {}).items()}
    return features, keys


def cross_attention(
    system: System,
    params: Params,
    stack: str,
    features: dict[tuple[str, str], np.ndarray],
    keys: dict[str, np.ndarray],
    num_tokens: int,
) -> np.ndarray:
    """Where in the reference every place of the picture looks, in one stack.

    Args:
        system, params: the networks; of the parameters those of the UNet.
        stack: of transformer blocks.
        features, keys: of `collect`, with (stack, `QUERIED`).
        num_tokens: S of the reference itself, where attention is split the first half.

    Returns:
        (N, S) attention, mean over heads and over the stack's blocks; every row sums to 1.
    """
    queried = features[stack, QUERIED]
    unet = system.colorizer.unet
    layer = Attention(queried.shape[-1], unet.head_dim, unet.loras, parent=None)
    own = params["unet"][stack]["transformer_blocks"]["attn2"]
    maps: list[Any] = []
    for block, tokens in enumerate(queried):
        weights = jax.tree.map(lambda leaf, block=block: leaf[block], own)
        q = layer.apply({"params": weights}, jnp.asarray(tokens)[None], method="queries")[0]
        k = keys[stack][block, :num_tokens]
        logits = jnp.einsum("NKD,SKD->KNS", q, k) / q.shape[-1] ** 0.5
        maps.append(np.asarray(jax.nn.softmax(logits, axis=-1).mean(axis=0)))
    return np.mean(maps, axis=0)


def likeness(tokens: np.ndarray) -> np.ndarray:
    """Gram matrix (N, N) of tokens (N, C) at unit length: which places belong together."""
    unit = tokens / np.maximum(np.linalg.norm(tokens, axis=-1, keepdims=True), 1e-12)
    return unit @ unit.T
