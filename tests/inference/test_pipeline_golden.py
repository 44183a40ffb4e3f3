"""The whole inference against the published code's numbers, and its speed."""

import time
from pathlib import Path

import jax
import numpy as np
import pytest
import small_system

from colorize_jax.config.load import load_config
from colorize_jax.diffusion.schedule import make_schedule
from colorize_jax.inference.options import InferenceOptions
from colorize_jax.inference.pictures.sizes import SizeLimits
from colorize_jax.inference.pipeline import ColorizePipeline
from colorize_jax.inference.system import Networks, System
from colorize_jax.models.architectures import abstract_params
from colorize_jax.setup.networks import build_colorizer, build_encoders, network_configs
from colorize_jax.types import Conditions
from colorize_jax.verify import verify_folder

GOLDEN = Path(__file__).parents[1] / "golden"
CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.slow
def test_golden():
    checks = list(verify_folder(GOLDEN, "pipeline"))
    assert checks and all(check.passed for check in checks), checks


@pytest.mark.slow
def test_a_second_call_costs_its_steps_and_little_more():
    """In processor time, which does not depend on what else the machine does."""
    config = load_config(CONFIGS / "tiny.py")
    limits = SizeLimits(64, 16, 4, 16)
    colorizer, encoders = build_colorizer(config), build_encoders(config)
    system = System(colorizer, encoders, make_schedule(), "v", limits=limits)
    random = np.random.default_rng(0)

    def draw(leaf):
        return (random.standard_normal(leaf.shape) / 16).astype(np.float32)

    abstract = {name: abstract_params(name, c) for name, c in network_configs(config).items()}
    params = jax.tree.map(draw, abstract)
    readers = {name: (lambda tree=tree: tree) for name, tree in params.items()}
    readers |= {name: dict for name in ("vae", "clip_vision", "tagger")}
    pipeline = ColorizePipeline(Networks(system, readers))
    options = InferenceOptions(sampler="Euler", steps=20, reference_guidance=1.0, seed=0)
    sketch, reference = small_system.make_pictures(height=64, width=64)

    picture = pipeline.read_sketch(sketch, pipeline.read_reference(reference, options), options)
    inputs = pipeline.condition([picture], options, [0])
    conditions = Conditions(inputs.context, inputs.hints, inputs.vector)
    noise, t = random.standard_normal((1, 16, 16, 48)).astype(np.float32), np.float32([500])
    forward, unet = jax.jit(colorizer.denoise), {"unet": params["unet"]}

    def seconds(run, repeats):
        run()
        start = time.process_time()
        for _ in range(repeats):
            run()
        return (time.process_time() - start) / repeats

    one = seconds(lambda: jax.block_until_ready(forward(unet, noise, t, conditions)), 60)
    whole = seconds(lambda: pipeline(sketch, reference, options), 5)
    print(f"one UNet call {one * 1e3:.1f} ms, a picture of 20 steps {whole * 1e3:.0f} ms")
    assert whole <= 1.2 * 20 * one
