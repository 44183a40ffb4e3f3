"""Check our modules against golden cases: numbers of the published code on small random models.

The runner of a component imports a case's weights, runs our modules on its inputs, and returns
outputs under the case's names in PyTorch layout. It must return every output that the case expects;
a case whose runner raises has failed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import jax
import numpy as np

from colorize_jax.verify import golden
from colorize_jax.verify.golden import GoldenCase

Runner = Callable[[GoldenCase], dict[str, np.ndarray]]

# Component -> module and function that run it; modules load only when a case needs them.
RUNNERS = {
    "schedule": ("diffusion", "run_schedule"),
    "samplers": ("diffusion", "run_samplers"),
    "size_embedding": ("networks", "run_size_embedding"),
    "sketch_encoder": ("networks", "run_sketch_encoder"),
    "reference_projection": ("networks", "run_reference_projection"),
    "unet": ("unet", "run_unet"),
    "unet_split_attention": ("unet", "run_unet_split_attention"),
    "plugin": ("plugin", "run_plugin"),
    "plugin_step": ("plugin_step", "run_plugin_step"),
    "plugin_inference": ("plugin_inference", "run_plugin_inference"),
    "lora": ("unet", "run_lora"),
    "vae": ("encoders", "run_vae"),
    "clip_vision": ("encoders", "run_clip_vision"),
    "tagger": ("encoders", "run_tagger"),
    "gram": ("training", "run_gram"),
    "training_step": ("training_step", "run_training_step"),
    "pipeline": ("pipeline", "run_pipeline"),
}

# Largest relative error by component; "*" where an output has none of its own. The longest prefix
# of an output's name wins.
TOLERANCES = {
    "unet": {"*": 1e-4},
    "unet_split_attention": {"*": 1e-4},
    "plugin": {"*": 1e-4},
    "plugin_step": {"*": 1e-5, "prediction": 1e-4, "gradient": 1e-3},
    "plugin_inference": {"*": 1e-4},
    "gram": {"*": 1e-5},
    "training_step": {"*": 1e-5, "gradient": 1e-3},
    "samplers": {"*": 1e-5},
    "pipeline": {"*": 2e-5, "latents": 5e-4, "image": 1e-3},
}
DEFAULT_TOLERANCE = 2e-5


@dataclass(frozen=True)
class Check:
    """One compared output.

    Attributes:
        case: the case's name.
        component: what it computes.
        output: the output's name, or what kept the case from running.
        error: relative error; infinite where the case could not be run.
        tolerance: largest error that passes.
    """

    case: str
    component: str
    output: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance (a NaN is not)."""
        return self.error <= self.tolerance


def tolerance(component: str, output: str) -> float:
    """Return the largest relative error at which an output passes."""
    table = TOLERANCES.get(component, {})
    matching = [prefix for prefix in table if output.startswith(prefix)]
    best = max(matching, key=len, default="*")
    return table.get(best, DEFAULT_TOLERANCE)


def verify_folder(folder: str | Path, name: str | None = None) -> Iterator[Check]:
    """Run every case in a folder of cases, or the one called `name`.

    Yields:
        A `Check` for every expected output.

    Raises:
        UserError: there is no such case.
    """
    for path in golden.find_cases(folder, name):
        yield from verify_case(golden.load_case(path))


def verify_case(case: GoldenCase) -> Iterator[Check]:
    """Run one case in float32 with full-precision matrix products."""

    def failed(reason: str) -> Check:
        return Check(case.name, case.component, reason, float("inf"), 0.0)

    if case.component not in RUNNERS:
        yield failed("no runner for this component")
        return
    module, function = RUNNERS[case.component]
    runner: Runner = getattr(import_module(f"colorize_jax.verify.{module}"), function)
    try:
        with jax.default_matmul_precision("highest"):
            outputs = runner(case)
    except Exception as error:  # any exception is a failed case, not the end of the check
        reason = " ".join(str(error).split())[:300]
        yield failed(f"could not run: {type(error).__name__}: {reason}")
        return
    for output, expected in case.outputs.items():
        if output not in outputs:
            yield failed(f"{output}: not computed")
            continue
        error = golden.relative_error(outputs[output], expected)
        yield Check(case.name, case.component, output, error, tolerance(case.component, output))
