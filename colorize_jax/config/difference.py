"""How two configs differ, option by option, under dotted names."""

from collections.abc import Mapping, Sequence
from typing import Any

NUM_SHOWN = 4  # options that `difference` names


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections -> dotted name of every option -> value."""
    flat: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def belongs(name: str, sections: Sequence[str]) -> bool:
    """Whether an option is one of `sections`, dotted names, or lies in one of them."""
    return any(name == section or name.startswith(section + ".") for section in sections)


def differing(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Names of the options in which two flat configs differ, one that is missing among them."""
    missing = object()
    names = dict.fromkeys([*here, *there])
    return [name for name in names if here.get(name, missing) != there.get(name, missing)]


def difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Say the first options in which two flat configs differ; "" where they are the same."""
    names = differing(there, here)
    shown = "; ".join(
        f"{name} is {there.get(name, 'missing')!r} there and {here.get(name, 'missing')!r} here"
        for name in names[:NUM_SHOWN]
    )
    more = len(names) - NUM_SHOWN
    return f"{shown}; and {more} more" if more > 0 else shown
