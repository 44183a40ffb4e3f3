"""Whether a result says what the reference says, by networks' outputs: CLIP's and the tagger's."""

import numpy as np

from colorize_jax.errors import UserError


def clip_similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """CLIP score of image to image: cosine of two embeddings, -1..1.

    Args:
        a, b: (..., D) CLIP's projected class token of results and references, of any length.

    Returns:
        (...) float64; NaN where an embedding is zero.

    Raises:
        UserError: the shapes differ.
    """
    a, b = _pair(a, b, "embeddings")
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.sum(a * b, axis=-1) / np.where(lengths > 0, lengths, np.nan)


def tag_agreement(
    probabilities_result: np.ndarray, probabilities_reference: np.ndarray, threshold: float = 0.35
) -> tuple[np.ndarray, np.ndarray]:
    """How far the tagger sees in the result what it sees in the reference.

    Args:
        probabilities_result, probabilities_reference: (..., num_tags) in [0, 1].
        threshold: a picture has the tags whose probability exceeds it; 0.35 is the tagger's own.

    Returns:
        F1 of the result's tags against the reference's, 0..1, NaN where neither has any; and the
        mean absolute difference of all probabilities; (...) float64 each.

    Raises:
        UserError: the shapes differ.
    """
    ours, theirs = _pair(probabilities_result, probabilities_reference, "tag probabilities")
    has, should = ours > threshold, theirs > threshold
    total = has.sum(axis=-1) + should.sum(axis=-1)
    f1 = 2 * (has & should).sum(axis=-1) / np.where(total > 0, total, np.nan)
    return f1, np.abs(ours - theirs).mean(axis=-1)


def _pair(a: np.ndarray, b: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        raise UserError(
            f"got {what} of shapes {a.shape} and {b.shape}, expected one shape; give the same "
            "pictures of both to one network"
        )
    return a, b
