"""Memory of colouring one picture, by compiling the pipeline's programs for a device.

Nothing runs and no weights are read, so that the device need not be present. The figures are the
compiler's plans for each program, and the bytes of the parameters beside them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from colorize_jax.analysis.compiled import hlo, traffic
from colorize_jax.analysis.hardware.topology import describe
from colorize_jax.analysis.needs import program_memory
from colorize_jax.analysis.shapes import for_platform
from colorize_jax.benchmark.timing import Report, header
from colorize_jax.config.options import Config, MeshConfig
from colorize_jax.inference import programs
from colorize_jax.inference.options import InferenceOptions
from colorize_jax.inference.program_options import make_static_options, make_traced_options
from colorize_jax.inference.sampling import SamplingInputs
from colorize_jax.inference.system import System
from colorize_jax.models.background_encoder import NORMED
from colorize_jax.nn.transformer import runs_unrolled
from colorize_jax.setup.networks import build_train_system, inference_system, random_params
from colorize_jax.sharding import in_bytes, make_mesh, replicated, with_shardings
from colorize_jax.types import Array, Params

# Program -> networks that it runs, in the pipeline's order.
NETWORKS = {
    "encode_images": ("vae",),
    "encode_references": ("clip_vision", "tagger", "reference_projection"),
    "encode_sketches": ("sketch_encoder",),
    "denoise": ("unet",),
    "denoise_low_memory": ("unet",),
    "decode": ("vae",),
}
# Programs that low_memory has others for: its stacks of blocks run in loops.
LOW_MEMORY = {"denoise": "denoise_low_memory"}
# What low_memory holds at the same time.
PHASES = dict.fromkeys(("encode_images", "encode_references", "encode_sketches"), "encoders")
PHASES |= {low: name for name, low in LOW_MEMORY.items()}
ENCODERS = ("clip_vision", "tagger", "reference_projection", "sketch_encoder", "vae")


def picture_memory(
    config: Config, topology: str | None = None, *, controls: bool = False
) -> Report:
    """Compile every program of a guided picture and add up what it needs.

    Args:
        config: of the networks; pictures have the size of its data, parameters the dtype of its
            products.
        topology: whose chip or card to compile for, e.g. "v5p:2x2x1" or "h100:1"; None: the device
            here.
        controls: with all that can steer a picture: guidance by the sketch too, two references of
            which foreground and background attend to one each, a bank of foreign tokens, attention
            to the reference's own latents, and a background that is kept.

    Returns:
        "parameters": network -> bytes; "programs": program -> its memory beside its parameters,
        and its "kernels" (see `traffic.kernels`; of a loop whose length is an argument one turn);
        "resident": the peak with all networks on the device; "low_memory": the peaks of the
        option's phases, and the largest.

    Raises:
        UserError: there is no such slice.
    """
    machines = None if topology is None else describe(topology)
    devices = jax.devices() if machines is None else machines.devices
    compiler_options = None if machines is None else dict(machines.compiler_options)
    mesh = make_mesh(MeshConfig(), devices[:1])
    config = for_platform(config, devices[0].platform)
    train_system = build_train_system(config)
    system = inference_system(train_system)
    guidance = 2.0 if controls else 1.0
    sampling = dataclasses.replace(config.sampling, sketch_guidance=guidance)
    options = InferenceOptions.from_config(sampling)
    options = dataclasses.replace(options, split_attention=controls)
    params = _abstract_params(train_system, jnp.dtype(config.model.dtype))
    report = header("memory", config, mesh) | {"batch_size": 1, "topology": topology}
    report["parameters"] = {name: _bytes(tree) for name, tree in params.items()}
    calls = _calls(system, options, params, config, controls=controls)
    report["programs"] = _compile_all(calls, params, mesh, compiler_options)
    return report | peaks(report["parameters"], report["programs"])


def peaks(parameters: Mapping[str, int], found: Mapping[str, Mapping[str, int]]) -> Report:
    """Join bytes of parameters and of programs to peaks.

    Args:
        parameters: network -> bytes.
        found: program -> "total" beside its parameters.
    """
    everything = sum(parameters.values())
    phases: dict[str, int] = {}
    for name, memory in found.items():
        if LOW_MEMORY.get(name) in found:
            continue
        phase = PHASES.get(name, name)
        held = ENCODERS if phase == "encoders" else NETWORKS[name]
        needed = sum(parameters[network] for network in held) + memory["total"]
        phases[phase] = max(needed, phases.get(phase, 0))
    return {
        "resident": everything
        + max(found[name]["total"] for name in found if name not in LOW_MEMORY.values()),
        "low_memory": phases | {"peak": max(phases.values())},
    }


def summary(report: Report) -> str:
    """The report of `picture_memory` as a page of text."""
    lines = [
        f"one guided picture of {report['width']}x{report['height']} px, {report['dtype']}, "
        f"attention {report['attention']}, on a {report['device_kind']}",
        "",
        "parameters",
    ]
    lines += [f"  {name:<24}{in_bytes(size):>12}" for name, size in report["parameters"].items()]
    lines.append("programs, beside their parameters")
    lines += [
        f"  {name:<24}{in_bytes(memory['total']):>12} (temporaries "
        f"{in_bytes(memory['temporaries'])})"
        for name, memory in report["programs"].items()
    ]
    low = report["low_memory"]
    parts = ", ".join(f"{name} {in_bytes(low[name])}" for name in low if name != "peak")
    unet = report["parameters"]["unet"]
    lines += [
        f"peak, everything resident {in_bytes(report['resident']):>12} "
        f"({report['resident'] / 1e9:.2f} GB)",
        f"peak, low_memory          {in_bytes(low['peak']):>12} ({parts}): the UNet's "
        f"{unet / 1e9:.2f} GB and {(low['peak'] - unet) / 1e9:.2f} GB",
    ]
    return "\n".join(lines)


def _calls(
    system: System, options: InferenceOptions, params: Params, config: Config, *, controls: bool
) -> dict[str, tuple[Any, tuple[Any, ...], tuple[Any, ...]]]:
    """Name -> program, static arguments, shapes of the arguments behind its parameters."""

    def floats(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    encoders, colorizer = system.encoders, system.colorizer
    size = (config.data.height, config.data.width)
    sketch = floats(1, *size, 3)
    pictures = [floats(1, m.image_size, m.image_size, 3) for m in (encoders.clip, encoders.tagger)]
    hints = jax.eval_shape(colorizer.hints, params, sketch)
    tokens = jax.eval_shape(encoders.encode_resized, params, *pictures)
    inputs = SamplingInputs(
        keys=jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1)),
        vector=floats(1, colorizer.unet.vector_channels),
        hints=hints,
        context=jax.eval_shape(colorizer.context, params, *tokens),
    )
    latents = floats(1, *(side // system.cell for side in size), colorizer.unet.out_channels)
    if controls:
        inputs = _controlled(system, params, inputs, latents)
    traced = jax.tree.map(_shape, make_traced_options(system, options))
    encode_images = {"encode_images": (programs.encode_images, (system,), (sketch,))}
    static = make_static_options(system, options)
    low_memory = {}
    if runs_unrolled(colorizer.unet.block_loop):
        looped = programs.in_loops(system)
        low_memory = {LOW_MEMORY["denoise"]: (programs.denoise, (looped, static), (inputs, traced))}
    return (encode_images if controls else {}) | {
        "encode_references": (programs.encode_references, (system,), tuple(pictures)),
        "encode_sketches": (programs.encode_sketches, (system,), (sketch,)),
        "denoise": (programs.denoise, (system, static), (inputs, traced)),
        **low_memory,
        "decode": (programs.decode, (system,), (latents,)),
    }


def _controlled(
    system: System, params: Params, inputs: SamplingInputs, latents: jax.ShapeDtypeStruct
) -> SamplingInputs:
    """The shapes of inputs with every control."""
    unet, context = system.colorizer.unet, inputs.context
    stacks = [name for name in unet.stacks() if name.startswith("output_blocks")]

    def bank(params: Params, latents: Array, vector: Array) -> dict[str, Array]:
        """Normed tokens of every decoder block: the plugin's encoder has them in these shapes."""
        collect = tuple((name, NORMED) for name in stacks)
        timesteps = jnp.zeros(latents.shape[0])
        _, features = unet.apply(
            {"params": params}, latents, timesteps, vector=vector, collect=collect
        )
        return {name: features[name, NORMED] for name in stacks}

    batch, tokens, channels = context.shape
    return inputs.replace(
        blank_hints=inputs.hints,
        context=jax.ShapeDtypeStruct((batch, 2 * tokens, channels), context.dtype),
        sketch_mask=jax.ShapeDtypeStruct((*latents.shape[:3], 1), jnp.float32),
        bank=jax.eval_shape(bank, params["unet"], latents, inputs.vector),
        background=latents,
        injected=latents,
    )


def _compile_all(
    calls: Mapping[str, tuple[Any, tuple[Any, ...], tuple[Any, ...]]],
    params: Params,
    mesh: Mesh,
    compiler_options: Mapping[str, Any] | None,
) -> dict[str, dict[str, Any]]:
    """Memory of every program beside its parameters, and its kernels."""
    found = {}
    with jax.set_mesh(mesh):
        for name, (program, static, rest) in calls.items():
            own = {network: params[network] for network in NETWORKS[name]}
            where = jax.tree.map(lambda _: replicated(mesh), (own, *rest))
            lowered = program.lower(*static, *with_shardings((own, *rest), where))
            compiled = lowered.compile(compiler_options=dict(compiler_options or {}) or None)
            memory = program_memory(compiled)
            # With the padding of their layouts the compiler counts them among its arguments.
            memory["arguments"] = max(0, memory["arguments"] - _bytes(own))
            memory["total"] -= _bytes(own)
            found[name] = memory | {"kernels": traffic.kernels(hlo.parse(compiled.as_text()))}
    return found


def _abstract_params(train_system: Any, dtype: Any) -> Params:
    def create() -> Params:
        params = random_params(train_system, jax.random.key(0))
        params.pop("anchor", None)
        return jax.tree.map(lambda leaf: leaf.astype(dtype), params)

    params = jax.eval_shape(create)
    return {name: params.get(name, {}) for names in NETWORKS.values() for name in names}


def _shape(leaf: Array | np.ndarray | np.generic) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(np.shape(leaf), jnp.asarray(leaf).dtype)


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
