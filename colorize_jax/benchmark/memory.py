"""The memory that colouring one picture needs, by compiling the pipeline's programs for a device.

Nothing runs and no weights are read, so that the device need not be there. What is found is what
the compiler plans for each program, and the bytes of the parameters that are held beside it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from colorize_jax.analysis import chips
from colorize_jax.analysis.aot import for_platform, program_memory
from colorize_jax.benchmark.timing import Report, header
from colorize_jax.config.options import Config, MeshConfig
from colorize_jax.inference import programs
from colorize_jax.inference.options import InferenceOptions
from colorize_jax.inference.program_options import make_static_options, make_traced_options
from colorize_jax.inference.sampling import SamplingInputs
from colorize_jax.inference.system import System
from colorize_jax.setup.networks import build_train_system, inference_system, random_params
from colorize_jax.sharding import in_bytes, make_mesh, replicated, with_shardings
from colorize_jax.types import Array, Params

# Program -> networks that it runs, in the pipeline's order.
NETWORKS = {
    "encode_references": ("clip_vision", "tagger", "reference_projection"),
    "encode_sketches": ("sketch_encoder",),
    "denoise": ("unet",),
    "decode": ("vae",),
}
# What low_memory holds at the same time.
PHASES = {"encode_references": "encoders", "encode_sketches": "encoders"}
ENCODERS = ("clip_vision", "tagger", "reference_projection", "sketch_encoder", "vae")


def picture_memory(config: Config, topology: str | None = None) -> Report:
    """Compile every program of a guided picture and add up what it needs.

    Args:
        config: of the networks; pictures have the size of its data, parameters the dtype of its
            products.
        topology: TPU slice whose chip to compile for, e.g. "v5p:2x2x1"; None: the device here.

    Returns:
        "parameters": network -> bytes; "programs": program -> its memory beside its parameters;
        "resident": the peak with all networks on the device; "low_memory": the peaks of the
        option's phases, and the largest.

    Raises:
        UserError: there is no such slice.
    """
    devices = jax.devices()[:1] if topology is None else chips.describe(topology).devices[:1]
    mesh = make_mesh(MeshConfig(), devices)
    config = for_platform(config, devices[0].platform)
    train_system = build_train_system(config)
    system = inference_system(train_system)
    sampling = dataclasses.replace(config.sampling, sketch_guidance=1.0)
    options = InferenceOptions.from_config(sampling)
    params = _abstract_params(train_system, jnp.dtype(config.model.dtype))
    report = header("memory", config, mesh) | {"batch_size": 1, "topology": topology}
    report["parameters"] = {name: _bytes(tree) for name, tree in params.items()}
    report["programs"] = _compile_all(system, options, params, config, mesh)
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
        phase = PHASES.get(name, name)
        held = ENCODERS if phase == "encoders" else NETWORKS[name]
        needed = sum(parameters[network] for network in held) + memory["total"]
        phases[phase] = max(needed, phases.get(phase, 0))
    return {
        "resident": everything + max(memory["total"] for memory in found.values()),
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


def _compile_all(
    system: System, options: InferenceOptions, params: Params, config: Config, mesh: Mesh
) -> dict[str, dict[str, int]]:
    """Memory of every program beside its parameters."""

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
    traced = jax.tree.map(_shape, make_traced_options(system, options))
    latents = floats(1, *(side // system.cell for side in size), colorizer.unet.out_channels)
    calls: dict[str, tuple[Any, tuple[Any, ...], tuple[Any, ...]]] = {
        "encode_references": (programs.encode_references, (system,), tuple(pictures)),
        "encode_sketches": (programs.encode_sketches, (system,), (sketch,)),
        "denoise": (
            programs.denoise,
            (system, make_static_options(system, options)),
            (inputs, traced),
        ),
        "decode": (programs.decode, (system,), (latents,)),
    }
    found = {}
    with jax.set_mesh(mesh):
        for name, (program, static, rest) in calls.items():
            own = {network: params[network] for network in NETWORKS[name]}
            where = jax.tree.map(lambda _: replicated(mesh), (own, *rest))
            arguments = with_shardings((own, *rest), where)
            memory = program_memory(program.lower(*static, *arguments).compile())
            # With the padding of their layouts the compiler counts them among its arguments.
            memory["arguments"] = max(0, memory["arguments"] - _bytes(own))
            memory["total"] -= _bytes(own)
            found[name] = memory
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
