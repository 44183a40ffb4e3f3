"""Text manipulations as options: how they are written and checked; `directions` computes them.

A manipulation moves the reference's tokens from one text to another, either all of them or those
similar to a third text. It is an object in files and one line on the command line:

    {"target": "red hair", "anchor": "blue hair", "control": "hair", "strength": 0.8}
    red hair; anchor=blue hair; control=hair; strength=0.8
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from colorize_jax.config.checks import Check, Flag, Maybe, Real, Text, refuse
from colorize_jax.errors import UserError, nearest

SEPARATOR = ";"


@dataclass(frozen=True)
class TextManipulation:
    """One manipulation.

    Attributes:
        target: what the reference should be.
        anchor: what it is now, in the same respect; None: the step leads straight to `target`.
        control: which tokens are moved: those that look like it; None: all alike.
        strength: factor of the step, -10..10; 0 does nothing, below it the step leads away.
        threshold: from which share on, 0..1, of the range of all tokens' likeness to `control` a
            token is moved.
        adaptive: whether a token goes only as far as it still is from `target`; with an anchor.

    Raises:
        UserError: a value of the wrong type or out of its range, or `adaptive` without anchor.
    """

    target: str
    anchor: str | None = None
    control: str | None = None
    strength: float = 1.0
    threshold: float = 0.5
    adaptive: bool = False

    def __post_init__(self) -> None:
        for name, rule in RULES.items():
            object.__setattr__(self, name, rule(f"text {name}", getattr(self, name)))
        if self.adaptive and self.anchor is None:
            raise UserError(
                f'got the text "{self.target}" as adaptive without anchor, expected one to measure '
                "the way from; add anchor=..."
            )

    @property
    def texts(self) -> tuple[str, ...]:
        """All that has to be embedded."""
        return tuple(t for t in (self.target, self.anchor, self.control) if t is not None)


RULES: dict[str, Check] = {
    "target": Text(),
    "anchor": Maybe(Text()),
    "control": Maybe(Text()),
    "strength": Real(-10, 10),
    "threshold": Real(0, 1),
    "adaptive": Flag(),
}


@dataclass(frozen=True)
class TextManipulations(Check):
    """Manipulations one after another; a flag for each, of which "none" alone is nothing."""

    metavar: ClassVar[str] = "TEXT;NAME=VALUE;..."
    repeated: ClassVar[bool] = True

    def __call__(self, name: str, value: Any) -> tuple[TextManipulation, ...]:
        if not isinstance(value, Sequence) or isinstance(value, str | bytes):
            raise refuse(name, value, "a list of objects with target, anchor, control, ...")
        return tuple(_manipulation(name, item) for item in value)

    def parse_all(self, name: str, texts: Sequence[str]) -> tuple[TextManipulation, ...]:
        if [text.lower() for text in texts] == ["none"]:
            return ()
        return tuple(_parse(name, text) for text in texts)

    def plain(self, value: tuple[TextManipulation, ...]) -> list[dict[str, Any]]:
        return [dataclasses.asdict(manipulation) for manipulation in value]


def _manipulation(name: str, value: Any) -> TextManipulation:
    if isinstance(value, TextManipulation):
        return value
    if not isinstance(value, Mapping) or "target" not in value:
        raise refuse(name, value, 'an object such as {"target": "red hair"}')
    for key in value:
        _check_name(name, key)
    return TextManipulation(**value)


def _parse(name: str, text: str) -> TextManipulation:
    """Read "target; name=value; ...".

    Raises:
        UserError: an unknown name (the nearest is named), or a value that it does not allow.
    """
    target, *settings = (part.strip() for part in text.split(SEPARATOR))
    given: dict[str, Any] = {}
    for setting in filter(None, settings):
        key, equals, value = (part.strip() for part in setting.partition("="))
        _check_name(name, key)
        if not equals or key == "target" or key in given:
            raise refuse(name, text, "a text, then each setting at most once as NAME=VALUE")
        given[key] = RULES[key].parse(f"{name} {key}", value)
    return TextManipulation(target, **given)


def _check_name(name: str, key: Any) -> None:
    if key not in RULES:
        raise UserError(
            f'got {name} with the unknown setting "{key}", expected some of {", ".join(RULES)} '
            f'(nearest: "{nearest(key, RULES)}")'
        )
