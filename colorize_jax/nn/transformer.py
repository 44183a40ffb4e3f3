"""The UNet's transformer: self-attention, cross-attention and GEGLU blocks, in stacks.

The blocks of a stack share one parameter tree whose leaves have a leading axis L. Keys and values
of the context or of a bank do not depend on the tokens: they are computed before the blocks.

A stack runs as a loop or unrolled, with the same results. A loop is a small program, which compiles
fast, but copies: what the backward pass needs into stacks and out of them, and on GPUs, whose
libraries take whole buffers, every kernel of every block.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from colorize_jax.nn.attention_layer import Attention, LoRAs
from colorize_jax.nn.layers import Dense, LayerNorm, gelu, group_norm, near_zero_init
from colorize_jax.nn.platforms import resolve
from colorize_jax.nn.quantized import WIDE, Rounded, round_normed
from colorize_jax.nn.regions import Bank, KeysValues
from colorize_jax.nn.remat import GATED, RESIDUAL
from colorize_jax.sharding import BATCH, TENSOR, constrain, constrain_batch, constrain_params
from colorize_jax.types import Array

# Features that a block can return: what its attentions read and put out, and its own output.
FEATURES = ("norm1", "attn1", "norm2", "attn2", "ff")
# Beside them: how large the cross-attention's output is against the block's, (B,) float32.
CROSS_SHARE = "attn2_share"
# And of a whole stack: its output behind the outer residual, (1, B, N, C), where all blocks run.
STACK = "stack"
# How a stack runs: "auto" is "unrolled" where products and attention are a library's kernels.
BLOCK_LOOPS = ("auto", "auto:cpu", "auto:gpu", "auto:tpu", "loop", "unrolled")


def runs_unrolled(block_loop: str) -> bool:
    """Whether stacks run unrolled, by one of `BLOCK_LOOPS`; "auto" asks for the default backend."""
    return resolve(block_loop, {"gpu": "unrolled"}, "loop") == "unrolled"


def unstack(params: Any) -> Any:
    """Take the stacks of a tree of parameters apart: one tree a block, which a stack takes as well.

    For what calls a network in a loop of its own: there a block's share of a stack would be copied
    in every round.
    """
    if not isinstance(params, Mapping):
        return params
    return {
        name: _blocks(value) if name == "transformer_blocks" else unstack(value)
        for name, value in params.items()
    }


def _blocks(stack: Any) -> tuple[Any, ...]:
    """A tree with a leading axis L, or L trees already -> L trees."""
    if isinstance(stack, tuple):
        return stack
    return tuple(_cut(stack, i) for i in range(len(jax.tree.leaves(stack)[0])))


class GEGLU(nn.Module):
    """C -> 2F -> value * GELU(gate), exact GELU."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array | Rounded) -> Array:
        both = Dense(2 * self.features, dtype=self.dtype, name="proj")(x)
        value, gate = jnp.split(both, 2, axis=-1)
        return checkpoint_name(value * gelu(gate), GATED)


class FeedForward(nn.Module):
    """GEGLU of width 4C and back."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array | Rounded) -> Array:
        channels = x.shape[-1]
        x = GEGLU(4 * channels, self.dtype, name="net_0")(x)
        return Dense(channels, dtype=self.dtype, name="net_2")(x)


class TransformerBlock(nn.Module):
    """x += attn1(LN x); x += attn2(LN x, context); x += FF(LN x).

    Attributes:
        channels: C.
        head_dim: D.
        has_context: whether there is cross-attention at all.
        loras: low-rank additions of the cross-attention.
        dtype: of the products.
        implementation: see `nn.attention`.
        products: of those that read a norm's output, one of `quantized.PRODUCTS`.
    """

    channels: int
    head_dim: int
    has_context: bool = True
    loras: LoRAs = ()
    dtype: Any = jnp.float32
    implementation: str = "auto"
    products: str = WIDE

    def setup(self) -> None:
        def attention_layer(loras: LoRAs) -> Attention:
            return Attention(self.channels, self.head_dim, loras, self.dtype, self.implementation)

        self.norm1, self.attn1 = LayerNorm(self.dtype), attention_layer(())
        if self.has_context:
            self.norm2, self.attn2 = LayerNorm(self.dtype), attention_layer(self.loras)
        self.norm3, self.ff = LayerNorm(self.dtype), FeedForward(self.dtype)

    def __call__(
        self,
        x: Array,
        kv: KeysValues | None = None,
        bank: Bank | None = None,
        **cross: Any,
    ) -> tuple[Array, dict[str, Array]]:
        """Args: x (B, N, C); kv, bank of this block; cross: see `Attention.cross_attention`.

        Returns:
            The block's output and its features, by the names of `FEATURES`.
        """
        features = {"norm1": self.norm1(x)}
        normed = self._rounded(self.norm1, features["norm1"])
        features["attn1"] = self.attn1.self_attention(normed, bank)
        x = checkpoint_name(x + features["attn1"], RESIDUAL)
        if self.has_context:
            features["norm2"] = self.norm2(x)
            normed = self._rounded(self.norm2, features["norm2"])
            features["attn2"] = self.attn2.cross_attention(normed, kv, **cross)
            x = checkpoint_name(x + features["attn2"], RESIDUAL)
        features["ff"] = x + self.ff(self._rounded(self.norm3, self.norm3(x)))
        return features["ff"], features

    def _rounded(self, norm: LayerNorm, normed: Array) -> Array | Rounded:
        if self.products == WIDE:
            return normed
        return round_normed(normed, norm.largest(), self.products)

    def initialize(self, x: Array, context: Array | None) -> None:
        """Touch every parameter, for `init` alone."""
        kv = None if context is None else self.attn2.keys_values(context)
        self(x, kv)


class SpatialTransformer(nn.Module):
    """GroupNorm, linear in, a stack of blocks over the pixels, linear out, plus the input.

    Attributes:
        depth: number of blocks L.
        norm_groups: groups of channels that the GroupNorm takes statistics of.
        head_dim: D of the attention heads.
        context_channels: width of the context's tokens; 0 leaves cross-attention out.
        loras: low-rank additions of the cross-attention.
        ends_in_norm: whether nothing is wanted behind the first norm of the last block, which is
            then a module of its own: what follows has parameters and never runs.
        remat: rematerialization policy of a block, None keeps all its intermediates.
        dtype: of the products.
        implementation: see `nn.attention`.
        block_loop: how the blocks run, one of `BLOCK_LOOPS`.
        products: see `TransformerBlock`.
    """

    channels: int
    depth: int
    norm_groups: int
    head_dim: int
    context_channels: int = 0
    loras: LoRAs = ()
    ends_in_norm: bool = False
    remat: Callable[..., bool] | None = None
    dtype: Any = jnp.float32
    implementation: str = "auto"
    block_loop: str = "auto"
    products: str = WIDE

    def setup(self) -> None:
        self.norm = group_norm(1e-6, self.dtype, self.norm_groups)
        self.proj_in = Dense(self.channels, dtype=self.dtype)
        self.proj_out = Dense(self.channels, dtype=self.dtype, kernel_init=near_zero_init)
        if self.ends_in_norm:
            self._last = self._block(name=f"transformer_blocks_{self.depth - 1}")
        if not self.num_stacked:
            return
        # Flax checks a parameter's shape by tracing its initializer, which here is a whole block's:
        # half of the time that tracing a network takes.
        if self.has_variable("params", "transformer_blocks"):
            self.transformer_blocks = self.get_variable("params", "transformer_blocks")
        else:
            self.transformer_blocks = self.param("transformer_blocks", self._init_blocks)

    @property
    def num_stacked(self) -> int:
        """Blocks that share a tree of parameters."""
        return self.depth - self.ends_in_norm

    def _block(self, **options: Any) -> TransformerBlock:
        return TransformerBlock(
            self.channels,
            self.head_dim,
            self.context_channels > 0,
            self.loras,
            self.dtype,
            self.implementation,
            self.products,
            **options,
        )

    def _init_blocks(self, key: Array) -> Any:
        x = jnp.zeros((1, 1, self.channels))
        context = jnp.zeros((1, 1, self.context_channels)) if self.context_channels else None
        # Parameters are what is asked for; kernels cannot be mapped over blocks.
        block = self._block(parent=None).clone(implementation="plain", parent=None)

        def init(key: Array) -> Any:
            return block.init(key, x, context, method="initialize")["params"]

        return jax.vmap(init)(jax.random.split(key, self.num_stacked))

    def project_context(
        self, context: Array, lora_scales: Mapping[str, Array] | None = None
    ) -> KeysValues:
        """(B, S, C') -> keys and values of every block's cross-attention, each (L, B, S, K, D)."""
        return self._project("attn2", lambda project, p: project(p, context, lora_scales))

    def project_bank(self, bank: Array) -> KeysValues:
        """(L, B, M, C) normed tokens -> keys and values of every block, each (L, B, M, K, D)."""
        return self._project("attn1", lambda project, p, x: project(p, x, None), bank)

    def _project(self, name: str, call: Callable[..., KeysValues], *mapped: Array) -> KeysValues:
        loras = self.loras if name == "attn2" else ()
        layer = Attention(self.channels, self.head_dim, loras, self.dtype, parent=None)

        def project(params: Any, tokens: Array, scales: Any) -> KeysValues:
            kv = layer.apply({"params": params}, tokens, scales, method="keys_values")
            return jax.tree.map(lambda x: constrain(x, BATCH, None, TENSOR), kv)

        def body(carry: None, inputs: Any) -> tuple[None, KeysValues]:
            return carry, call(project, constrain_params(inputs[0]), *inputs[1:])

        blocks = self.transformer_blocks
        if isinstance(blocks, tuple):
            blocks = tuple(block[name] for block in blocks)
        else:
            blocks = blocks[name]
        # Block by block, so that sharded kernels are not all-gathered all at once.
        inputs = (blocks, *mapped)
        return _run_blocks(body, None, inputs, self.num_stacked, runs_unrolled(self.block_loop))[1]

    def __call__(
        self,
        x: Array,
        kv: KeysValues | None = None,
        *,
        bank: Bank | None = None,
        strength: Array | None = None,
        shares: Array | None = None,
        lora_scales: Mapping[str, Array] | None = None,
        collect: tuple[str, ...] = (),
        begun: tuple[int, Array] | None = None,
        stop: int | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        """Run the stack, or a part of its blocks.

        Args:
            x: (B, h, w, C).
            kv: keys and values of the context, each (L, B', S, K, D); see `cross_attention`.
            bank: foreign tokens for self-attention, keys and values with a leading L.
            strength: (L,) factor of every block's cross-attention.
            shares: factors of the context's parts for every query; see `cross_attention`.
            lora_scales: label -> scale.
            collect: names of `FEATURES`, or `CROSS_SHARE`, to return of every block that runs; or
                `STACK`.
            begun: number of blocks that have run already, and the tokens (B, N, C) after them.
            stop: number of the block to stop after.

        Returns:
            (B, h, w, C), or with `stop` the tokens (B, N, C) there, or None where the stack
            `ends_in_norm`; and feature name -> (L, B, N, C), of the blocks that ran.
        """
        if begun is None:
            first, tokens = 0, self.norm(x).reshape(x.shape[0], -1, self.channels)
            tokens = self.proj_in(tokens)
        else:
            first, tokens = begun
        if not self.num_stacked:
            return self._end_in_norm(tokens, {}, collect)
        block = self._block(parent=None)
        bank_kv = None if bank is None else bank.keys_values
        of_blocks = [name for name in collect if name != STACK]

        def body(tokens: Array, inputs: Any) -> tuple[Array, dict[str, Array]]:
            params, kv, bank_kv, strength = inputs
            own = None if bank is None else bank.replace(keys_values=bank_kv)
            cross = {}
            if self.context_channels:
                cross = {"strength": strength, "shares": shares, "lora_scales": lora_scales}
            params = constrain_params(params)
            tokens, features = block.apply({"params": params}, tokens, kv, own, **cross)
            tokens, features = constrain_batch((tokens, features))
            return tokens, {name: _feature(features, name) for name in of_blocks}

        last = self.num_stacked if stop is None else stop
        unrolled = runs_unrolled(self.block_loop) or last - first == 1
        if self.remat is not None:
            # Outside of a loop XLA's common subexpression elimination would undo rematerialization.
            body = jax.checkpoint(body, policy=self.remat, prevent_cse=unrolled)
        blocks, inputs = self.transformer_blocks, (kv, bank_kv, strength)
        if (first, last) != (0, self.num_stacked):
            part = slice(first, last)
            inputs = _cut(inputs, part)
            blocks = blocks[part] if isinstance(blocks, tuple) else _cut(blocks, part)
        inputs = (blocks, *inputs)
        tokens, features = _run_blocks(body, tokens, inputs, last - first, unrolled)
        if STACK in collect:
            features[STACK] = self._end(x, tokens).reshape(1, *tokens.shape)
        if stop is not None:
            return tokens, features
        if self.ends_in_norm:
            return self._end_in_norm(tokens, features, collect)
        return self._end(x, tokens), features

    def _end(self, x: Array, tokens: Array) -> Array:
        """The stack's output (B, h, w, C): its input plus what its blocks have to say."""
        return x + self.proj_out(tokens).reshape(x.shape)

    def _end_in_norm(
        self, tokens: Array, features: dict[str, Array], collect: tuple[str, ...]
    ) -> tuple[None, dict[str, Array]]:
        normed = self._last.norm1(tokens)[None]
        if self.is_initializing():
            self._last(tokens)
            self.proj_out(tokens)
        if "norm1" not in collect:
            return None, features
        stacked = [features["norm1"]] if "norm1" in features else []
        return None, features | {"norm1": jnp.concatenate([*stacked, normed])}


def _run_blocks(
    body: Callable[..., Any], carry: Any, inputs: tuple[Any, ...], count: int, unrolled: bool
) -> tuple[Any, Any]:
    """`jax.lax.scan` over blocks, whose parameters, the first of the inputs, may be `unstack`ed."""
    blocks, *others = inputs
    if isinstance(blocks, tuple) or count == 1:
        # A loop's backward pass enters, in every round, what any round has a gradient of.
        outputs = []
        for i, block in enumerate(_blocks(blocks)):
            carry, output = body(carry, (block, *_cut(others, i)))
            outputs.append(output)
        return carry, jax.tree.map(lambda *rows: jnp.stack(rows), *outputs)
    return jax.lax.scan(body, carry, inputs, unroll=count if unrolled else 1)


def _cut(tree: Any, at: int | slice) -> Any:
    return jax.tree.map(lambda leaf: leaf[at], tree)


def _feature(features: Mapping[str, Array], name: str) -> Array:
    """A block's feature, or what is computed of them: no gradient flows into that."""
    if name != CROSS_SHARE:
        return features[name]
    cross, output = (jax.lax.stop_gradient(features[part]) for part in ("attn2", "ff"))
    squares = [jnp.sum(jnp.square(x.astype(jnp.float32)), axis=(1, 2)) for x in (cross, output)]
    return jnp.sqrt(squares[0] / jnp.maximum(squares[1], 1e-24))
