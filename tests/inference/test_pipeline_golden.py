"""The whole inference against the published code's numbers, and its speed."""

import time
from pathlib import Path

import jax
import numpy as np
import pytest
import small_system

from colorize_jax.inference.options import InferenceOptions
from colorize_jax.inference.pipeline import ColorizePipeline
from colorize_jax.types import Conditions
from colorize_jax.verify import verify_folder

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.slow
def test_golden():
    checks = list(verify_folder(GOLDEN, "pipeline"))
    assert checks and all(check.passed for check in checks), checks


@pytest.mark.slow
def test_a_second_call_costs_its_steps_and_little_more():
    networks = small_system.make_networks()
    pipeline, system = ColorizePipeline(networks), networks.system
    steps = 200
    options = InferenceOptions(sampler="Euler", steps=steps, reference_guidance=1.0, seed=0)
    sketch, reference = small_system.make_pictures()
    pipeline(sketch, reference, options)

    random = np.random.default_rng(0)
    arguments = (
        random.standard_normal((1, 8, 8, small_system.LATENTS)).astype(np.float32),
        np.array([500.0], np.float32),
        Conditions(
            random.standard_normal((1, 16, 24)).astype(np.float32),
            tuple(
                np.zeros((1, side, side, channels), np.float32)
                for side, channels in ((8, 32), (4, 32), (4, 64))
            ),
            np.zeros((1, 32), np.float32),
        ),
    )
    forward = jax.jit(system.colorizer.denoise)
    params = networks.params("unet")
    jax.block_until_ready(forward(params, *arguments))

    def best(run, repeats=5):
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        return min(times)

    one = best(lambda: jax.block_until_ready(forward(params, *arguments)), 50)
    whole = best(lambda: pipeline(sketch, reference, options))
    print(f"one UNet call {one * 1e3:.2f} ms, picture of {steps} steps {whole * 1e3:.1f} ms")
    assert whole <= 1.2 * steps * one
