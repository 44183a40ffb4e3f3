"""The sketch encoder: golden case, what a level may see, gradients and memory at full size."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax.errors import UserError
from colorize_jax.models.sketch_encoder import ScaleCausalAttention, SketchEncoder, rotate
from colorize_jax.verify import verify_folder

GOLDEN = Path(__file__).parents[1] / "golden"


def test_golden() -> None:
    checks = list(verify_folder(GOLDEN, "sketch_encoder"))
    assert checks and all(check.passed for check in checks), checks


def test_rotation_multiplies_complex_numbers() -> None:
    x = jnp.asarray([3.0, 1.0, 0.5, -2.0]).reshape(1, 1, 1, 4)
    angles = jnp.asarray([[0.3, -1.2]])
    expected = np.array([3 + 1j, 0.5 - 2j]) * np.exp(1j * np.array([0.3, -1.2]))
    turned = rotate(x, angles).reshape(-1)
    np.testing.assert_allclose(turned[0::2], expected.real, rtol=1e-6)
    np.testing.assert_allclose(turned[1::2], expected.imag, rtol=1e-6)


def test_levels_see_coarser_ones_and_themselves_only() -> None:
    module = ScaleCausalAttention(head_dim=8)
    sides = (4, 2, 2)  # finest first
    keys = jax.random.split(jax.random.key(0), len(sides))
    levels = [
        jax.random.normal(key, (1, side, side, 16)) for key, side in zip(keys, sides, strict=True)
    ]
    everywhere = jnp.ones((1, 1, 1, 16))
    params = module.init(jax.random.key(1), levels, everywhere)
    apply = jax.jit(module.apply)
    before = apply(params, levels, everywhere)
    for changed in range(len(sides)):
        moved = [x + 1.0 if i == changed else x for i, x in enumerate(levels)]
        after = apply(params, moved, everywhere)
        seen = [bool(jnp.any(a != b)) for a, b in zip(before, after, strict=True)]
        assert seen == [i <= changed for i in range(len(sides))]


def test_every_parameter_learns_from_the_first_step() -> None:
    module = SketchEncoder(32, (1, 2), head_dim=16, strides=(1, 2, 2))
    sketch = jax.random.uniform(jax.random.key(0), (1, 16, 32, 3), minval=-1.0)

    @jax.jit
    def gradients(key):
        params = module.init(key, sketch)["params"]
        hints, pull = jax.vjp(lambda p: module.apply({"params": p}, sketch), params)
        return hints, pull(jax.tree.map(jnp.ones_like, hints))[0]

    hints, grads = gradients(jax.random.key(1))
    assert [hint.shape for hint in hints] == [(1, 4, 8, 32), (1, 2, 4, 32), (1, 2, 4, 64)]
    still = [path for path, g in jax.tree.leaves_with_path(grads) if not jnp.any(g)]
    assert not still


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_hints_of_colour_change_no_bit_before_they_are_trained(dtype) -> None:
    plain = SketchEncoder(32, (1, 2), head_dim=16, strides=(1, 2, 2), dtype=dtype)
    widened = plain.clone(color_hints=True)
    sketch = jax.random.uniform(jax.random.key(0), (1, 16, 32, 3), minval=-1.0)
    given = jax.random.uniform(jax.random.key(1), (1, 16, 32, 4), minval=-1.0)
    params = jax.jit(plain.init)(jax.random.key(2), sketch)["params"]
    own = jax.jit(widened.init)(jax.random.key(2), sketch)["params"]
    kernel = own.pop("color_hints")["kernel"]
    assert kernel.shape == (3, 3, 4, 16) and not kernel.any()
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), own, params))
    before = jax.jit(plain.apply)({"params": params}, sketch)
    apply = jax.jit(widened.apply)
    for hints in (None, given):
        after = apply({"params": params | {"color_hints": {"kernel": kernel}}}, sketch, hints)
        assert all(bool(jnp.all(a == b)) for a, b in zip(before, after, strict=True))
    trained = {"params": params | {"color_hints": {"kernel": kernel + 0.1}}}
    assert jnp.any(apply(trained, sketch, given)[0] != before[0])
    assert jnp.all(apply(trained, sketch, jnp.zeros_like(given))[0] == before[0])
    with pytest.raises(UserError, match="takes none"):
        plain.apply({"params": params}, sketch, given)


def test_bad_head_dim_is_named() -> None:
    with pytest.raises(UserError, match="head_dim 30"):
        SketchEncoder(32, (1, 2), head_dim=30)


def test_full_size_needs_less_than_two_gigabytes_of_temporaries() -> None:
    module = SketchEncoder()
    sketch = jax.ShapeDtypeStruct((1, 1024, 1024, 3), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), sketch)
    compiled = jax.jit(module.apply).lower(variables, sketch).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 2e9
