"""What an option may be: each check returns a value in its canonical form or raises UserError."""

import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from colorize_jax.errors import UserError


def refuse(name: str, value: Any, expected: str) -> UserError:
    """Make the error for a value that is not what is `expected`."""
    return UserError(f"got {name} {value!r}, expected {expected}; change it")


class Check:
    """A rule for one option.

    Attributes:
        metavar: how help pages call a value.
        repeated: whether its flag may be given several times, all of them read by `parse_all`.
    """

    metavar: ClassVar[str | None] = None
    repeated: ClassVar[bool] = False

    def __call__(self, name: str, value: Any) -> Any:
        """Return `value` as it is kept; raise UserError if it is not allowed."""
        raise NotImplementedError

    def parse(self, name: str, text: str) -> Any:
        """Read a value from the command line and check it."""
        return self(name, _number_or_text(text))

    def parse_all(self, name: str, texts: Sequence[str]) -> Any:
        """Read the values of a flag that may be repeated, and check them."""
        raise NotImplementedError

    def plain(self, value: Any) -> Any:
        """Return a checked value as JSON has it."""
        return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Real(Check):
    """A finite number in [low, high]."""

    low: float = -math.inf
    high: float = math.inf
    metavar: ClassVar[str] = "X"

    def __call__(self, name: str, value: Any) -> float:
        expected = f"a number {_range(self.low, self.high)}"
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise refuse(name, value, expected)
        if not (math.isfinite(value) and self.low <= value <= self.high):
            raise refuse(name, value, expected)
        return float(value)


@dataclass(frozen=True)
class Whole(Check):
    """A whole number in [low, high]."""

    low: int
    high: int
    metavar: ClassVar[str] = "N"

    def __call__(self, name: str, value: Any) -> int:
        is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if not (is_whole and self.low <= value <= self.high):
            raise refuse(name, value, f"a whole number {_range(self.low, self.high)}")
        return int(value)


@dataclass(frozen=True)
class Flag(Check):
    """True or false."""

    def __call__(self, name: str, value: Any) -> bool:
        if not isinstance(value, bool):
            raise refuse(name, value, "true or false")
        return value

    def parse(self, name: str, text: str) -> bool:
        return self(name, {"true": True, "false": False}.get(text.lower(), text))


@dataclass(frozen=True)
class Choice(Check):
    """One of some words."""

    words: tuple[str, ...]
    metavar: ClassVar[str] = "WORD"

    def __call__(self, name: str, value: Any) -> str:
        if value not in self.words:
            raise refuse(name, value, f"one of {', '.join(self.words)}")
        return value

    def parse(self, name: str, text: str) -> str:
        return self(name, text)


@dataclass(frozen=True)
class Text(Check):
    """A text that says something."""

    metavar: ClassVar[str] = "TEXT"

    def __call__(self, name: str, value: Any) -> str:
        if not isinstance(value, str) or not value.strip():
            raise refuse(name, value, "a text")
        return value

    def parse(self, name: str, text: str) -> str:
        return self(name, text)


@dataclass(frozen=True)
class Named(Check):
    """A name that another module knows how to find: `find` returns it as it is written there."""

    find: Callable[[str], str]
    metavar: ClassVar[str] = "NAME"

    def __call__(self, name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise refuse(name, value, "a name")
        return self.find(value)

    def parse(self, name: str, text: str) -> str:
        return self(name, text)


@dataclass(frozen=True)
class Reals(Check):
    """A sequence of numbers, of a given length where one is given."""

    each: Real
    length: int | None = None
    metavar: ClassVar[str] = "X,X,..."

    def __call__(self, name: str, value: Any) -> tuple[float, ...]:
        is_sequence = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        if not is_sequence or (self.length is not None and len(value) != self.length):
            count = "numbers" if self.length is None else f"{self.length} numbers"
            raise refuse(name, value, f"a list of {count}")
        if not len(value):
            raise refuse(name, value, "at least one number")
        return tuple(self.each(f"{name}[{i}]", item) for i, item in enumerate(value))

    def parse(self, name: str, text: str) -> tuple[float, ...]:
        return self(name, [_number_or_text(part.strip()) for part in text.split(",")])


@dataclass(frozen=True)
class Window(Check):
    """Two numbers in [0, 1]: where it begins and, not before that, where it ends."""

    metavar: ClassVar[str] = "START,END"

    def __call__(self, name: str, value: Any) -> tuple[float, float]:
        start, end = Reals(Real(0, 1), 2)(name, value)
        if start > end:
            raise refuse(name, value, "its start before its end")
        return start, end

    def parse(self, name: str, text: str) -> tuple[float, float]:
        return self(name, [_number_or_text(part.strip()) for part in text.split(",")])


@dataclass(frozen=True)
class Scales(Check):
    """Numbers by name, kept as sorted (name, number) pairs."""

    each: Real
    metavar: ClassVar[str] = "NAME=X,..."

    def __call__(self, name: str, value: Any) -> tuple[tuple[str, float], ...]:
        try:
            pairs = dict(value)
        except (TypeError, ValueError):
            raise refuse(name, value, "numbers by name") from None
        if not all(isinstance(key, str) and key for key in pairs):
            raise refuse(name, value, "numbers by name")
        return tuple((key, self.each(f"{name}.{key}", pairs[key])) for key in sorted(pairs))

    def parse(self, name: str, text: str) -> tuple[tuple[str, float], ...]:
        pairs = [part.partition("=") for part in text.split(",") if part.strip()]
        return self(name, {key.strip(): _number_or_text(number) for key, _, number in pairs})

    def plain(self, value: tuple[tuple[str, float], ...]) -> dict[str, float]:
        return dict(value)


@dataclass(frozen=True)
class Maybe(Check):
    """Nothing, or what another check allows; on the command line "none" is nothing."""

    check: Check

    @property
    def metavar(self) -> str | None:
        """The other check's."""
        return self.check.metavar

    def __call__(self, name: str, value: Any) -> Any:
        return None if value is None else self.check(name, value)

    def parse(self, name: str, text: str) -> Any:
        return None if text.lower() == "none" else self.check.parse(name, text)

    def plain(self, value: Any) -> Any:
        return None if value is None else self.check.plain(value)


def _range(low: float, high: float) -> str:
    if math.isinf(high):
        return "" if math.isinf(low) else f"from {low} up"
    return f"from {low} to {high}"


def _number_or_text(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
