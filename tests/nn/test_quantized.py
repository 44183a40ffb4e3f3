"""Products of 8 bits: close to those of the full dtype, the same wherever kernels are rounded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax.models.colorizer import Colorizer
from colorize_jax.models.unet import UNet
from colorize_jax.nn.layers import Dense, LayerNorm
from colorize_jax.nn.quantized import (
    PRODUCTS,
    ROUNDED,
    Rounded,
    multiply,
    round_kernel,
    round_kernels,
    round_normed,
)
from colorize_jax.nn.transformer import unstack
from tests.nn.test_transformer import forward, stack

EIGHT_BITS = PRODUCTS[1:]
# Relative error of a product of normal numbers that are rounded to 3 and to 7 bits on both sides.
ERROR = {"float8": 0.08, "int8": 0.02}


def normal(seed, *shape, scale=1.0):
    return scale * jax.random.normal(jax.random.key(seed), shape)


def distance(a, b):
    return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))


def rounded(x, products):
    return round_normed(x, jnp.max(jnp.abs(x)), products)


@pytest.mark.parametrize("products", EIGHT_BITS)
@pytest.mark.parametrize("spread", [1.0, 1e-3])
def test_a_product_is_close(products, spread) -> None:
    """Also where rows and columns differ a thousandfold in size."""
    rows, columns = jnp.geomspace(1, spread, 6)[:, None], jnp.geomspace(spread, 1, 8)
    x, kernel = normal(0, 2, 6, 32) * rows, normal(1, 32, 8, scale=0.1) * columns
    expected = x @ kernel
    got = multiply(rounded(x, products), kernel)
    assert got.shape == expected.shape
    for part in (np.s_[:, 0], np.s_[:, -1], np.s_[..., 0], np.s_[..., -1]):
        assert distance(got[part], expected[part]) < ERROR[products]
    assert distance(got, expected) > 1e-4  # it is one of 8 bits


@pytest.mark.parametrize("products", EIGHT_BITS)
def test_gradients_reach_input_and_kernel(products) -> None:
    x, kernel, out = normal(0, 4, 5, 32), normal(1, 32, 8, scale=0.1), normal(2, 4, 5, 8)
    _, back = jax.vjp(lambda x, k: multiply(rounded(x, products), k), x, kernel)
    to_x, to_kernel = back(out)
    assert distance(to_x, out @ kernel.T) < 2 * ERROR[products]
    np.testing.assert_allclose(to_kernel, jnp.einsum("bnc,bnf->cf", x, out), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("products", EIGHT_BITS)
def test_kernels_that_were_rounded_before_give_the_same(products) -> None:
    x, kernel = normal(0, 4, 32), normal(1, 32, 8)
    before = round_kernel(kernel, products)
    assert before.shape == (8, 32) and before.values.dtype.itemsize == 1
    np.testing.assert_array_equal(
        multiply(rounded(x, products), before), multiply(rounded(x, products), kernel)
    )
    # Gradients reach the input, whose kernel has none.
    out = normal(2, 4, 8)
    (to_x,) = jax.vjp(lambda x: multiply(rounded(x, products), before), x)[1](out)
    assert distance(to_x, out @ kernel.T) < ERROR[products]
    # What nobody has rounded meets a kernel that was.
    assert distance(multiply(x, before), x @ kernel) < ERROR[products]


def test_no_value_is_too_large_for_its_scale() -> None:
    """An input that a norm maps to one single value: the largest that its output can hold."""
    norm = LayerNorm()
    params = {"scale": normal(0, 4096, scale=3.0), "bias": normal(1, 4096)}
    spike = jnp.zeros((1, 4096)).at[0, jnp.argmax(jnp.abs(params["scale"]))].set(1e6)
    for x in (spike, -spike, normal(2, 8, 4096)):
        y = norm.apply({"params": params}, x)
        largest = norm.apply({"params": params}, method="largest")
        values = round_normed(y, largest, "float8").values.astype(jnp.float32)
        assert jnp.max(jnp.abs(y)) <= largest
        assert jnp.isfinite(values).all()
    assert jnp.max(jnp.abs(norm.apply({"params": params}, spike))) > 0.5 * largest


def test_an_input_of_zeros_stays_zero() -> None:
    for products in EIGHT_BITS:
        x = rounded(jnp.zeros((2, 4)), products)
        assert not multiply(x, jnp.zeros((4, 3))).any()
        assert not multiply(x, normal(0, 4, 3)).any()


@pytest.fixture(scope="module")
def given():
    x, context = normal(0, 2, 4, 4, 32), normal(1, 2, 6, 24)

    def touch(module, x, context):
        return module(x, module.project_context(context))

    params = stack("loop").init(jax.random.key(0), x, context, method=touch)
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    return params, x, context, normal(2, 3, 2, 5, 32), jnp.linspace(0.5, 1.5, 3)


@pytest.mark.parametrize("products", EIGHT_BITS)
def test_a_stack_is_the_same_however_it_runs(given, products) -> None:
    """In loops, unrolled, with kernels rounded before, stacked or not, with a bank's tokens too."""
    params, *inputs = given
    wide = forward(stack("loop"), params, *inputs)[0]

    def run(block_loop, params):
        module = stack(block_loop).clone(products=products)
        return jax.jit(lambda p: forward(module, p, *inputs))(params)

    expected = run("loop", params)
    before = {"params": round_kernels(params["params"], products)}
    found = {name for name in _names(before) if "kernel" in name}
    assert {name for name in found if ROUNDED in name} == {
        f"{place}/{ROUNDED}"
        for place in ("attn1/to_q", "attn1/to_k", "attn1/to_v", "attn2/to_q", "net_0/proj")
    }
    assert 1e-3 < distance(expected[0], wide) < 0.1
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        expected,
        run("unrolled", params),
    )
    # A bank's tokens nobody rounded: where its kernels are, they differ a little.
    for other in (before, unstack(before)):
        assert distance(run("loop", other)[0], expected[0]) < 0.05


def _names(tree, path=()):
    if isinstance(tree, dict):
        return {name for key, value in tree.items() for name in _names(value, (*path, key))}
    return {"/".join(path[-3:])}


def test_a_layer_takes_both_kinds_of_input() -> None:
    layer, x = Dense(8), normal(0, 4, 32)
    params = layer.init(jax.random.key(0), x)
    for products in EIGHT_BITS:
        value = rounded(x, products)
        assert isinstance(value, Rounded)
        got = layer.apply(params, value)
        assert distance(got, layer.apply(params, x)) < ERROR[products]
    assert round_normed(x, jnp.ones(()), "dtype") is x
    assert round_kernels(params, "dtype") is params


def test_kernels_are_rounded_before_a_loop_unless_no_copies_are_wanted() -> None:
    params = {
        "unet": {"a": {"transformer_blocks": {"attn1": {"to_q": {"kernel": jnp.ones((2, 4, 4))}}}}}
    }

    def names(**options):
        unet = UNet(products="float8", **options)
        return _names(Colorizer(unet, None, None).for_loop(params))

    assert names(block_loop="auto") == {f"attn1/to_q/{ROUNDED}"}
    assert names(block_loop="loop") == {"attn1/to_q/kernel"}
