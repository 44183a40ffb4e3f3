"""The transformer layers that both towers of CLIP are made of (Radford et al. 2021)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from colorize_jax.errors import UserError
from colorize_jax.nn.attention import attention
from colorize_jax.nn.layers import MLP, Dense, LayerNorm
from colorize_jax.types import Array


def check_heads(hidden_size: int, num_heads: int) -> None:
    """Raise UserError where heads do not divide a tower's width."""
    if hidden_size % num_heads:
        raise UserError(
            f"got hidden_size {hidden_size} and {num_heads} heads, expected a multiple; change "
            "num_heads"
        )


class Layers(nn.Module):
    """The scanned stack of layers: (B, N, C) -> (B, N, C).

    Attributes:
        intermediate_size: width inside the MLPs.
        num_layers: L, stacked and scanned.
        num_heads: K.
        dtype: of the products; norms and softmax stay in float32.
        implementation: see `nn.attention`.
        causal: whether a token sees only those before it and itself.
    """

    intermediate_size: int
    num_layers: int
    num_heads: int
    dtype: Any = jnp.float32
    implementation: str = "auto"
    causal: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        stack = nn.scan(
            Layer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.num_layers,
        )
        layers = stack(
            self.intermediate_size,
            self.num_heads,
            self.dtype,
            self.implementation,
            self.causal,
            name="layers",
        )
        return layers(x, None)[0]


class Layer(nn.Module):
    """x += attention(LN x); x += MLP(LN x), exact GELU; fields as in `Layers`."""

    intermediate_size: int
    num_heads: int
    dtype: Any = jnp.float32
    implementation: str = "auto"
    causal: bool = False

    @nn.compact
    def __call__(self, x: Array, _: None) -> tuple[Array, None]:
        attend = SelfAttention(
            self.num_heads, self.dtype, self.implementation, self.causal, name="self_attn"
        )
        x = x + attend(LayerNorm(self.dtype, name="layer_norm1")(x))
        mlp = MLP(self.intermediate_size, self.dtype, name="mlp")
        return x + mlp(LayerNorm(self.dtype, name="layer_norm2")(x)), None


class SelfAttention(nn.Module):
    """Multi-head self-attention, every projection with a bias."""

    num_heads: int
    dtype: Any = jnp.float32
    implementation: str = "auto"
    causal: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]

        def heads(name: str) -> Array:
            y = Dense(channels, dtype=self.dtype, name=name)(x)
            return y.reshape(*x.shape[:2], self.num_heads, -1)

        q, k, v = heads("q_proj"), heads("k_proj"), heads("v_proj")
        y = attention(q, k, v, implementation=self.implementation, causal=self.causal)
        return Dense(channels, dtype=self.dtype, name="out_proj")(y.reshape(x.shape))
