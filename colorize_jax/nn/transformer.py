"""The UNet's transformer: self-attention, cross-attention and GEGLU blocks, stacked and scanned.

The blocks of a stack share one parameter tree whose leaves have a leading axis L. What a block
reads beside its input (keys and values of the context or of a bank) is computed for all blocks at
once, outside the scan, because it does not depend on the tokens.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from colorize_jax.nn.attention import attention
from colorize_jax.nn.layers import Dense, group_norm, layer_norm, near_zero_init
from colorize_jax.nn.lora import LoRADense
from colorize_jax.sharding import BATCH, TENSOR, constrain, constrain_batch, constrain_params
from colorize_jax.types import Array

# What a block can hand out: its first norm, the outputs of its attentions, its own output.
FEATURES = ("norm1", "attn1", "attn2", "ff")

KeysValues = tuple[Array, Array]
LoRAs = tuple[tuple[str, int], ...]  # (label, rank)


@flax.struct.dataclass
class Regions:
    """Split cross-attention: foreground reads the first half of the tokens, the rest the second.

    Attributes:
        mask: (B, N, 1) foreground of the queries, already at their resolution.
        threshold: () or (B,) what the mask is compared with.
        foreground_scale: () factor of what the foreground tokens give.
        background_scale: () factor of what the background tokens give.
        merge: () share m of the background's answer in the foreground; 0 separates them.
    """

    mask: Array
    threshold: Array | float = 0.05
    foreground_scale: Array | float = 1.0
    background_scale: Array | float = 1.0
    merge: Array | float = 0.0


@flax.struct.dataclass
class Bank:
    """Foreign tokens that self-attention reads beside its own.

    Attributes:
        keys_values: K and V of every block, each (L, B, M, K, D); inside a block without L.
        mask: (B, N, 1); queries inside see their own tokens only, others the bank only. Without it
            all queries see both.
        threshold: () or (B,) what the mask is compared with.
        plain_weight: (B,) share of attention without the bank in the result, 0 by default.
    """

    keys_values: KeysValues
    mask: Array | None = None
    threshold: Array | float = 0.05
    plain_weight: Array | None = None


def _inside(mask: Array, threshold: Array | float, *, inclusive: bool = False) -> Array:
    """(B, N, 1) mask against a scalar or per-sample threshold -> (B, N, 1, 1) booleans."""
    threshold = jnp.reshape(jnp.asarray(threshold, mask.dtype), (-1, 1, 1))
    inside = mask >= threshold if inclusive else mask > threshold
    return inside[..., None]


class Attention(nn.Module):
    """Multi-head attention with projections: q, k, v without bias, out with bias.

    Attributes:
        channels: C of queries and result.
        head_dim: D.
        loras: low-rank additions to q, k and v.
        dtype: of the products.
        implementation: see `nn.attention`.
    """

    channels: int
    head_dim: int
    loras: LoRAs = ()
    dtype: Any = jnp.float32
    implementation: str = "auto"

    def setup(self) -> None:
        def dense() -> LoRADense:
            return LoRADense(self.channels, use_bias=False, loras=self.loras, dtype=self.dtype)

        self.to_q, self.to_k, self.to_v = dense(), dense(), dense()
        self.to_out_0 = Dense(self.channels, dtype=self.dtype)

    def _heads(self, x: Array) -> Array:
        return x.reshape(*x.shape[:-1], self.channels // self.head_dim, self.head_dim)

    def queries(self, x: Array, lora_scales: Mapping[str, Array] | None = None) -> Array:
        """(B, N, C) -> (B, N, K, D)."""
        return self._heads(self.to_q(x, lora_scales))

    def keys_values(self, tokens: Array, lora_scales: Mapping[str, Array] | None = None):
        """(B, S, C') -> keys and values, each (B, S, K, D)."""
        return self._heads(self.to_k(tokens, lora_scales)), self._heads(
            self.to_v(tokens, lora_scales)
        )

    def attend(self, q: Array, kv: KeysValues) -> Array:
        """Attention itself, before the output projection: (B, N, K, D)."""
        return attention(q, *kv, implementation=self.implementation)

    def out(self, heads: Array) -> Array:
        """(B, N, K, D) -> (B, N, C)."""
        return self.to_out_0(heads.reshape(*heads.shape[:2], self.channels))

    def __call__(self, x: Array, tokens: Array) -> Array:
        """Plain attention of x (B, N, C) over tokens (B, S, C')."""
        return self.out(self.attend(self.queries(x), self.keys_values(tokens)))

    def self_attention(self, x: Array, bank: Bank | None = None) -> Array:
        """Attention of x (B, N, C) over itself and, where given, over a bank."""
        q, own = self.queries(x), self.keys_values(x)
        if bank is None:
            return self.out(self.attend(q, own))
        if bank.mask is not None:
            inside = _inside(bank.mask, bank.threshold)
            return self.out(
                jnp.where(inside, self.attend(q, own), self.attend(q, bank.keys_values))
            )
        both = tuple(
            jnp.concatenate([a, b], axis=1) for a, b in zip(own, bank.keys_values, strict=True)
        )
        heads = self.attend(q, both)
        if bank.plain_weight is not None:
            weight = bank.plain_weight[:, None, None, None].astype(heads.dtype)
            heads = weight * self.attend(q, own) + (1 - weight) * heads
        return self.out(heads)

    def cross_attention(
        self,
        x: Array,
        kv: KeysValues | None,
        *,
        strength: Array | None = None,
        regions: Regions | None = None,
        lora_scales: Mapping[str, Array] | None = None,
    ) -> Array:
        """Attention over a context whose keys and values are given.

        Args:
            x: (B, N, C).
            kv: (B', S, K, D) each with B' <= B: rows past B' have no reference, as with an all-zero
                context, whose keys and values vanish so that only the output's bias remains. None:
                no row has one.
            strength: () factor of the result before the output projection.
            regions: split cross-attention, for the rows that have a reference.
            lora_scales: label -> scale of the query projection's additions.
        """
        rows = 0 if kv is None else kv[0].shape[0]
        bias = self.to_out_0(jnp.zeros((1, 1, self.channels), self.dtype))
        missing = jnp.broadcast_to(bias, (x.shape[0] - rows, *x.shape[1:]))
        if kv is None:
            if self.is_initializing():
                self.queries(x)
            return missing
        q = self.queries(x[:rows], lora_scales)
        heads = self.attend(q, kv) if regions is None else self._split(q, kv, regions)
        if strength is not None:
            heads = heads * strength.astype(heads.dtype)
        y = self.out(heads)
        return y if rows == x.shape[0] else jnp.concatenate([y, missing])

    def _split(self, q: Array, kv: KeysValues, regions: Regions) -> Array:
        """Foreground and background halves of the context, each for its own queries."""
        half = kv[0].shape[1] // 2
        rows = q.shape[0]
        mask, threshold = regions.mask[:rows], jnp.atleast_1d(jnp.asarray(regions.threshold))
        threshold = threshold[:rows] if threshold.shape[0] > 1 else threshold
        merge = jnp.asarray(regions.merge, q.dtype)
        fg = self.attend(q, (kv[0][:, :half], kv[1][:, :half]))
        bg = self.attend(q, (kv[0][:, half:], kv[1][:, half:]))
        fg = fg * jnp.asarray(regions.foreground_scale, q.dtype)
        bg = bg * jnp.asarray(regions.background_scale, q.dtype)
        # The two published forms differ in who owns a query exactly at the threshold.
        inside = jnp.where(
            merge > 0, _inside(mask, threshold, inclusive=True), _inside(mask, threshold)
        )
        return jnp.where(inside, (1 - merge) * fg + merge * bg, bg)


class GEGLU(nn.Module):
    """C -> 2F -> value * GELU(gate), exact GELU."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        both = Dense(2 * self.features, dtype=self.dtype, name="proj")(x)
        value, gate = jnp.split(both, 2, axis=-1)
        return value * nn.gelu(gate, approximate=False)


class FeedForward(nn.Module):
    """GEGLU of width 4C and back."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
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
    """

    channels: int
    head_dim: int
    has_context: bool = True
    loras: LoRAs = ()
    dtype: Any = jnp.float32
    implementation: str = "auto"

    def setup(self) -> None:
        def attention_layer(loras: LoRAs) -> Attention:
            return Attention(self.channels, self.head_dim, loras, self.dtype, self.implementation)

        self.norm1, self.attn1 = layer_norm(self.dtype), attention_layer(())
        if self.has_context:
            self.norm2, self.attn2 = layer_norm(self.dtype), attention_layer(self.loras)
        self.norm3, self.ff = layer_norm(self.dtype), FeedForward(self.dtype)

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
        features["attn1"] = self.attn1.self_attention(features["norm1"], bank)
        x = x + features["attn1"]
        if self.has_context:
            features["attn2"] = self.attn2.cross_attention(self.norm2(x), kv, **cross)
            x = x + features["attn2"]
        features["ff"] = x + self.ff(self.norm3(x))
        return features["ff"], features

    def initialize(self, x: Array, context: Array | None) -> None:
        """Touch every parameter, for `init` alone."""
        kv = None if context is None else self.attn2.keys_values(context)
        self(x, kv)


class SpatialTransformer(nn.Module):
    """GroupNorm, linear in, a scanned stack of blocks over the pixels, linear out, plus the input.

    Attributes:
        depth: number of blocks L.
        norm_groups: groups of channels that the GroupNorm takes statistics of.
        head_dim: D of the attention heads.
        context_channels: width of the context's tokens; 0 leaves cross-attention out.
        loras: low-rank additions of the cross-attention.
        remat: rematerialization policy of a block, None keeps all its intermediates.
        dtype: of the products.
        implementation: see `nn.attention`.
    """

    channels: int
    depth: int
    norm_groups: int
    head_dim: int
    context_channels: int = 0
    loras: LoRAs = ()
    remat: Callable[..., bool] | None = None
    dtype: Any = jnp.float32
    implementation: str = "auto"

    def setup(self) -> None:
        self.norm = group_norm(1e-6, self.dtype, self.norm_groups)
        self.proj_in = Dense(self.channels, dtype=self.dtype)
        self.proj_out = Dense(self.channels, dtype=self.dtype, kernel_init=near_zero_init)
        # Flax checks a parameter's shape by tracing its initializer, which here is a whole block's:
        # half of the time that tracing a network takes.
        if self.has_variable("params", "transformer_blocks"):
            self.transformer_blocks = self.get_variable("params", "transformer_blocks")
        else:
            self.transformer_blocks = self.param("transformer_blocks", self._init_blocks)

    def _block(self) -> TransformerBlock:
        return TransformerBlock(
            self.channels,
            self.head_dim,
            self.context_channels > 0,
            self.loras,
            self.dtype,
            self.implementation,
            parent=None,
        )

    def _init_blocks(self, key: Array) -> Any:
        x = jnp.zeros((1, 1, self.channels))
        context = jnp.zeros((1, 1, self.context_channels)) if self.context_channels else None
        # Parameters are what is asked for; kernels cannot be mapped over blocks.
        block = self._block().clone(implementation="plain", parent=None)

        def init(key: Array) -> Any:
            return block.init(key, x, context, method="initialize")["params"]

        return jax.vmap(init)(jax.random.split(key, self.depth))

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

        # One block after another, so that kernels stored in parts are never gathered all at once.
        return jax.lax.map(
            lambda inputs: call(project, constrain_params(inputs[0]), *inputs[1:]),
            (self.transformer_blocks[name], *mapped),
        )

    def __call__(
        self,
        x: Array,
        kv: KeysValues | None = None,
        *,
        bank: Bank | None = None,
        strength: Array | None = None,
        regions: Regions | None = None,
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
            regions: split cross-attention.
            lora_scales: label -> scale.
            collect: names of `FEATURES` to return, of every block that runs.
            begun: number of blocks that have run already, and the tokens (B, N, C) behind them.
            stop: number of the block to stop behind.

        Returns:
            (B, h, w, C), or with `stop` the tokens (B, N, C) there; and feature name ->
            (L, B, N, C), of the blocks that ran.
        """
        if begun is None:
            first, tokens = 0, self.norm(x).reshape(x.shape[0], -1, self.channels)
            tokens = self.proj_in(tokens)
        else:
            first, tokens = begun
        block = self._block()
        bank_kv = None if bank is None else bank.keys_values

        def body(tokens: Array, inputs: Any) -> tuple[Array, dict[str, Array]]:
            params, kv, bank_kv, strength = inputs
            own = None if bank is None else bank.replace(keys_values=bank_kv)
            cross = {}
            if self.context_channels:
                cross = {"strength": strength, "regions": regions, "lora_scales": lora_scales}
            params = constrain_params(params)
            tokens, features = block.apply({"params": params}, tokens, kv, own, **cross)
            tokens, features = constrain_batch((tokens, features))
            return tokens, {name: features[name] for name in collect}

        if self.remat is not None:
            body = jax.checkpoint(body, policy=self.remat, prevent_cse=False)
        inputs = (self.transformer_blocks, kv, bank_kv, strength)
        if first or (stop or self.depth) < self.depth:
            inputs = jax.tree.map(lambda leaf: leaf[first:stop], inputs)
        tokens, features = jax.lax.scan(body, tokens, inputs)
        if stop is not None:
            return tokens, features
        return x + self.proj_out(tokens).reshape(x.shape), features
