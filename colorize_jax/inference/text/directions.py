"""Text manipulation: CLIP's tokens of a reference, moved along directions between texts.

The vision tower's tokens, v_0 of the class and v_1 .. v_P of the patches, and the embeddings of
texts lie in one space. Texts are vectors of length 1: a target t, an anchor a (0 without one), and
a control c. With

    d = t - a                           the direction from text to text
    r = |v_0|                           the picture's own unit of length

a manipulation of strength s moves token i along d by

    v_i  <-  v_i + s r w_i g_i d

where w_i, 0..1, selects tokens and g_i scales the distance.

Without a control w_i = 1. With one, patches are selected by their similarity to it: the cosine
m_i = cos(v_i, c), rescaled to 0..1 over the picture's patches, above a threshold h,

    w_i = max(0, (m_i - h) / (1 - h))

so that the most similar patch moves by the full distance and those below the threshold do not move.
The class token stands for the whole picture: w_0 is the mean over the patches.

By default g_i = 1. If adaptive, a token moves by its remaining distance to the target: its
coordinate along the direction is q_i = v_i . d / (r |d|^2), the target's t . d / |d|^2, and

    g_i = max(0, t . d / |d|^2 - q_i)

so that at strength 1 all selected tokens end at the target's coordinate or beyond it.
"""

from collections.abc import Mapping, Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.inference.text.manipulation import TextManipulation
from colorize_jax.types import Array

# Manipulations are padded to a multiple, so that a few more or less need no recompilation.
MULTIPLE = 4
TINY = 1e-6


@flax.struct.dataclass
class TextDirections:
    """M manipulations, in their order.

    Attributes:
        targets: (M, C) of length 1.
        anchors: (M, C) of length 1, or 0 without one.
        controls: (M, C) of length 1; 0 where not `local`.
        strengths: (M,).
        thresholds: (M,) in [0, 1].
        local: (M,) bool: whether the control selects tokens.
        adaptive: (M,) bool: whether tokens move by their remaining distance to the target.
    """

    targets: Array
    anchors: Array
    controls: Array
    strengths: Array
    thresholds: Array
    local: Array
    adaptive: Array


def make_directions(
    manipulations: Sequence[TextManipulation], embeddings: Mapping[str, np.ndarray]
) -> TextDirections:
    """Convert manipulations to arrays, padded with some of strength 0.

    Args:
        manipulations: at least one.
        embeddings: text -> (C,) of any length, for all their texts.
    """
    channels = len(embeddings[manipulations[0].target])

    def unit(text: str | None) -> np.ndarray:
        if text is None:
            return np.zeros(channels, np.float32)
        embedding = np.asarray(embeddings[text], np.float32)
        return embedding / max(float(np.linalg.norm(embedding)), TINY)

    given = TextDirections(
        targets=np.stack([unit(one.target) for one in manipulations]),
        anchors=np.stack([unit(one.anchor) for one in manipulations]),
        controls=np.stack([unit(one.control) for one in manipulations]),
        strengths=np.float32([one.strength for one in manipulations]),
        thresholds=np.float32([one.threshold for one in manipulations]),
        local=np.array([one.control is not None for one in manipulations]),
        adaptive=np.array([one.adaptive for one in manipulations]),
    )
    missing = -len(manipulations) % MULTIPLE
    return jax.tree.map(
        lambda rows: np.pad(rows, ((0, missing),) + ((0, 0),) * (rows.ndim - 1)), given
    )


def manipulate(tokens: Array, directions: TextDirections) -> Array:
    """Move a reference's tokens, by one manipulation after another.

    Args:
        tokens: (B, 1 + patches, C) of the vision tower, projected, class token first.
        directions: see the module.

    Returns:
        (B, 1 + patches, C) in the tokens' dtype.
    """
    moved, _ = jax.lax.scan(
        lambda v, one: (_step(v, one), None), tokens.astype(jnp.float32), directions
    )
    return moved.astype(tokens.dtype)


def _step(v: Array, one: TextDirections) -> Array:
    """One manipulation of tokens (B, 1 + P, C) float32; `one` without its leading axis."""
    direction = one.targets - one.anchors
    unit = jnp.linalg.norm(v[:, :1], axis=-1)  # (B, 1)
    weight = jnp.where(one.local, _likeness(v, one), 1.0)
    amount = jnp.where(one.adaptive, _distance(v, one, direction, unit), 1.0)
    return v + (one.strengths * unit * weight * amount)[..., None] * direction


def _likeness(v: Array, one: TextDirections) -> Array:
    """w (B, 1 + P): each token's similarity to the control."""
    patches = v[:, 1:]
    cosine = _dot(patches, one.controls)
    cosine /= jnp.maximum(jnp.linalg.norm(patches, axis=-1), TINY)
    low, high = (edge(cosine, axis=1, keepdims=True) for edge in (jnp.min, jnp.max))
    # A threshold of 1 would divide by zero: only the most similar patch is selected.
    begin = jnp.minimum(one.thresholds, 1 - TINY)
    share = (cosine - low) / jnp.maximum(high - low, TINY)
    weight = jnp.maximum(0, (share - begin) / (1 - begin))
    return jnp.concatenate([jnp.mean(weight, axis=1, keepdims=True), weight], axis=1)


def _distance(v: Array, one: TextDirections, direction: Array, unit: Array) -> Array:
    """g (B, 1 + P): each token's remaining distance to the target, in units of the direction."""
    square = jnp.maximum(jnp.sum(direction**2), TINY)
    own = _dot(v, direction) / jnp.maximum(unit * square, TINY)
    return jnp.maximum(0, _dot(one.targets, direction) / square - own)


def _dot(vectors: Array, vector: Array) -> Array:
    # Fast matrix products would round away the differences of small cosines.
    return jnp.dot(vectors, vector, precision=jax.lax.Precision.HIGHEST)
