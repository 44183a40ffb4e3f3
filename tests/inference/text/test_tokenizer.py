"""The tokenizer, read from either kind of files, and what is wrong with others."""

import builtins
import json

import pytest
import small_models
import small_tokenizer

from colorize_jax.errors import UserError
from colorize_jax.inference.text.tokenizer import Tokenizer, _from_parts

END = small_models.CONFIGS["clip_text"]["vocab_size"] - 1
TEXTS = (
    "red hair",
    "  RED\n hair ",
    "1girl, (long hair:1.2), she's smiling!",
    "caf\u00e9 \u8d64\u3044\u9aea",
    "<|endoftext|>",
    "",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_tokenizer.save(tmp_path_factory.mktemp("tokenizer") / "parts")


def test_words_and_padding(folder):
    tokenizer = Tokenizer(folder, END)
    vocabulary = json.loads((folder / "vocab.json").read_text())
    words = [vocabulary["red</w>"], vocabulary["hair</w>"]]
    assert tokenizer("red hair", 6) == [END - 1, *words, END, END, END]
    assert tokenizer("  RED\n Hair ", 4) == [END - 1, *words, END]
    assert tokenizer("", 3) == [END - 1, END, END]
    # Letters are taken apart where no merge is known; digits and signs stand alone.
    letters = [vocabulary[token] for token in ("x", "q</w>", "1</w>", "2</w>", ",</w>")]
    assert tokenizer("xq12,", 9) == [END - 1, *letters, END, END, END]


def test_one_file_is_the_same(folder, tmp_path):
    whole = _from_parts(folder)
    # What whoever saved it wanted of lengths does not count.
    whole.enable_truncation(3)
    whole.enable_padding(length=9, pad_token="!")
    whole.save(str(tmp_path / "tokenizer.json"))
    parts = Tokenizer(folder, END)
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        tokenizer = Tokenizer(path, END)
        for text in TEXTS[:4]:
            assert tokenizer(text, 77) == parts(text, 77)


def test_long_texts_are_refused(folder):
    tokenizer = Tokenizer(folder, END)
    assert len(tokenizer("red " * 10, 12)) == 12
    with pytest.raises(
        UserError, match=r'"red red .*\.\.\." of 11 tokens, expected at most 10,'
    ) as caught:
        tokenizer("red " * 11, 12)
    assert "\n" not in str(caught.value)


def test_bad_files_give_one_line(folder, tmp_path):
    def refused(path, message, end=END):
        with pytest.raises(UserError, match=message) as caught:
            Tokenizer(path, end)
        assert "\n" not in str(caught.value)

    refused(tmp_path, "expected a folder with CLIP's tokenizer.json")
    refused(tmp_path / "missing", "expected a folder with CLIP's tokenizer.json")
    refused(folder, "of 580 tokens, .* being 579, expected 49408 and 49407", 49407)
    (tmp_path / "tokenizer.json").write_text("{")
    refused(tmp_path, "cannot be read")
    other = tmp_path / "other"
    other.mkdir()
    (other / "vocab.json").write_text('{"a": 0, "b": 1, "ab": 2}')
    (other / "merges.txt").write_text("#version: 0.2\na b\n")
    refused(other, "without <|startoftext|>".replace("|", r"\|"))
    (other / "merges.txt").write_text("#version: 0.2\na c\n")
    refused(other, "cannot be read")


def test_without_the_package(folder, monkeypatch):
    def no_tokenizers(name, *args, **options):
        if name.partition(".")[0] == "tokenizers":
            raise ImportError(name)
        return real(name, *args, **options)

    real = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", no_tokenizers)
    with pytest.raises(UserError, match=r"pip install '.\[text\]'"):
        Tokenizer(folder, END)


@pytest.mark.interop
def test_transformers_reads_the_same(folder):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.CLIPTokenizer.from_pretrained(folder)
    ours = Tokenizer(folder, END)
    for text in TEXTS[:4]:
        ids = theirs(text, padding="max_length", max_length=77)["input_ids"]
        assert ours(text, 77) == ids, text
