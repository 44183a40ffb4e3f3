"""A tokenizer like CLIP's for the small text tower: single bytes and a few words."""

import json

import small_models

WORDS = (
    "red blue green black white hair eyes sky night dress girl flower light dark long short "
    "standing smiling watercolor"
)
START, END = "<|startoftext|>", "<|endoftext|>"


def save(folder):
    """Write vocab.json and merges.txt and return the folder."""
    from tokenizers.pre_tokenizers import ByteLevel

    alphabet = sorted(ByteLevel.alphabet())
    size = small_models.CONFIGS["clip_text"]["vocab_size"]
    count = size - 2 - 2 * len(alphabet)
    merges = []
    for word in WORDS.split():
        left, *rest = [*word[:-1], word[-1] + "</w>"]
        for right in rest:
            merges += [] if (left, right) in merges else [(left, right)]
            left += right
    merges = merges[:count]
    assert len(merges) == count
    tokens = [*alphabet, *(a + "</w>" for a in alphabet), *map("".join, merges), START, END]
    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder
