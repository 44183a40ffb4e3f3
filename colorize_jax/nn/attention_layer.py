"""Multi-head attention with its projections: over itself, over a bank, over a context in parts."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from colorize_jax.nn.attention import attention
from colorize_jax.nn.layers import Dense
from colorize_jax.nn.lora import LoRADense
from colorize_jax.nn.quantized import Rounded
from colorize_jax.nn.regions import BANK_THRESHOLD, Bank, KeysValues
from colorize_jax.types import Array

LoRAs = tuple[tuple[str, int], ...]  # (label, rank)


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

    def queries(self, x: Array | Rounded, lora_scales: Mapping[str, Array] | None = None) -> Array:
        """(B, N, C) -> (B, N, K, D)."""
        return self._heads(self.to_q(x, lora_scales))

    def keys_values(self, tokens: Array | Rounded, lora_scales: Mapping[str, Array] | None = None):
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

    def self_attention(self, x: Array | Rounded, bank: Bank | None = None) -> Array:
        """Attention of x (B, N, C) over itself and, where given, over a bank."""
        q, own = self.queries(x), self.keys_values(x)
        if bank is None:
            return self.out(self.attend(q, own))
        if bank.mask is not None:
            inside = (bank.mask > BANK_THRESHOLD)[..., None]
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
        x: Array | Rounded,
        kv: KeysValues | None,
        *,
        strength: Array | None = None,
        shares: Array | None = None,
        lora_scales: Mapping[str, Array] | None = None,
    ) -> Array:
        """Attention over a context whose keys and values are given.

        Args:
            x: (B, N, C).
            kv: (B', S, K, D) each with B' <= B: rows past B' have no reference, as with an all-zero
                context, whose keys and values vanish so that only the output's bias remains. None:
                no row has one.
            strength: () factor of the result before the output projection.
            shares: (P, B, N, 1) factors of the attention over P equal parts of the context, in
                their order; None: it is one part.
            lora_scales: label -> scale of the query projection's additions.
        """
        rows = 0 if kv is None else kv[0].shape[0]
        bias = self.to_out_0(jnp.zeros((1, 1, self.channels), self.dtype))
        missing = jnp.broadcast_to(bias, (x.shape[0] - rows, *x.shape[1:]))
        if kv is None:
            if self.is_initializing():
                self.queries(x)
            return missing
        q = self.queries(x.rows(rows) if isinstance(x, Rounded) else x[:rows], lora_scales)
        heads = self.attend(q, kv) if shares is None else self.attend_parts(q, kv, shares[:, :rows])
        if strength is not None:
            heads = heads * strength.astype(heads.dtype)
        y = self.out(heads)
        return y if rows == x.shape[0] else jnp.concatenate([y, missing])

    def attend_parts(self, q: Array, kv: KeysValues, shares: Array) -> Array:
        """sum_p shares_p * attention(q, part p of the context), (B, N, K, D)."""
        keys, values = (jnp.split(x, shares.shape[0], axis=1) for x in kv)
        return sum(
            share[..., None].astype(q.dtype) * self.attend(q, part)
            for share, part in zip(shares, zip(keys, values, strict=True), strict=True)
        )
