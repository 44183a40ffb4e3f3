"""Tests run on CPU with full-precision float32 matrix products."""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Small networks compile for longer than they run: tests are faster without optimizations.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)
# Many tests run the same programs, in processes of their own too: each is compiled once.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "programs")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

# Code of pipeline folders is copied there by diffusers, each process's to its own place.
os.environ.setdefault("HF_MODULES_CACHE", f"{tempfile.gettempdir()}/modules-{os.getpid()}")

import jax

jax.config.update("jax_default_matmul_precision", "highest")
