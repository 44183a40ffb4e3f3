"""Options as frozen dataclasses whose fields carry default, rule and meaning: the one declaration
from which construction, files, command lines and help pages are checked."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from colorize_jax.config.checks import Check
from colorize_jax.errors import UserError, nearest


def option(default: Any, check: Check, text: str, *, only: Mapping[str, Any] | None = None) -> Any:
    """Declare an option.

    Args:
        default: its value where nobody says.
        check: what it may be.
        text: what it means, for help pages.
        only: name of another option of the section -> value, or tuple of values, with which alone
            this one has an effect; elsewhere it must keep its default.
    """
    metadata = {"check": check, "help": text, "only": dict(only or {})}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Options:
    """A section of options, checked when it is made.

    Subclasses are frozen dataclasses whose fields are made by `option`; `section` is put before
    their names in messages.

    Raises:
        UserError: a value that its rule does not allow.
    """

    section: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for name, check in rules(type(self)).items():
            object.__setattr__(self, name, check(self.section + name, getattr(self, name)))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Build options; what is left out keeps its default.

        Raises:
            UserError: an unknown option (the nearest is named) or a bad value.
        """
        if not isinstance(content, Mapping):
            raise UserError(
                f"got options of type {type(content).__name__}, expected an object of names and "
                "values; write one"
            )
        known = rules(cls)
        for name in content:
            if name not in known:
                raise UserError(
                    f'got unknown option "{name}", expected e.g. "{nearest(str(name), known)}" '
                    "(the nearest); rename it"
                )
        return cls(**content)

    def to_dict(self) -> dict[str, Any]:
        """Return all options as JSON has them."""
        return {name: check.plain(getattr(self, name)) for name, check in rules(type(self)).items()}

    def replace(self, **changes: Any) -> Self:
        """Return a checked copy with some fields changed; unknown names raise UserError."""
        return type(self).from_dict({**self.to_dict(), **changes})

    def without_effect(self) -> list[str]:
        """Say which options were set though the others leave them no effect: one phrase each."""
        phrases = []
        for one in dataclasses.fields(self):
            value = getattr(self, one.name)
            for other, allowed in one.metadata["only"].items():
                allowed = allowed if isinstance(allowed, tuple) else (allowed,)
                found = getattr(self, other)
                if value != one.default and found not in allowed:
                    phrases.append(
                        f"{self.section}{one.name} = {value!r} with {self.section}{other} = "
                        f"{found!r}, which does not read it (only {_listing(allowed)} does); leave "
                        f"it at {one.default!r}"
                    )
        return phrases


def rules(options: type[Options]) -> dict[str, Check]:
    """Name -> rule of every option of a section."""
    return {one.name: one.metadata["check"] for one in dataclasses.fields(options)}


def _listing(values: tuple[Any, ...]) -> str:
    return " or ".join(repr(value) for value in values)
