"""The parts of the suite, each in a process of its own.

python -m colorize_jax.benchmark.parts NAME FOLDER CONFIG ITEM...      see `suite`
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp

from colorize_jax.benchmark import kernels, profile
from colorize_jax.benchmark.sample import benchmark_sample, sampling_config
from colorize_jax.benchmark.step import benchmark_step
from colorize_jax.benchmark.suite import ROWS, Row, write_row
from colorize_jax.config.load import load_config
from colorize_jax.config.options import Config
from colorize_jax.errors import UserError
from colorize_jax.setup.machine import platform
from colorize_jax.training.monitoring.throughput import peak_bandwidth, peak_flops

CALLS = 5  # of a step or a batch of pictures
SAMPLING_STEPS = 20
CACHE, FLOPS = "cache", "flops.json"

# (item, what is measured, the measurement)
Items = Iterator[tuple[str, str, Callable[[], Row]]]


def device(folder: Path, config: str, items: list[str]) -> Items:
    """Say what there is."""
    del folder, config

    def look() -> Row:
        found = jax.devices()[0]
        return {
            "platform": found.platform,
            "device": found.device_kind,
            "rate": f"{jax.device_count()} x {found.device_kind}, jax {jax.__version__}",
        }

    yield items[0], "what is here", look


def ceilings(folder: Path, config: str, items: list[str]) -> Items:
    """Matrix product and copy."""
    del folder, config
    on_cpu = jax.default_backend() == "cpu"
    yield (
        items[0],
        "matrix product, bfloat16",
        lambda: _computed(kernels.matrix_product(1024 if on_cpu else 8192)),
    )
    yield items[0], "copy, float32", lambda: _moved(kernels.copy(2 ** (22 if on_cpu else 28)))


def attentions(folder: Path, config: str, items: list[str]) -> Items:
    """Attention at the shapes of the published networks."""
    del folder, config
    on_cpu = jax.default_backend() == "cpu"
    shapes = kernels.SMALL_SHAPES if on_cpu else kernels.SHAPES
    dtype = jnp.float32 if on_cpu else jnp.bfloat16
    for name, call in kernels.attentions(shapes, 1 if on_cpu else 4, dtype):
        yield items[0], f"attention: {name}", lambda call=call: _computed(call())


def steps(folder: Path, config: str, items: list[str]) -> Items:
    """Training steps; an item is e.g. "dual 4": branches, pictures a device, rematerialization."""
    for item in items:
        branches, batch, *remat = item.split()
        count = int(batch) * jax.device_count()
        changes = [f"--config.model.remat={name}" for name in remat]
        own = sampling_config(load_config(config, changes), count)
        name = f"{Path(config).stem}, {'both branches' if branches == 'dual' else 'one branch'}"
        yield (
            item,
            f"{name}, batch {count}, remat {own.model.remat}",
            lambda own=own, branches=branches: _step(folder, own, branches),
        )


def samples(folder: Path, config: str, items: list[str]) -> Items:
    """Guided pictures; an item is e.g. "4 float8": the number of them a device, products."""
    del folder
    for item in items:
        batch, *products = item.split()
        own = load_config(config, [f"--config.model.products={name}" for name in products])
        count = int(batch) * jax.device_count()
        own = dataclasses.replace(
            own, sampling=dataclasses.replace(own.sampling, num_steps=SAMPLING_STEPS)
        )
        name = ", ".join(
            (Path(config).stem, f"{SAMPLING_STEPS} guided steps", f"batch {count}", *products)
        )
        yield (
            item,
            name,
            lambda own=own, count=count: _timed(
                benchmark_sample(own, count, CALLS)["programs"]["sample"]
            ),
        )


PARTS = {
    "device": device,
    "ceilings": ceilings,
    "attention": attentions,
    "step": steps,
    "sample": samples,
}


def _step(folder: Path, config: Config, branches: str) -> Row:
    """Time a step; what a picture costs is counted once for all batches."""
    path = folder / FLOPS
    known = json.loads(path.read_text()) if path.exists() else {}
    key, batch = f"{config.model.model_channels} {branches}", config.data.batch_size
    flops = round(known[key] * batch) if key in known else None
    report = benchmark_step(config, branches, CALLS, flops)
    program = report["programs"][branches]
    path.write_text(json.dumps(known | {key: program["flops"] / batch}))
    return _timed(program)


def _timed(program: Row) -> Row:
    memory = program["device_peak_bytes"] or program["memory"]["total"]
    return {
        "seconds": program["sustained_seconds"] or program["seconds"]["median"],
        "rate": f"{program['images_per_second']:.3g} images/s",
        "utilization": program["mfu"],
        "memory": memory,
        "note": profile.in_words(program["kernels"]),
        "details": program,
    }


def _computed(found: Row) -> Row:
    peak, rate = peak_flops(jax.devices()[0].device_kind), found["flops_per_second"]
    error = found.get("error")
    return found | {
        "rate": f"{rate / 1e12:.3g} TFLOP/s",
        "utilization": rate / peak if peak else None,
        "note": "" if error is None else f"error {error:.1e} of float32's largest value",
    }


def _moved(found: Row) -> Row:
    peak, rate = peak_bandwidth(jax.devices()[0].device_kind), found["bytes_per_second"]
    return found | {
        "rate": f"{rate / 1e9:.4g} GB/s",
        "utilization": rate / peak if peak else None,
    }


def main(arguments: list[str]) -> int:
    """Measure a part's items; one that fails is a row that says so."""
    name, folder, config, *items = arguments
    folder = Path(folder)
    settings = platform.configure()
    if name == "device":  # the others have the same
        print("\n".join(settings), flush=True)
    jax.config.update("jax_compilation_cache_dir", str(folder / CACHE))
    for item, what, call in PARTS[name](folder, config, items):
        row = {"part": name, "item": item, "what": what}
        try:
            row |= call()
        except (UserError, RuntimeError, ValueError) as error:
            row["note"] = _reason(error)
        write_row(folder / ROWS, row)
        jax.clear_caches()  # what it compiled may hold memory
    return 0


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    return f"does not fit: {text}" if "RESOURCE_EXHAUSTED" in text else f"failed: {text}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
