"""Who is in a picture, so that it can name other pictures of the same character.

Ways to tell, each a word:

    folder            the folder that it lies in
    pattern:REGEX     what the groups of a regular expression find in its location
    column:NAME       a column of the user's table
    tags              the tagger's tags of characters
    tags:REGEX        those of its tags that match as a whole
    embeddings:COSINE pictures whose embeddings are at least that alike, and those alike to them
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from data.errors import DataError

Groups = list[str | None]

_WORDS = "folder, pattern:REGEX, column:NAME, tags, tags:REGEX or embeddings:COSINE"
_PLANES, _TABLES, _NEIGHBOURS = 16, 12, 64  # of hashes that find alike embeddings
_ALL_PAIRS = 4096  # embeddings, up to which each is compared with all others


def check_words(words: Sequence[str], *, has_table: bool, has_tags: bool, has_embeddings: bool):
    """Raise DataError where a word is none, or asks for what the job does not have."""
    for word in words:
        way, _, given = word.partition(":")
        needs = {"folder": False, "tags": None, "pattern": True, "column": True, "embeddings": True}
        if way not in needs or needs[way] not in (None, bool(given)):
            raise DataError(f"got characters {word!r}, expected {_WORDS}; write it so")
        if way == "column" and not has_table:
            raise DataError(
                f"got characters {word!r} without --metadata, expected a table; name it"
            )
        if way == "tags" and not has_tags:
            raise DataError(
                f"got characters {word!r} without tags, expected a tagger or a table with a column "
                "tags; give --tagger or --metadata"
            )
        if way == "embeddings":
            _number(word, given)
            if not has_embeddings:
                raise DataError(
                    f"got characters {word!r} without embeddings, expected the description of a "
                    "model; give --embeddings"
                )
        if way in ("pattern", "tags"):
            _compiled(word, given)


def find_groups(facts: pa.Table, words: Sequence[str], column: Callable[[str], Groups]) -> Groups:
    """The character of every picture, by the first way that tells one; None where none does.

    Args:
        facts: of all pictures, with `source`, `tags`, `characters` and `embedding`.
        words: see above.
        column: the values of a column of the user's table, one for each picture.
    """
    found: Groups = [None] * len(facts)
    for word in words:
        way, _, given = word.partition(":")
        told = _WAYS[way](facts, given, column)
        for i, value in enumerate(told):
            if found[i] is None and value:
                found[i] = f"{word} {value}"
    return found


def references(groups: Groups, names: Sequence[str], most: int) -> list[list[str] | None]:
    """For every picture the names of the next ones of its character, in a circle."""
    members: dict[str, list[int]] = {}
    for i in sorted(range(len(names)), key=names.__getitem__):
        if groups[i] is not None:
            members.setdefault(groups[i], []).append(i)
    lists: list[list[str] | None] = [None] * len(names)
    for group in members.values():
        if len(group) > 1:
            around = group * 2
            for place, i in enumerate(group):
                others = around[place + 1 : place + 1 + min(most, len(group) - 1)]
                lists[i] = [names[other] for other in others]
    return lists


def _by_folder(facts: pa.Table, given: str, column: Any) -> Groups:
    return [source.rpartition("/")[0] or None for source in facts["source"].to_pylist()]


def _by_pattern(facts: pa.Table, given: str, column: Any) -> Groups:
    pattern = _compiled(f"pattern:{given}", given)
    found = (pattern.search(source) for source in facts["source"].to_pylist())
    return [match and "/".join(filter(None, match.groups() or (match[0],))) for match in found]


def _by_column(facts: pa.Table, given: str, column: Callable[[str], Groups]) -> Groups:
    return column(given)


def _by_tags(facts: pa.Table, given: str, column: Any) -> Groups:
    if not given:
        return [", ".join(sorted(names or ())) for names in facts["characters"].to_pylist()]
    pattern = _compiled(f"tags:{given}", given)
    lists = ((tags or "").split(", ") for tags in facts["tags"].to_pylist())
    return [", ".join(sorted(filter(pattern.fullmatch, tags))) for tags in lists]


def _by_embeddings(facts: pa.Table, given: str, column: Any) -> Groups:
    least = _number(f"embeddings:{given}", given)
    has = np.flatnonzero([value is not None for value in facts["embedding"].to_pylist()])
    if not len(has):
        return [None] * len(facts)
    values = np.array(facts["embedding"].take(has).to_pylist(), np.float32)
    values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)
    pairs = _pairs(values)
    near = np.einsum("md,md->m", values[pairs[:, 0]], values[pairs[:, 1]]) >= least
    one, other = pairs[near].T
    graph = coo_array((np.ones(len(one), bool), (one, other)), (len(has), len(has)))
    labels = connected_components(graph, directed=False)[1]
    counts = np.bincount(labels)
    groups: Groups = [None] * len(facts)
    for row, label in zip(has.tolist(), labels.tolist(), strict=True):
        groups[row] = str(label) if counts[label] > 1 else None
    return groups


def _pairs(values: np.ndarray) -> np.ndarray:
    """(M, 2) positions of embeddings (N, D) that may be alike: of few all, of many by hashes."""
    count = len(values)
    if count <= _ALL_PAIRS:
        return np.stack(np.triu_indices(count, 1), axis=1)
    rng, found = np.random.default_rng(0), []
    centred = values - values.mean(axis=0)
    for _ in range(_TABLES):
        planes = rng.normal(size=(values.shape[1], _PLANES)).astype(np.float32)
        keys = (centred @ planes > 0) @ (1 << np.arange(_PLANES))
        order = np.argsort(keys, kind="stable")
        for step in range(1, _NEIGHBOURS):
            together = np.flatnonzero(keys[order[step:]] == keys[order[:-step]])
            found.append(np.stack([order[together], order[together + step]], axis=1))
    return np.unique(np.concatenate(found), axis=0)


_WAYS = {
    "folder": _by_folder,
    "pattern": _by_pattern,
    "column": _by_column,
    "tags": _by_tags,
    "embeddings": _by_embeddings,
}


def _compiled(word: str, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise DataError(
            f"got characters {word!r}, which is no regular expression ({error}), expected one; "
            "mend it"
        ) from None


def _number(word: str, given: str) -> float:
    try:
        value = float(given)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise DataError(f"got characters {word!r}, expected a cosine between 0 and 1; write it so")
    return value
