"""CLIP's tokenizer (byte pairs of lower-case text), from the files beside a CLIP."""

from pathlib import Path
from typing import Any

from colorize_jax.errors import UserError

START, END = "<|startoftext|>", "<|endoftext|>"
WHOLE, VOCABULARY, MERGES = "tokenizer.json", "vocab.json", "merges.txt"
EXPECTED = f"a folder with CLIP's {WHOLE}, or with {VOCABULARY} and {MERGES}"
# Words before byte-pair encoding: English contractions, letters, one digit, other characters.
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class Tokenizer:
    """Turns texts into the tokens of CLIP's text tower."""

    def __init__(self, path: str | Path, end: int):
        """Read the files.

        Args:
            path: a folder with tokenizer.json, or with vocab.json and merges.txt; or one
                tokenizer.json.
            end: the token that ends a text for the tower, the last of its vocabulary.

        Raises:
            UserError: they are not there, damaged or not the tower's, or the package that reads
                them is not installed.
        """
        self._tokenizer = _read(Path(path))
        self._start, self._end = (self._tokenizer.token_to_id(token) for token in (START, END))
        if self._start is None or self._end is None:
            raise UserError(
                f"got tokenizer {path} without {START} and {END}, expected {EXPECTED}; name another"
            )
        if self._end != end or self._tokenizer.get_vocab_size() != end + 1:
            raise UserError(
                f"got tokenizer {path} of {self._tokenizer.get_vocab_size()} tokens, {END} being "
                f"{self._end}, expected {end + 1} and {end} as the text tower has them; name the "
                "one that lies beside its weights"
            )

    def __call__(self, text: str, length: int) -> list[int]:
        """Return the `length` tokens of a text: a start, the text's own, and ends for the rest.

        Raises:
            UserError: the text has too many of them.
        """
        own = self._tokenizer.encode(text, add_special_tokens=False).ids
        if len(own) > length - 2:
            raise UserError(
                f'got the text "{_beginning(text)}" of {len(own)} tokens, expected at most '
                f"{length - 2}, which is all that CLIP reads; shorten it"
            )
        return [self._start, *own, *[self._end] * (length - 1 - len(own))]


def _read(path: Path) -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise UserError(
            "got a text but no tokenizers to read it, expected the package installed; "
            "pip install '.[text]'"
        ) from error
    whole = path / WHOLE if path.is_dir() else path
    try:
        if whole.is_file():
            tokenizer = tokenizers.Tokenizer.from_file(str(whole))
            # Set here, because a saved file may have other values.
            tokenizer.no_padding()
            tokenizer.no_truncation()
            return tokenizer
        if (path / VOCABULARY).is_file() and (path / MERGES).is_file():
            return _from_parts(path)
    except Exception as error:  # the library raises nothing more specific
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"got tokenizer {path} that cannot be read ({reason}), expected {EXPECTED}; get "
            "another copy"
        ) from error
    raise UserError(f"got tokenizer {path}, expected {EXPECTED}; name another")


def _from_parts(path: Path) -> Any:
    """CLIP's tokenizer from its vocabulary and merges."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    pairs = models.BPE.read_file(str(path / VOCABULARY), str(path / MERGES))
    tokenizer = Tokenizer(models.BPE(*pairs, end_of_word_suffix="</w>", unk_token=END))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return tokenizer


def _beginning(text: str, length: int = 40) -> str:
    return text if len(text) <= length else text[:length] + "..."
