"""What a process asks of its GPUs: its share of their memory, and the options of XLA's compiler.

One place for runs and for what is compiled ahead. What the environment already says (XLA_FLAGS,
XLA_CLIENT_MEM_FRACTION) is left as it is.
"""

import importlib.util
import os
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path

# Of a card's memory. JAX's own share, 0.75, leaves a quarter unused; CUDA, its libraries and NCCL's
# buffers need the rest (NVIDIA's guide for JAX: 0.8 to 0.9).
MEMORY_FRACTION = 0.9
MEMORY_VARIABLES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
PLUGINS = ("jax_cuda13_plugin", "jax_cuda12_plugin")
DRIVERS = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg")


@dataclass(frozen=True)
class Flag:
    """One option of the compiler.

    Attributes:
        name: as XLA_FLAGS has it.
        value: of it.
        why: what it changes.
    """

    name: str
    value: bool | int
    why: str


FLAGS = (Flag("xla_gpu_enable_latency_hiding_scheduler", True, "collectives run beside products"),)
# Of a compiler without a card, which cannot try kernels out: the default of cuBLAS and cuDNN is
# taken, and no Triton product, since those need tiles that were tried (some sizes fail without).
AHEAD = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}


def configure(environment: MutableMapping[str, str] = os.environ) -> list[str]:
    """Prepare a process for its GPUs, where there are any; before JAX looks for devices.

    Args:
        environment: variables, which JAX and XLA read; changed.

    Returns:
        What was set, as lines to be shown; nothing without GPUs.
    """
    if not _has_gpus(environment):
        return []
    told = []
    if not any(name in environment for name in MEMORY_VARIABLES):
        environment[MEMORY_VARIABLES[0]] = str(MEMORY_FRACTION)
        told.append(f"GPU: {MEMORY_VARIABLES[0]}={MEMORY_FRACTION} (share of a card's memory)")
    given = environment.get("XLA_FLAGS", "")
    added = [flag for flag in FLAGS if f"--{flag.name}" not in given]
    texts = [f"--{flag.name}={_text(flag.value)}" for flag in added]
    environment["XLA_FLAGS"] = " ".join([*texts, given]).strip()
    told += [f"GPU: {text} ({flag.why})" for text, flag in zip(texts, added, strict=True)]
    return told


def compiler_options() -> dict[str, bool | int]:
    """Options under which a program is compiled for cards that are not there."""
    return {flag.name: flag.value for flag in FLAGS} | AHEAD


def _has_gpus(environment: MutableMapping[str, str]) -> bool:
    platforms = environment.get("JAX_PLATFORMS", "cuda").split(",")
    wanted = any(name in ("cuda", "gpu", "") for name in platforms)
    installed = any(importlib.util.find_spec(name) for name in PLUGINS)
    return wanted and installed and any(Path(name).exists() for name in DRIVERS)


def _text(value: bool | int) -> str:
    return str(value).lower()
