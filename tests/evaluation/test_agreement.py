"""Agreement of embeddings and tags by hand."""

import numpy as np
import pytest

from colorize_jax.errors import UserError
from colorize_jax.evaluation.agreement import clip_similarity, tag_agreement


def test_clip_similarity_is_a_cosine():
    a = np.array([[3.0, 0], [1, 1], [1, 0], [0, 0]])
    b = np.array([[2.0, 0], [-2, -2], [1, 1], [1, 0]])
    np.testing.assert_allclose(clip_similarity(a, b), [1, -1, np.sqrt(0.5), np.nan])
    assert clip_similarity(a[2], b[2]) == pytest.approx(np.sqrt(0.5))
    with pytest.raises(UserError, match="one network"):
        clip_similarity(a, b[:, :1])


def test_tag_agreement_by_hand():
    """One tag of two in common, then none in either picture."""
    ours = np.array([[0.9, 0.8, 0.1, 0.2], [0.1, 0.1, 0.1, 0.1]])
    theirs = np.array([[0.7, 0.2, 0.4, 0.2], [0.1, 0.3, 0.1, 0.1]])
    f1, distance = tag_agreement(ours, theirs, 0.35)
    np.testing.assert_allclose(f1, [0.5, np.nan])
    np.testing.assert_allclose(distance, [(0.2 + 0.6 + 0.3) / 4, 0.05])
    assert tag_agreement(ours[0], ours[0])[0] == 1
    with pytest.raises(UserError, match="one shape"):
        tag_agreement(ours, theirs[:1])
