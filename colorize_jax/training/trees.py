"""Parameters selected by path: rules that match them, and the split into trained and frozen.

A path joins the keys that lead to a leaf by "/", e.g. "unet/input_blocks_4_1/norm/scale"; a rule is
a regular expression that is searched in it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import traverse_util

from colorize_jax.errors import UserError
from colorize_jax.types import Params

Leaf = Any


def paths(params: Params) -> list[str]:
    """List the paths of all leaves."""
    return list(traverse_util.flatten_dict(params, sep="/"))


def flatten(params: Params) -> dict[str, Leaf]:
    """A nested dict -> path -> leaf."""
    return traverse_util.flatten_dict(params, sep="/")


def unflatten(flat: Mapping[str, Leaf]) -> Params:
    """Undo `flatten`."""
    return traverse_util.unflatten_dict(dict(flat), sep="/")


def map_paths(function: Callable[[str, Leaf], Any], params: Params) -> Params:
    """Map `function(path, leaf)` over a nested dict; entries that are None or empty stay."""

    def at(path: tuple[Any, ...], leaf: Leaf) -> Any:
        return function("/".join(str(entry.key) for entry in path), leaf)

    return jax.tree_util.tree_map_with_path(at, params)


def matches(path: str, rules: Sequence[str]) -> bool:
    """Whether any rule is found in the path."""
    return any(re.search(rule, path) for rule in rules)


def split(params: Params, rules: Sequence[str], held: Sequence[str] = ()) -> tuple[Params, Params]:
    """Split parameters into those that a rule names and the others; either part is a nested dict.

    Args:
        params: a nested dict.
        rules: of the first part.
        held: rules of what belongs to the others whatever `rules` say.

    Raises:
        UserError: a rule names no parameter, or no parameter is named.
    """
    check_rules(params, rules)
    flat = traverse_util.flatten_dict(params, sep="/")
    named = {
        path: leaf
        for path, leaf in flat.items()
        if matches(path, rules) and not matches(path, held)
    }
    if not named:
        raise UserError(
            "got no trainable parameters, expected some; give optimizer.trainable a rule"
        )
    others = {path: leaf for path, leaf in flat.items() if path not in named}
    return tuple(traverse_util.unflatten_dict(part, sep="/") for part in (named, others))


def merge(*parts: Params) -> Params:
    """Join nested dicts; of a leaf that several have, the last one counts."""
    flat: dict[tuple[str, ...], Leaf] = {}
    for part in parts:
        flat |= traverse_util.flatten_dict(part)
    return traverse_util.unflatten_dict(flat)


def check_rules(params: Params, rules: Sequence[str]) -> None:
    """Check that every rule is a regular expression that names at least one parameter.

    Raises:
        UserError: it is not, or does not.
    """
    known = paths(params)
    for rule in rules:
        try:
            found = any(re.search(rule, path) for path in known)
        except re.error as error:
            raise UserError(
                f"got rule {rule!r} for parameters, expected a regular expression ({error}); "
                "correct it"
            ) from error
        if not found:
            examples = ", ".join(known[:: max(1, len(known) // 3)][:3])
            raise UserError(
                f"got rule {rule!r} that names no parameter, expected one that is found in paths "
                f"like {examples}; correct it"
            )
