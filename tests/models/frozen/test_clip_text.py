"""CLIP's text tower: what a token sees, which one stands for the text, and its fields."""

import jax
import numpy as np
import pytest
import small_models

from colorize_jax.errors import UserError
from colorize_jax.io.published import torch_names
from colorize_jax.models.architectures import abstract_params, build
from colorize_jax.models.frozen.clip_text import ClipText

END = small_models.CONFIGS["clip_text"]["vocab_size"] - 1


def test_the_first_end_stands_for_the_text():
    config = small_models.full_config("clip_text")
    arrays = small_models.tensors("clip_text", prefix="", dtype=np.float32)
    params = torch_names.from_torch("clip_text", arrays, abstract_params("clip_text", config))
    text, rest = [END - 1, 5, 9, END], [END] * 4
    ids = [
        text + rest,
        # What follows the end is not seen.
        [*text, 7, 3, END, 1],
        # Another order and another length are other texts.
        [END - 1, 9, 5, END, *rest],
        [END - 1, 5, 9, 9, END, *rest[1:]],
    ]
    embed = jax.jit(build("clip_text", config).apply)
    expected, same, *others = np.asarray(embed({"params": params}, np.int32(ids)))
    assert expected.shape == (16,)
    np.testing.assert_allclose(same, expected, atol=1e-6)
    assert all(np.abs(other - expected).max() > 1e-4 for other in others)


def test_heads_must_divide_the_width():
    with pytest.raises(UserError, match="5 heads"):
        ClipText(hidden_size=64, num_heads=5)


def test_size_of_the_published_tower():
    """That of ViT-bigG/14: 694.7 million parameters."""
    leaves = jax.tree.leaves(abstract_params("clip_text", {}))
    layers = 32 * (4 * 1280 * 1281 + 2 * 5120 * 1280 + 5120 + 1280 + 4 * 1280)
    assert sum(x.size for x in leaves) == layers + (49408 + 77 + 2 + 1280) * 1280 == 694_659_840
