"""What a sampling step costs, counted on the traced published networks at 1024 px."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax import ShapeDtypeStruct

from colorize_jax.analysis.flops import count_flops
from colorize_jax.conditioning import FrozenEncoders
from colorize_jax.diffusion.schedule import make_schedule
from colorize_jax.inference import programs
from colorize_jax.inference.options import InferenceOptions
from colorize_jax.inference.program_options import make_static_options, make_traced_options
from colorize_jax.inference.sampling import SamplingInputs
from colorize_jax.inference.system import System
from colorize_jax.models.architectures import abstract_params, build, published_config
from colorize_jax.models.colorizer import Colorizer

FORWARD = 6_892_250_071_040  # of the plain UNet, one picture of 1024 px
NETWORKS = ("unet", "sketch_encoder", "reference_projection", "vae", "clip_vision", "tagger")
PLUGIN = {"loras": [["background", 4]], "foreground_channels": 4}


def floats(*shape):
    return ShapeDtypeStruct(shape, jnp.float32)


@functools.cache
def published(plugin=False):
    """The published system without its weights."""
    configs = {name: published_config(name) for name in (*NETWORKS, "background_encoder")}
    if plugin:
        configs["unet"] |= PLUGIN
    modules = {name: build(name, config) for name, config in configs.items()}
    modules["unet"] = modules["unet"].clone(implementation="plain")
    modules["background_encoder"] = modules["background_encoder"].clone(implementation="plain")
    system = System(
        Colorizer(*(modules[name] for name in NETWORKS[:3])),
        FrozenEncoders(*(modules[name] for name in NETWORKS[3:])),
        make_schedule(),
        "v",
        modules["background_encoder"] if plugin else None,
    )
    names = ("unet", "background_encoder") if plugin else ("unet",)
    return system, {name: abstract_params(name, configs[name]) for name in names}


def pictures(batch=1, **more):
    """Conditions of pictures of 1024 px."""
    hints = ((128, 320), (64, 320), (32, 640), (32, 1280))
    return SamplingInputs(
        keys=jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batch)),
        vector=floats(batch, 512),
        hints=tuple(floats(batch, side, side, channels) for side, channels in hints),
        context=floats(batch, 196, 2048),
        **more,
    )


def cost(inputs, steps, plugin=False, **options):
    """FLOPs of a whole denoising loop of `steps` evaluations."""
    options = InferenceOptions(sampler="Euler", background_plugin=plugin, **options)
    system, params = published(plugin)
    traced = make_traced_options(system, options)
    static = make_static_options(system, options, inputs.context is not None)
    run = functools.partial(programs.denoise, system, static)
    return count_flops(run, params, inputs, traced, while_trips=steps)


def step_and_start(inputs, **options):
    """FLOPs of each step, and of what is done once before the first."""
    one, two = (cost(inputs, steps, **options) for steps in (1, 2))
    return two - one, one - (two - one)


@pytest.fixture(scope="module")
def projection():
    """FLOPs of the context's keys and values in all blocks."""
    system, params = published()
    return count_flops(system.colorizer.project_context, params, floats(1, 196, 2048))


def test_a_guided_step_costs_less_than_twice_a_plain_one(projection):
    plain, start = step_and_start(pictures(), reference_guidance=1.0)
    # A plain forward projects its context again and again.
    assert plain + projection == pytest.approx(FORWARD, rel=1e-3)
    assert start == projection
    guided, start = step_and_start(pictures())
    print(f"guided step: {guided / FORWARD:.4f} plain forwards")
    assert guided <= 1.86 * FORWARD
    assert start == projection


def test_guidance_by_both_shares_what_can_be_shared(projection):
    blank = tuple(floats(1, *hint.shape[1:]) for hint in pictures().hints)
    both, start = step_and_start(pictures(blank_hints=blank), sketch_guidance=2.0)
    print(f"step guided by both: {both / FORWARD:.4f} plain forwards")
    assert both <= 2.86 * FORWARD
    assert start == projection


def test_without_reference_there_is_no_cross_attention():
    without, start = step_and_start(pictures().replace(context=None), unconditional=True)
    guided, _ = step_and_start(pictures())
    plain, _ = step_and_start(pictures(), reference_guidance=1.0)
    # Both halves of a guided step begin with the same prefix, which is counted once.
    assert guided < plain + without
    assert start == 0


def test_the_bank_is_projected_once():
    tokens = {f"output_blocks_{i}_1": (10, 1024, 1280) for i in range(3)}
    tokens |= {f"output_blocks_{i}_1": (2, 4096, 640) for i in range(3, 6)}
    bank = {name: floats(L, 1, n, c) for name, (L, n, c) in tokens.items()}
    # With additions of its own the context costs a little more.
    mask = floats(1, 128, 128, 1)  # the plugin splits the context
    _, context = step_and_start(pictures(sketch_mask=mask), plugin=True)
    _, both = step_and_start(pictures(bank=bank, sketch_mask=mask), plugin=True)
    keys_and_values = 2 * sum(2 * L * n * c * c for L, n, c in tokens.values())
    assert both == context + keys_and_values
