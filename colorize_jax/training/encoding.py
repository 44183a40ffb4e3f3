"""The frozen encoders over the micro-batches that the step itself is computed in."""

import jax
import jax.numpy as jnp

from colorize_jax.conditioning import FrozenEncoders
from colorize_jax.sharding import constrain_batch
from colorize_jax.training.optim import micro_batches
from colorize_jax.types import Array, Batch, Encoded, Params


def encode_parts(
    encoders: FrozenEncoders, params: Params, batch: Batch, key: Array | None, count: int
) -> Encoded:
    """What `FrozenEncoders.encode` returns, with the activations of one micro-batch at a time.

    Args:
        encoders: autoencoder and reference encoders.
        params: of them.
        batch: B samples.
        key: of the posterior, drawn for the whole batch as without micro-batches.
        count: number of micro-batches, a divisor of B.
    """
    found = encodings(encoders, params, batch, count) if count > 1 else {}
    missing = {name: x for name, x in found.items() if getattr(batch, name) is None}
    return encoders.encode(params, batch.replace(**missing), key)


def encodings(
    encoders: FrozenEncoders, params: Params, batch: Batch, count: int = 1
) -> dict[str, Array]:
    """What a batch of pictures can be replaced by: `moments`, `clip_tokens` and `tagger_tokens`.

    Args:
        encoders: autoencoder and reference encoders.
        params: of them.
        batch: B samples; what it has already is left out.
        count: number of micro-batches, a divisor of B.
    """
    needed = batch.clip_tokens is None or batch.tagger_tokens is None
    pictures = {
        "image": batch.image if batch.moments is None else None,
        "reference": batch.reference if needed else None,
    }

    def encode(part: dict[str, Array | None]) -> dict[str, Array]:
        part, found = constrain_batch(part), {}
        if part["image"] is not None:
            moments = encoders.moments(params, part["image"])
            found["moments"] = jnp.concatenate(moments, axis=-1)
        if part["reference"] is not None:
            tokens = encoders.encode_reference(params, part["reference"])
            found["clip_tokens"], found["tagger_tokens"] = tokens
        return found

    if count == 1:
        return encode(pictures)
    return join_micro_batches(jax.lax.map(encode, micro_batches(pictures, count)))


def join_micro_batches(parts: dict[str, Array]) -> dict[str, Array]:
    """Undo `optim.micro_batches`: (count, B / count, ...) -> (B, ...)."""
    return {
        name: jnp.swapaxes(x, 0, 1).reshape(x.shape[0] * x.shape[1], *x.shape[2:])
        for name, x in parts.items()
    }
