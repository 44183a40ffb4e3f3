"""The FLOP count: by hand, and against what the published networks are known to cost."""

import jax
import jax.numpy as jnp
import pytest
from jax import ShapeDtypeStruct

from colorize_jax.analysis.flops import count_flops
from colorize_jax.models.frozen.clip_vision import ClipVision
from colorize_jax.models.frozen.vae import Vae
from colorize_jax.models.reference_projection import ReferenceProjection
from colorize_jax.models.unet import UNet, touch

# One image, matrix products and convolutions, 2 per multiply-add; counted on the PyTorch networks.
PUBLISHED = {
    "unet_forward_1024x1024": 6892250071040,
    "unet_forward_768x768": 3750386073600,
    "unet_forward_512x512": 1682358272000,
    "unet_forward_1536x1536": 17454451261440,
    "reference_projection": 7200576512,
    "clip_vit_bigg_224": 967496032256,
    "vae_encode_1024": 4878948630528,
    "vae_decode_1024": 10470392070144,
}


def floats(*shape):
    return ShapeDtypeStruct(shape, jnp.float32)


def convolution(x, kernel, **options):
    options = {"window_strides": (1, 1), "padding": "SAME"} | options
    return jax.lax.conv_general_dilated(
        x, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
    )


def test_products_by_hand():
    a, b = floats(5, 2, 3), floats(5, 3, 4)
    assert count_flops(jnp.matmul, a, b) == 2 * 5 * 2 * 3 * 4
    both = count_flops(jax.grad(lambda a, b: jnp.sum((a @ b) ** 2), (0, 1)), a, b)
    assert both == 3 * 2 * 5 * 2 * 3 * 4


def test_convolutions_by_hand():
    x, kernel = floats(2, 8, 8, 3), floats(3, 3, 3, 5)
    forward = 2 * (2 * 4 * 4 * 5) * (3 * 3 * 3)

    def strided(x, kernel):
        return convolution(x, kernel, window_strides=(2, 2))

    assert count_flops(strided, x, kernel) == forward
    gradients = jax.grad(lambda x, kernel: jnp.sum(strided(x, kernel) ** 2), (0, 1))
    assert count_flops(gradients, x, kernel) == 3 * forward
    grouped = count_flops(
        lambda x, k: convolution(x, k, feature_group_count=3), x, floats(3, 3, 1, 6)
    )
    assert grouped == 2 * (2 * 8 * 8 * 6) * (3 * 3)


def test_control_flow_and_what_is_not_needed():
    x = floats(4, 4)
    product = 2 * 4**3

    def scanned(x):
        return jax.lax.scan(
            lambda x, _: (jax.checkpoint(jax.jit(jnp.matmul))(x, x), None), x, None, 7
        )

    assert count_flops(scanned, x) == 7 * product

    def branched(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

    assert count_flops(branched, x) == 2 * product
    assert count_flops(branched, x, choose=min) == product

    def looped(x, count):
        return jax.lax.fori_loop(0, count, lambda _, x: x @ x, x)

    count = ShapeDtypeStruct((), jnp.int32)
    assert count_flops(looped, x, count, while_trips=3) == 3 * product

    def wasteful(x):
        _ = x @ x
        return x

    assert count_flops(wasteful, x) == 0


def test_kernels_that_cannot_be_seen_into_are_refused():
    from jax.experimental import pallas as pl

    def kernel(x_ref, y_ref):
        y_ref[...] = x_ref[...] @ x_ref[...]

    call = pl.pallas_call(kernel, out_shape=floats(8, 8), interpret=True)
    with pytest.raises(ValueError, match="got pallas_call"):
        count_flops(call, floats(8, 8))


@pytest.fixture(scope="module")
def unet_params():
    return jax.eval_shape(lambda: UNet().init(jax.random.key(0), *touch(UNet())))


@pytest.mark.parametrize(
    ("side", "implementation"),
    [(512, "plain"), (768, "plain"), (1024, "plain"), (1536, "plain"), (1536, "blockwise")],
)
def test_unet(unet_params, side, implementation):
    unet = UNet(implementation=implementation)
    latents = floats(1, side // 8, side // 8, 4)
    inputs = (latents, floats(1), floats(1, 196, 2048), None, floats(1, 512))
    expected = PUBLISHED[f"unet_forward_{side}x{side}"]
    # Blocks of queries may be padded; without blocks the count is exact.
    tolerance = 0 if implementation == "plain" else 0.01
    assert count_flops(unet.apply, unet_params, *inputs) == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize(
    ("name", "module", "inputs", "method"),
    [
        (
            "reference_projection",
            ReferenceProjection(),
            (floats(1, 257, 1280), floats(1, 196, 1024)),
            "__call__",
        ),
        ("clip_vit_bigg_224", ClipVision(), (floats(1, 224, 224, 3),), "__call__"),
        ("vae_encode_1024", Vae(), (floats(1, 1024, 1024, 3),), "encode"),
        ("vae_decode_1024", Vae(), (floats(1, 128, 128, 4),), "decode"),
    ],
)
def test_other_networks(name, module, inputs, method):
    first = (floats(1, 64, 64, 3),) if name.startswith("vae") else inputs
    params = jax.eval_shape(module.init, jax.random.key(0), *first)

    def run(params, *inputs):
        return module.apply(params, *inputs, method=method)

    assert count_flops(run, params, *inputs) == pytest.approx(PUBLISHED[name], rel=0.01)
