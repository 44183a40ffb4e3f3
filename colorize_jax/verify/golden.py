"""Golden cases: numbers of the published code on small models with weights from a formula.

A case is a folder with `case.json` (component, config, weights), `inputs.safetensors` and
`outputs.safetensors`, all in PyTorch layout.
"""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from colorize_jax.errors import UserError


@dataclass(frozen=True)
class GoldenCase:
    """One loaded case.

    Attributes:
        name: the folder's name.
        folder: where it lies; cases named in `config["weights_from"]` are its neighbours.
        component: what the case computes, e.g. "unet".
        config: the published constructor's arguments.
        spec: the content of `case.json`.
        inputs: name -> array, PyTorch layout.
        outputs: name -> expected array, PyTorch layout.
    """

    name: str
    folder: Path
    component: str
    config: dict[str, Any]
    spec: dict[str, Any]
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]


def load_case(folder: str | Path) -> GoldenCase:
    """Load one case.

    Raises:
        UserError: a file of the case is missing or unreadable.
    """
    folder = Path(folder)
    try:
        spec = json.loads((folder / "case.json").read_text())
        inputs = safetensors.numpy.load_file(folder / "inputs.safetensors")
        outputs = safetensors.numpy.load_file(folder / "outputs.safetensors")
        component = spec["component"]
    except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise UserError(
            f"got golden case {folder} that cannot be read ({type(error).__name__}: {error}), "
            "expected case.json with a component, inputs.safetensors and outputs.safetensors; "
            "copy the case again"
        ) from error
    config = spec.get("config", {})
    return GoldenCase(folder.name, folder, component, config, spec, inputs, outputs)


def find_cases(folder: str | Path, name: str | None = None) -> list[Path]:
    """List the cases inside `folder` (or `folder` itself where it is a case), sorted by name.

    Args:
        folder: where to look.
        name: only the case of this name.

    Raises:
        UserError: there is no such case.
    """
    folder = Path(folder)
    if (folder / "case.json").is_file():
        cases = [folder]
    else:
        cases = sorted(path.parent for path in folder.glob("*/case.json"))
    if not cases:
        raise UserError(
            f"got {folder} without golden cases, expected a folder of folders with case.json; "
            "check the path"
        )
    if name is not None:
        names = [path.resolve().name for path in cases]
        cases = [path for path, known in zip(cases, names, strict=True) if known == name]
        if not cases:
            raise UserError(
                f"got case {name!r}, expected one of {', '.join(names)}; check the name"
            )
    return cases


def weights(case: GoldenCase | dict[str, Any]) -> dict[str, np.ndarray]:
    """Compute the weights of a case: name -> float32 array of float16 values, PyTorch layout.

    Args:
        case: a loaded case or the content of its `case.json`.
    """
    spec = case.spec if isinstance(case, GoldenCase) else case
    definition = spec["weights"]
    seed, gain = definition["seed"], definition["gain"]
    return {
        name: _tensor(name, tuple(shape), seed, gain)
        for name, shape in definition["tensors"].items()
    }


def weights_from(case: GoldenCase) -> dict[str, dict[str, np.ndarray]]:
    """Compute the weights of the cases that a case's config names: case name -> tensors."""
    names = case.config["weights_from"]
    names = [names] if isinstance(names, str) else names
    return {name: weights(load_case(case.folder.parent / name)) for name in names}


def relative_error(ours: Any, expected: Any) -> float:
    """||ours - expected|| / ||expected||; infinite where shapes differ or ours is not finite."""
    ours, expected = np.asarray(ours, np.float64), np.asarray(expected, np.float64)
    if ours.shape != expected.shape or not np.isfinite(ours).all():
        return float("inf")
    difference, scale = np.linalg.norm(ours - expected), np.linalg.norm(expected)
    if scale == 0:
        return float(difference)
    return float(difference / scale)


def _tensor(name: str, shape: tuple[int, ...], seed: int, gain: float) -> np.ndarray:
    generator = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32)
    noise = generator.standard_normal(shape).astype(np.float32)
    if "logit_scale" in name:
        value = 2 + 0.3 * noise
    elif len(shape) >= 2:
        value = noise * np.float32(gain / np.sqrt(np.prod(shape[1:])))
    elif name.endswith("weight"):
        value = 1 + 0.1 * noise
    else:
        value = 0.1 * noise
    return value.astype(np.float16).astype(np.float32)
