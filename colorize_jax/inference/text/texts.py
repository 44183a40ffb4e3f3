"""The texts of pictures: tokenized and embedded once, whatever the pictures."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from colorize_jax.errors import UserError
from colorize_jax.inference.text.directions import TextDirections, make_directions
from colorize_jax.inference.text.manipulation import TextManipulation
from colorize_jax.inference.text.tokenizer import Tokenizer
from colorize_jax.models.frozen.clip_text import ClipText


class Texts:
    """Reads texts, and keeps what was read.

    Args:
        tokenizer: folder of CLIP's, opened when it is first needed; None: there are no texts.
        tower: CLIP's text tower, or None.
        embed: tokens -> (C,) embedding by that tower.
    """

    def __init__(
        self,
        tokenizer: str | Path | None,
        tower: ClipText | None,
        embed: Callable[[list[int]], np.ndarray],
    ):
        self._path, self._tower, self._embed = tokenizer, tower, embed
        self._tokenizer: Tokenizer | None = None
        self._embeddings: dict[str, np.ndarray] = {}

    def directions(self, wanted: Sequence[TextManipulation]) -> TextDirections | None:
        """Where texts lead a reference's tokens; errors as for `tokenize`."""
        if not wanted:
            return None
        for text, ids in self.tokenize(wanted).items():
            if text not in self._embeddings:
                self._embeddings[text] = self._embed(ids)
        return make_directions(wanted, self._embeddings)

    def tokenize(self, wanted: Sequence[TextManipulation]) -> dict[str, list[int]]:
        """Text -> tokens, of all that are to be read.

        Raises:
            UserError: there is no tokenizer, it is not the tower's, or a text is too long.
        """
        texts = dict.fromkeys(text for one in wanted for text in one.texts)
        if not texts:
            return {}
        if self._path is None:
            raise UserError(
                "got text without a tokenizer, expected the folder of CLIP's (tokenizer.json, or "
                "vocab.json and merges.txt); name it with --tokenizer"
            )
        if self._tokenizer is None:
            self._tokenizer = Tokenizer(self._path, self._tower.end_token)
        return {text: self._tokenizer(text, self._tower.context_length) for text in texts}
