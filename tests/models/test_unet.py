"""The UNet: golden cases, manifests at full size, and the ways to share its prefix."""

import gzip
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax.errors import UserError
from colorize_jax.io.published import torch_names
from colorize_jax.models.unet import UNet, touch
from colorize_jax.models.unet_controls import Controls
from colorize_jax.nn.transformer import STACK, SpatialTransformer
from colorize_jax.verify import verify_folder

GOLDEN = Path(__file__).parents[1] / "golden"
MANIFESTS = Path(__file__).parents[1] / "io" / "manifests"
TINY = UNet(
    model_channels=32,
    channel_mult=(1, 2),
    num_res_blocks=1,
    transformer_depth=(0, 2),
    head_dim=16,
    context_channels=24,
    vector_channels=16,
    hint_blocks=(0, 2),
)


def apply(params, *args, module=TINY, **options):
    """A compiled `module.apply`; what is no array is static."""
    return jax.jit(lambda params, args: module.apply(params, *args, **options))(params, args)


@pytest.fixture(scope="module")
def tiny() -> tuple[dict, tuple]:
    """Parameters with noise everywhere, and (latents, timesteps, context, hints, vector)."""
    random = np.random.default_rng(0)

    def normal(shape, scale=1.0):
        return jnp.asarray(scale * random.standard_normal(shape), jnp.float32)

    abstract = jax.eval_shape(lambda: TINY.init(jax.random.key(0), *touch(TINY)))
    params = jax.tree.map(lambda p: normal(p.shape, 0.2), abstract)
    hints = tuple(normal((2, size, size, 32)) for size in (8, 4))
    latents, context, vector = normal((2, 8, 8, 4)), normal((2, 6, 24)), normal((2, 16))
    return params, (latents, jnp.array([3.0, 700.0]), context, hints, vector)


@pytest.mark.parametrize("case", ["unet", "unet_split_attention", "lora"])
def test_golden(case: str) -> None:
    checks = list(verify_folder(GOLDEN, case))
    assert checks and all(check.passed for check in checks), checks


@pytest.mark.slow
@pytest.mark.parametrize("case", ["plugin", "plugin_step", "plugin_inference"])
def test_golden_plugin(case: str) -> None:
    checks = list(verify_folder(GOLDEN, case))
    assert checks and all(check.passed for check in checks), checks


def _names(module: UNet, prefix: str) -> dict[str, tuple[int, ...]]:
    abstract = jax.eval_shape(lambda: module.init(jax.random.key(0), *touch(module)))["params"]
    return {slot.name: slot.shape for slot in torch_names.slots("unet", abstract, prefix=prefix)}


@pytest.mark.parametrize(
    ("manifest", "prefix", "module"),
    [
        ("colorizer_xl", "model.diffusion_model.", UNet()),
        (
            "colorizer_xl_plugin",
            "model.diffusion_model.",
            UNet(loras=(("background", 4),), foreground_channels=4),
        ),
        (
            "colorizer_xl_plugin",
            "bg_encoder.",
            UNet(in_channels=6, context_channels=0, vector_channels=1024, num_output_blocks=7),
        ),
    ],
)
def test_full_size_names_and_shapes(manifest: str, prefix: str, module: UNet) -> None:
    content = gzip.decompress((MANIFESTS / f"{manifest}.json.gz").read_bytes())
    tensors = json.loads(content)["tensors"]
    expected = {n: tuple(s) for n, s in tensors.items() if n.startswith(prefix)}
    assert _names(module, prefix) == expected


def test_blocks_are_counted_from_one() -> None:
    unet = UNet()
    assert sum(unet.stacks().values()) == 70
    assert unet.locate(23) == ("input_blocks_8_1", 8)
    assert unet.locate(63) == ("output_blocks_2_1", 8)
    assert unet.locate("output_blocks.2.1.transformer_blocks.8") == unet.locate(63)
    with pytest.raises(UserError, match=r"got transformer block 71, expected 1\.\.70"):
        unet.locate(71)


def test_prefix_does_not_see_the_context_and_serves_two_bodies(tiny) -> None:
    params, (latents, timesteps, context, hints, vector) = tiny
    unet_state = apply(params, latents, timesteps, vector, hints, method="prefix")
    for tokens in (context, context[::-1]):
        kv = apply(params, tokens, method="project_context")
        shared, _ = apply(params, unet_state, kv, hints, method="body")
        alone, _ = apply(params, latents, timesteps, tokens, hints, vector)
        np.testing.assert_allclose(shared, alone, atol=1e-4)


def test_no_context_is_the_zero_context_in_whole_or_in_part(tiny) -> None:
    params, (latents, timesteps, context, hints, vector) = tiny
    zeros, _ = apply(params, latents, timesteps, jnp.zeros_like(context), hints, vector)
    without, _ = apply(params, latents, timesteps, None, hints, vector)
    np.testing.assert_allclose(without, zeros, atol=1e-5)

    unet_state = apply(params, latents, timesteps, vector, hints, method="prefix")
    kv = apply(params, context[:1], method="project_context")
    mixed, _ = apply(params, unet_state, kv, hints, method="body")
    full, _ = apply(params, latents, timesteps, context, hints, vector)
    np.testing.assert_allclose(mixed[0], full[0], atol=1e-5)
    np.testing.assert_allclose(mixed[1], zeros[1], atol=1e-5)


@pytest.mark.parametrize("until", [("output_blocks_0_1", 1), ("input_blocks_3_1", 2)])
def test_a_forward_can_stop_and_go_on(tiny, until) -> None:
    params, (latents, timesteps, context, hints, vector) = tiny
    stacks = list(TINY.stacks())
    wanted = tuple((stack, "attn1") for stack in stacks[: stacks.index(until[0]) + 1])

    @jax.jit
    def parts(params):
        unet_state = TINY.apply(params, latents, timesteps, vector, hints, method="prefix")
        kv = TINY.apply(params, context, method="project_context")
        options = {"method": "body"}
        unet_state, features = TINY.apply(
            params, unet_state, kv, hints, collect=wanted, until=until, **options
        )
        return TINY.apply(params, unet_state, kv, hints, **options)[0], features

    whole, expected = apply(params, latents, timesteps, context, hints, vector, collect=wanted)
    prediction, features = parts(params)
    np.testing.assert_allclose(prediction, whole, atol=1e-4)
    for place in wanted:
        count = until[1] if place[0] == until[0] else TINY.stacks()[place[0]]
        assert features[place].shape[0] == count
        np.testing.assert_allclose(features[place], expected[place][:count], atol=1e-5)


def test_the_tap_of_a_stack_is_what_the_stack_puts_out(tiny) -> None:
    """Behind its outer residual, whether or not the forward ends there."""
    params, inputs = tiny
    stacks = list(TINY.stacks())
    wanted = tuple((stack, STACK) for stack in stacks)

    def collect(module_params, **options):
        return TINY.apply(module_params, *inputs, collect=wanted, **options)

    def is_output(module, method) -> bool:
        return isinstance(module, SpatialTransformer) and method == "__call__"

    _, whole = collect(params)
    _, variables = collect(params, capture_intermediates=is_output, mutable="intermediates")
    until = stacks[1], TINY.stacks()[stacks[1]]
    _, part = TINY.apply(params, *inputs, collect=wanted[:2], until=until)
    for place in wanted:
        output, _ = variables["intermediates"][place[0]]["__call__"][0]
        tokens = output.reshape(1, len(output), -1, output.shape[-1])
        np.testing.assert_allclose(whole[place], tokens, atol=1e-5)
        if place in part:
            np.testing.assert_allclose(part[place], tokens, atol=1e-5)
    assert set(part) == set(wanted[:2])


def test_rematerialization_changes_memory_and_nothing_else(tiny) -> None:
    params, inputs = tiny
    frugal = TINY.clone(remat=jax.checkpoint_policies.nothing_saveable)

    def loss(params, module):
        return jnp.sum(module.apply(params, *inputs)[0] ** 2)

    plain = jax.jit(jax.value_and_grad(loss), static_argnums=1)(params, TINY)
    saved = jax.jit(jax.value_and_grad(loss), static_argnums=1)(params, frugal)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-4), plain, saved)


def test_strength_of_each_block(tiny) -> None:
    params, inputs = tiny
    total = sum(TINY.stacks().values())

    def predict(strength):
        return apply(params, *inputs, controls=Controls(reference_strength=strength))[0]

    plain = apply(params, *inputs)[0]
    np.testing.assert_allclose(predict(jnp.ones(total)), plain, atol=1e-6)
    np.testing.assert_allclose(predict(jnp.float32(0.3)), predict(jnp.full(total, 0.3)), atol=1e-6)
    last = predict(jnp.ones(total).at[-1].set(0.0))
    assert float(jnp.abs(last - plain).max()) > 1e-4


def test_hints_that_do_not_fit_their_block_are_named(tiny):
    params, (latents, timesteps, context, hints, vector) = tiny
    message = "got a hint of 4x4x32 for input block 0, expected 8x8x32"
    with pytest.raises(UserError, match=message):
        apply(params, latents, timesteps, context, hints[::-1], vector)
