"""Types and ranges of options: a check returns a value in canonical form or raises UserError."""

import ast
import math
import numbers
import re
import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from colorize_jax.errors import UserError, nearest

# Files can hold values that are endless when they are written out.
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 4, 200, 200
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 20


def refuse(name: str, value: Any, expected: str) -> UserError:
    """Make the error for a value that is not as `expected`."""
    return UserError(f"got {name} {_SHORT.repr(value)}, expected {expected}; change it")


class Check:
    """A rule for one option.

    The checks below repeat these members in the same order; each differs in what it accepts.

    Attributes:
        metavar: how help pages call a value.
        repeated: whether its flag may be given several times, all of them read by `parse_all`.
        plural: what several values are called.
    """

    metavar: ClassVar[str | None] = None
    repeated: ClassVar[bool] = False
    plural: ClassVar[str] = "values"

    @property
    def expected(self) -> str:
        """What an error message says after "expected"."""
        raise NotImplementedError

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
    """A finite number in [low, high], or in (low, high), where the ends are `open`."""

    low: float = -math.inf
    high: float = math.inf
    open: str = ""  # "low", "high" or "both": ends that are not allowed themselves
    plural: ClassVar[str] = "numbers"
    metavar: ClassVar[str] = "X"

    @property
    def expected(self) -> str:
        low = f"above {self.low}" if self.open in ("low", "both") else f"from {self.low}"
        high = f"below {self.high}" if self.open in ("high", "both") else f"to {self.high}"
        if math.isinf(self.high):
            return "a number" if math.isinf(self.low) else f"a number {low} up"
        return f"a number {low} {high}"

    def __call__(self, name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise refuse(name, value, self.expected)
        above = value > self.low if self.open in ("low", "both") else value >= self.low
        below = value < self.high if self.open in ("high", "both") else value <= self.high
        if not (math.isfinite(value) and above and below):
            raise refuse(name, value, self.expected)
        return float(value)


@dataclass(frozen=True)
class Whole(Check):
    """A whole number in [low, high]."""

    low: int
    high: int
    plural: ClassVar[str] = "whole numbers"
    metavar: ClassVar[str] = "N"

    @property
    def expected(self) -> str:
        if self.low == self.high:
            return str(self.low)
        return f"a whole number from {self.low} to {self.high}"

    def __call__(self, name: str, value: Any) -> int:
        is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if not (is_whole and self.low <= value <= self.high):
            raise refuse(name, value, self.expected)
        return int(value)


@dataclass(frozen=True)
class Flag(Check):
    """True or false."""

    expected: ClassVar[str] = "true or false"

    def __call__(self, name: str, value: Any) -> bool:
        if not isinstance(value, bool):
            raise refuse(name, value, self.expected)
        return value

    def parse(self, name: str, text: str) -> bool:
        return self(name, {"true": True, "false": False}.get(text.lower(), text))


@dataclass(frozen=True)
class Choice(Check):
    """One of some words."""

    words: tuple[str, ...]
    metavar: ClassVar[str] = "WORD"

    @property
    def expected(self) -> str:
        return f"one of {', '.join(self.words)}"

    def __call__(self, name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in self.words:
            raise refuse(name, value, f"{self.expected} (nearest: {nearest(value, self.words)})")
        return value

    def parse(self, name: str, text: str) -> str:
        return self(name, text)


@dataclass(frozen=True)
class Text(Check):
    """A text; with `empty`, also an empty one."""

    empty: bool = False
    plural: ClassVar[str] = "texts"
    metavar: ClassVar[str] = "TEXT"
    expected: ClassVar[str] = "a text"

    def __call__(self, name: str, value: Any) -> str:
        if not isinstance(value, str) or not (value.strip() or (self.empty and not value)):
            raise refuse(name, value, self.expected)
        return value

    def parse(self, name: str, text: str) -> str:
        return self(name, text)


@dataclass(frozen=True)
class Location(Text):
    """A path or URL."""

    metavar: ClassVar[str] = "PATH"
    plural: ClassVar[str] = "paths"
    expected: ClassVar[str] = "a path"

    def __call__(self, name: str, value: Any) -> str:
        value = super().__call__(name, value)
        if "\0" in value:
            raise refuse(name, value, self.expected)
        return value


@dataclass(frozen=True)
class Pattern(Check):
    """A regular expression."""

    plural: ClassVar[str] = "regular expressions"
    metavar: ClassVar[str] = "PATTERN"
    expected: ClassVar[str] = "a regular expression"

    def __call__(self, name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise refuse(name, value, self.expected)
        try:
            re.compile(value)
        except re.error as error:
            raise refuse(name, value, f"{self.expected} ({error})") from None
        return value

    def parse(self, name: str, text: str) -> str:
        return self(name, text)


@dataclass(frozen=True)
class Named(Check):
    """A name of a registry: `find` returns its canonical spelling."""

    find: Callable[[str], str]
    metavar: ClassVar[str] = "NAME"
    expected: ClassVar[str] = "a name"

    def __call__(self, name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise refuse(name, value, self.expected)
        return self.find(value)

    def parse(self, name: str, text: str) -> str:
        return self(name, text)


@dataclass(frozen=True)
class Items(Check):
    """A sequence, kept as a tuple: of values of one kind, of a given length where one is given."""

    each: Check
    length: int | None = None
    empty: bool = False  # whether it may hold nothing

    @property
    def metavar(self) -> str:
        """The items', twice."""
        return f"{self.each.metavar},{self.each.metavar},..."

    @property
    def expected(self) -> str:
        count = "" if self.length is None else f"{self.length} "
        return f"a list of {count}{self.each.plural}"

    def __call__(self, name: str, value: Any) -> tuple[Any, ...]:
        is_sequence = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        if not is_sequence or self.length not in (None, len(value)):
            raise refuse(name, value, self.expected)
        if not (len(value) or self.empty):
            raise refuse(name, value, f"at least one, {self.each.expected}")
        return tuple(self.each(f"{name}[{i}]", item) for i, item in enumerate(value))

    def parse(self, name: str, text: str) -> tuple[Any, ...]:
        items = _literal(text)
        if items is None:
            parts = (part.strip() for part in text.split(","))
            items = [self.each.parse(f"{name}[{i}]", part) for i, part in enumerate(parts)]
        return self(name, items)

    def plain(self, value: tuple[Any, ...]) -> list[Any]:
        return [self.each.plain(item) for item in value]


@dataclass(frozen=True)
class Pair(Check):
    """Two values, each of its own kind."""

    first: Check
    second: Check
    plural: ClassVar[str] = "pairs"

    @property
    def metavar(self) -> str:
        """Both, in brackets."""
        return f"({self.first.metavar},{self.second.metavar})"

    @property
    def expected(self) -> str:
        return f"({self.first.expected}, {self.second.expected})"

    def __call__(self, name: str, value: Any) -> tuple[Any, Any]:
        is_sequence = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        if not is_sequence or len(value) != 2:
            raise refuse(name, value, self.expected)
        return self.first(f"{name}[0]", value[0]), self.second(f"{name}[1]", value[1])

    def parse(self, name: str, text: str) -> tuple[Any, Any]:
        return self(name, _literal(text) or [_number_or_text(part) for part in text.split(",")])


@dataclass(frozen=True)
class Either(Check):
    """What one of several checks allows."""

    checks: tuple[Check, ...]

    @property
    def metavar(self) -> str:
        """All of them."""
        return "|".join(str(check.metavar) for check in self.checks)

    @property
    def expected(self) -> str:
        return " or ".join(check.expected for check in self.checks)

    def __call__(self, name: str, value: Any) -> Any:
        for check in self.checks:
            try:
                return check(name, value)
            except UserError:
                continue
        raise refuse(name, value, self.expected)


@dataclass(frozen=True)
class Window(Check):
    """Two numbers in [0, 1]: where it begins and, not before that, where it ends."""

    metavar: ClassVar[str] = "START,END"
    expected: ClassVar[str] = "two numbers from 0 to 1"

    def __call__(self, name: str, value: Any) -> tuple[float, float]:
        start, end = Items(Real(0, 1), 2)(name, value)
        if start > end:
            raise refuse(name, value, "its start before its end")
        return start, end

    def parse(self, name: str, text: str) -> tuple[float, float]:
        return self(name, _literal(text) or [_number_or_text(part) for part in text.split(",")])


@dataclass(frozen=True)
class Scales(Check):
    """Numbers by name, kept as sorted (name, number) pairs."""

    each: Real
    metavar: ClassVar[str] = "NAME=X,..."
    expected: ClassVar[str] = "numbers by name"

    def __call__(self, name: str, value: Any) -> tuple[tuple[str, float], ...]:
        try:
            pairs = dict(value)
        except (TypeError, ValueError):
            raise refuse(name, value, self.expected) from None
        if not all(isinstance(key, str) and key for key in pairs):
            raise refuse(name, value, self.expected)
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

    @property
    def expected(self) -> str:
        return f"{self.check.expected} or none"

    def __call__(self, name: str, value: Any) -> Any:
        return None if value is None else self.check(name, value)

    def parse(self, name: str, text: str) -> Any:
        return None if text.lower() == "none" else self.check.parse(name, text)

    def plain(self, value: Any) -> Any:
        return None if value is None else self.check.plain(value)


def _number_or_text(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _literal(text: str) -> Sequence[Any] | None:
    """Read a list or a tuple as Python writes it; None for anything else."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None
    return value if isinstance(value, list | tuple) else None
