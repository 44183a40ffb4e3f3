"""What a process asks of its GPUs: its share of their memory, and the options of XLA's compiler.

One place for runs and for what is compiled ahead. What the environment already says (XLA_FLAGS,
XLA_CLIENT_MEM_FRACTION) is left as it is.
"""

import importlib.util
import os
import re
from collections.abc import MutableMapping
from dataclasses import dataclass
from importlib.metadata import version
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
        until: the first version of jaxlib whose compiler has no such option; "": all have it.
    """

    name: str
    value: bool | int | str
    why: str
    until: str = ""

    def exists(self) -> bool:
        """Whether the installed compiler has it."""
        return not self.until or _numbers(version("jaxlib")) < _numbers(self.until)


FLAGS = (
    Flag("xla_gpu_enable_latency_hiding_scheduler", True, "collectives run beside products"),
    *(
        Flag(
            f"xla_gpu_enable_pipelined_{name}",
            True,
            "loops send a round beside the products of another",
            until="0.11.2",
        )
        for name in ("all_gather", "reduce_scatter", "all_reduce")
    ),
    # Triton's products seldom win against cuBLAS here, and while they are candidates no product
    # adds a bias or a residual in its own kernel.
    Flag("xla_gpu_enable_triton_gemm", False, "cuBLAS adds biases and residuals"),
    Flag("xla_gpu_dot_merger_threshold_mb", 0, "queries, keys and values need no slices"),
    # A product whose result is used and kept for the backward pass would be computed twice.
    Flag("xla_gpu_enable_dynamic_slice_fusion", False, "no product is computed twice"),
    # A step's results lie elsewhere every time, and every time its graphs were made anew.
    Flag("xla_gpu_enable_command_buffer", "", "no CUDA graphs are updated in every step"),
)
# Of a compiler without a card, which cannot try kernels out: cuBLAS's and cuDNN's first choice.
AHEAD = {"xla_gpu_autotune_level": 0}


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
    added = [flag for flag in FLAGS if flag.exists() and f"--{flag.name}" not in given]
    texts = [f"--{flag.name}={_text(flag.value)}" for flag in added]
    environment["XLA_FLAGS"] = " ".join([*texts, given]).strip()
    told += [f"GPU: {text} ({flag.why})" for text, flag in zip(texts, added, strict=True)]
    return told


def compiler_options() -> dict[str, bool | int | str]:
    """Options under which a program is compiled for cards that are not there."""
    return {flag.name: flag.value for flag in FLAGS if flag.exists()} | AHEAD


def _has_gpus(environment: MutableMapping[str, str]) -> bool:
    platforms = environment.get("JAX_PLATFORMS", "cuda").split(",")
    wanted = any(name in ("cuda", "gpu", "") for name in platforms)
    installed = any(importlib.util.find_spec(name) for name in PLUGINS)
    return wanted and installed and any(Path(name).exists() for name in DRIVERS)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:3])


def _text(value: bool | int | str) -> str:
    return str(value).lower()
