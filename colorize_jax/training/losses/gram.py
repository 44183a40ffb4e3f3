"""Gram regularization: which places of a picture are alike must not depend on the reference.

The Gram matrix of a block's tokens, G = X X^T with every token at unit length, says which places of
the picture belong together. For the right reference (aligned) it is taken as a constant; for
another sample's reference (misaligned) it is pulled towards that constant (arXiv 2603.05971).
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from colorize_jax.types import Array

KINDS = ("mse", "kl", "ranking", "bce")

# Loss of a wrong binary prediction: binary cross entropy whose logarithm is clamped at -100.
WRONG_COST = 100.0

# The difference of two Gram matrices is small: it needs full float32 products, which TPUs and GPUs
# do not compute by default.
PRECISION = jax.lax.Precision.HIGHEST


def gram_weight(
    step: Array | int, total_steps: int, zero_share: float = 0.33, maximum: float = 1.0
) -> Array:
    """The Gram loss's weight lambda: zero for a share of the run, then linear up to `maximum`.

    Args:
        step: updates done so far, 0..total_steps; may be traced.
        total_steps: length of the run.
        zero_share: share of the run, 0..1, before the weight leaves zero.
        maximum: weight at the end of the run.
    """
    start = zero_share * total_steps
    length = max(total_steps - start, 1e-6)
    return maximum * jnp.clip((jnp.asarray(step, jnp.float32) - start) / length, 0.0, 1.0)


def gram_loss(
    misaligned: Mapping[str, Array],
    aligned: Mapping[str, Array],
    *,
    kind: str = "mse",
    standardize: bool = False,
    row_l2: bool = False,
    temperature: float = 1.0,
    ranking_margin: float = 0.1,
    ranking_alpha: float = 1.0,
    bce_alpha: float = 1.0,
    mask: Array | None = None,
    mask_threshold: float = 0.05,
) -> tuple[Array, dict[str, Array]]:
    """Compare the Gram matrices of both branches; no gradient flows into the aligned one.

    Args:
        misaligned: block -> (B, N, C) features under another sample's reference.
        aligned: the same blocks' features under the sample's own reference.
        kind: one of `KINDS`.
        standardize: first subtract the mean over tokens and divide by their standard deviation.
        row_l2: scale every row of a Gram matrix to unit length.
        temperature: of the softmax over a row (kl).
        ranking_margin: by how much similar places must exceed dissimilar ones (ranking).
        ranking_alpha, bce_alpha: a place is similar to a row's own where it exceeds the row's mean
            by so many standard deviations (ranking, bce).
        mask: (B, H, W, 1) in [0, 1]; only its tokens count (mse: pairs inside; bce: rows inside).
        mask_threshold: a token is inside the mask where the mask exceeds it.

    Returns:
        The sum over blocks, and every block's own loss; float32 scalars.
    """
    if kind not in KINDS:
        raise ValueError(f"got Gram loss {kind!r}, expected one of {', '.join(KINDS)}")
    if mask is not None and kind not in ("mse", "bce"):
        raise ValueError(f"got mask weights with Gram loss {kind!r}, expected mse or bce")
    losses = {}
    for block, features in misaligned.items():
        x = unit_tokens(features, standardize)
        y = jax.lax.stop_gradient(unit_tokens(aligned[block], standardize))
        inside = None if mask is None else token_mask(mask, x.shape[1], mask_threshold)
        if kind == "mse":
            losses[block] = _mse(x, y, row_l2, inside)
            continue
        g, target = gram_matrix(x), gram_matrix(y)
        if row_l2:
            g, target = _unit_rows(g), _unit_rows(target)
        if kind == "kl":
            losses[block] = _kl(g, target, temperature)
        elif kind == "ranking":
            losses[block] = _ranking(g, target, ranking_margin, ranking_alpha)
        else:
            losses[block] = _bce(g, target, bce_alpha, inside)
    return sum(losses.values(), jnp.float32(0)), losses


def unit_tokens(features: Array, standardize: bool = False) -> Array:
    """Scale every token to unit length over channels: (B, N, C) -> (B, N, C) float32.

    Args:
        features: (B, N, C) of any float dtype.
        standardize: first make every channel zero mean and unit deviation over tokens.
    """
    x = features.astype(jnp.float32)
    if standardize:
        x = x - jnp.mean(x, axis=1, keepdims=True)
        x = x / (_deviation(x, axis=1) + 1e-6)
    return _unit_rows(x)


def gram_matrix(x: Array) -> Array:
    """Inner products of unit tokens: (B, N, C) -> (B, N, N), every entry in [-1, 1]."""
    return jnp.einsum("bic,bjc->bij", x, x, precision=PRECISION)


def gram_contrast(features: Array, *, standardize: bool = False) -> tuple[Array, Array]:
    """Mean and deviation of the entries of Gram matrices, each a mean over the batch.

    Args:
        features: (B, N, C) of any float dtype.
        standardize: as of `gram_loss`.

    Returns:
        () float32 each: 1 and 0 where all tokens are parallel.
    """
    x = unit_tokens(features, standardize)
    num_tokens, channels = x.shape[1:]
    # No N x N matrix where C x C does.
    axes = "bnc,bnd->bcd" if num_tokens > channels else "bic,bjc->bij"
    products = jnp.einsum(axes, x, x, precision=PRECISION)
    means = jnp.sum(jnp.square(jnp.mean(x, axis=1)), axis=-1)
    variances = jnp.sum(jnp.square(products), axis=(1, 2)) / num_tokens**2 - jnp.square(means)
    return jnp.mean(means), jnp.mean(jnp.sqrt(jnp.maximum(variances, 0.0)))


def token_mask(mask: Array, num_tokens: int, threshold: float) -> Array:
    """Return which tokens of a grid are inside a mask of the picture.

    Args:
        mask: (B, H, W, 1) in [0, 1].
        num_tokens: N = h * w of a grid of the picture's aspect, row-major.
        threshold: a token is inside where the nearest pixel exceeds it.

    Returns:
        (B, N) of 0 and 1, float32.
    """
    height, width = mask.shape[1:3]
    h = round((num_tokens * height / width) ** 0.5)
    w = num_tokens // max(h, 1)
    if h * w != num_tokens:
        raise ValueError(f"got {num_tokens} tokens for a mask of {height}x{width}, expected a grid")
    rows = jnp.arange(h) * height // h
    columns = jnp.arange(w) * width // w
    tokens = mask[:, rows][:, :, columns, 0].reshape(mask.shape[0], num_tokens)
    return (tokens > threshold).astype(jnp.float32)


def _mse(x: Array, y: Array, row_l2: bool, inside: Array | None) -> Array:
    """Mean squared difference of two Gram matrices, over batch, rows and columns."""
    batch, num_tokens, channels = x.shape
    if num_tokens > channels:
        energy = _compact_energy(x, y, row_l2, inside)
        return jnp.sum(energy) / (batch * num_tokens**2)
    g, target = gram_matrix(x), gram_matrix(y)
    if row_l2:
        g, target = _unit_rows(g), _unit_rows(target)
    squared = jnp.square(g - target)
    if inside is not None:
        squared = squared * inside[:, :, None] * inside[:, None, :]
    return jnp.mean(squared)


def _compact_energy(x: Array, y: Array, row_l2: bool, inside: Array | None) -> Array:
    """|A X^T - B Y^T|^2 (Frobenius) through C x C products; A, B are X, Y or their scaled rows.

    With E = A - B and D = X - Y the difference is E X^T + B D^T, and every term below is a product
    with something that vanishes as the branches meet: nothing large cancels, unlike in
    |A X^T|^2 + |B Y^T|^2 - 2 <A X^T, B Y^T>.

    Returns:
        (B,) energies.
    """

    def product(p: Array, q: Array) -> Array:
        return jnp.einsum("bnc,bnd->bcd", p, q, precision=PRECISION)

    a, b = (_scale_gram_rows(x), _scale_gram_rows(y)) if row_l2 else (x, y)
    if inside is not None:
        a, b, x, y = (z * inside[:, :, None] for z in (a, b, x, y))
    e, d = a - b, x - y
    terms = (
        product(e, e) * product(x, x)
        + product(b, b) * product(d, d)
        + 2 * product(e, b) * product(x, d)
    )
    return jnp.sum(terms, axis=(1, 2))


def _scale_gram_rows(x: Array) -> Array:
    """Divide token i by the length of row i of X X^T, found without that matrix."""
    inner = jnp.einsum("bnc,bnd->bcd", x, x, precision=PRECISION)
    squared = jnp.einsum("bnc,bcd,bnd->bn", x, inner, x, precision=PRECISION)
    return x * jax.lax.rsqrt(jnp.maximum(squared, 1e-24))[..., None]


def _kl(g: Array, target: Array, temperature: float) -> Array:
    """KL(softmax(target row) || softmax(row)), summed over rows, mean over the batch.

    With p = softmax(target) and d the difference of the logits less its mean under p, it is
    log E_p[exp(d)]: no difference of two nearly equal log-softmaxes.
    """
    p = jax.nn.softmax(target / temperature, axis=-1)
    d = (g - target) / temperature
    d = d - jnp.sum(p * d, axis=-1, keepdims=True)
    return jnp.sum(jnp.log1p(jnp.sum(p * (jnp.expm1(d) - d), axis=-1))) / g.shape[0]


def _ranking(g: Array, target: Array, margin: float, alpha: float) -> Array:
    """Hinge between the least similar of the similar places and the most similar of the others."""
    similar = target > _threshold(target, alpha)
    least = jnp.min(jnp.where(similar, g, jnp.inf), axis=-1)
    most = jnp.max(jnp.where(similar, -jnp.inf, g), axis=-1)
    return jnp.mean(jnp.maximum(margin + most - least, 0.0))


def _bce(g: Array, target: Array, alpha: float, inside: Array | None) -> Array:
    """Binary cross entropy between which places are similar in either branch.

    Both sides are hard decisions, so the value is a step function of the features: its gradient is
    zero. Training follows the gradient of the same decision made soft, a sigmoid of the distance to
    the threshold in standard deviations of the row.
    """
    similar = target > _threshold(target, alpha)
    logits = (g - _threshold(g, alpha)) / (_deviation(g, axis=-1) + 1e-6)
    hard = WRONG_COST * ((logits > 0) != similar)
    soft = jax.nn.softplus(jnp.where(similar, -logits, logits))
    loss = soft + jax.lax.stop_gradient(hard - soft)
    if inside is not None:
        loss = loss * inside[:, :, None]
    return jnp.mean(loss)


def _threshold(g: Array, alpha: float) -> Array:
    return jnp.mean(g, axis=-1, keepdims=True) + alpha * _deviation(g, axis=-1)


def _deviation(x: Array, axis: int) -> Array:
    """Unbiased standard deviation, axis kept; zero, with zero gradient, where nothing varies."""
    variance = jnp.var(x, axis=axis, ddof=1, keepdims=True)
    return jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1.0)), 0.0)


def _unit_rows(x: Array) -> Array:
    """Scale the last axis to unit length; zeros stay zeros, with finite gradients."""
    squared = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squared, 1e-24))
