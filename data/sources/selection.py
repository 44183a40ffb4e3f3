"""Which pictures of a set a run takes, and what it says of the others."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from data.errors import DataError

MASKS = ("estimate", "off")
SKETCHES = ("files", "extract")


@dataclass(frozen=True)
class FolderOptions:
    """What is taken of a folder of pictures, or of another set.

    Attributes:
        indices: see `index_tables.find_tables`.
        min_aesthetic_score, min_short_side: filters; the published trainer uses 5.5 and 768 px. A
            picture without a score passes.
        reference_rate: share of the pictures with a `reference_list` that take a reference from it
            instead of themselves, drawn anew in every epoch.
        masks: "estimate" those that have no file, or "off": records without masks.
        sketches: "files", or "extract" the lines of pictures that have none.
        heldout_share: share of the pictures that training does not see, by a hash of their names.
        heldout: take those, and not the others.
        max_passed_over: share of the pictures that may be passed over as unusable.
        seed: of `FolderSource.__getitem__`.
    """

    indices: Sequence[str] = ()
    min_aesthetic_score: float = 0.0
    min_short_side: int = 0
    reference_rate: float = 0.0
    masks: str = "estimate"
    sketches: str = "files"
    heldout_share: float = 0.0
    heldout: bool = False
    max_passed_over: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("reference_rate", "heldout_share", "max_passed_over"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise DataError(f"got {name} {getattr(self, name)}, expected 0..1; give a share")
        for name, words in (("masks", MASKS), ("sketches", SKETCHES)):
            if getattr(self, name) not in words:
                raise DataError(
                    f"got {name} {getattr(self, name)!r}, expected one of {', '.join(words)}; "
                    "choose one"
                )
        if self.seed < 0:
            raise DataError(f"got seed {self.seed}, expected at least 0; raise it")


class Selection:
    """The rows of a set that pass its filters, in training or held out.

    Args:
        options: what to take.
        sound: (N,) whether a row can be used at all.
        short_sides: returns (N,) px.
        scores: returns (N,) aesthetic scores, those that are not known replaced.
        lots: (N,) in [0, 1), see `catalog.lots`.
        filters: reason -> (N,) whether a row passes, beside the options' own.

    Attributes:
        rows: of the pictures that are taken.
        num_other: how many are usable but on the other side of the split.
    """

    def __init__(
        self,
        options: FolderOptions,
        *,
        sound: np.ndarray,
        short_sides: Callable[[], np.ndarray],
        scores: Callable[[], np.ndarray],
        lots: np.ndarray,
        filters: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self._options, self._sound, self._filters = options, sound, dict(filters or {})
        if options.min_aesthetic_score:
            reason = f"aesthetic score below {options.min_aesthetic_score:g}"
            self._filters[reason] = scores() >= options.min_aesthetic_score
        if options.min_short_side:
            reason = f"short side below {options.min_short_side} px"
            self._filters[reason] = short_sides() >= options.min_short_side
        usable = np.logical_and.reduce([sound, *self._filters.values()])
        out = lots < options.heldout_share
        self.num_other = int((usable & (out != options.heldout)).sum())
        self.rows = np.flatnonzero(usable & (out == options.heldout)).astype(np.int32)

    def describe(self) -> list[str]:
        """What is held out or left out, a line each."""
        lines = []
        if self.num_other and not self._options.heldout:
            lines.append(f"  {self.num_other} held out for validation")
        for reason, passes in self._filters.items():
            count = int((self._sound & ~passes).sum())
            if count:
                lines.append(f"  {count} left out: {reason}")
        return lines

    def allows(self, num_faults: int) -> bool:
        """Whether there are pictures, and not too many that were meant to be used and cannot be."""
        total = num_faults + len(self.rows) + self.num_other
        return len(self.rows) > 0 and num_faults <= self._options.max_passed_over * total

    def refuse(self, root: object, num_faults: int, told: Sequence[str]) -> NoReturn:
        """Raise DataError for a set that is not allowed; `told` are lines that say why."""
        most = f"at most {self._options.max_passed_over:.0%} of them"
        raise DataError(
            f"got {root} with {len(self.rows)} pictures to use and {num_faults} that cannot be "
            f"({'; '.join(line.strip() for line in told)}), expected "
            f"{most if len(self.rows) else 'some that can be used'}; mend them or raise "
            "data.max_skipped_share"
        )
