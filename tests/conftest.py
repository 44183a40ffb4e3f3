"""Tests run on CPU with full-precision float32 matrix products."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Small networks compile for longer than they run: tests are faster without optimizations.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)

import jax

jax.config.update("jax_default_matmul_precision", "highest")
