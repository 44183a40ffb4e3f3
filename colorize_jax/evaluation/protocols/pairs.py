"""What is coloured and compared: sketches, their references, and the right answers.

A protocol says which references a sketch gets and for which of them the right answer is known.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from PIL import Image

from colorize_jax.errors import UserError
from data.errors import DataError
from data.illustrations import CrossPairSource
from data.records import Record
from data.sources import catalog
from data.sources.array_records import Pictures
from data.sources.folders import FolderSource

ALIGNED, CROSS, SHUFFLED, BACKGROUNDS = "aligned", "cross", "shuffled", "backgrounds"
HINTS = "hints"


@dataclass(frozen=True)
class Kind:
    """One way in which every sketch is coloured.

    Attributes:
        reference: which of a pair's references.
        plugin: whether the background plugin takes part.
        hinted: whether the pair's hints of colour are given.
        answered: whether the pair's truth is the right answer, not only a picture of its kind.
    """

    reference: str
    plugin: bool = False
    hinted: bool = False
    answered: bool = True


# Protocol -> name of a kind of results -> how it is made. The first one is the protocol's own.
FOLDER_KINDS = {
    ALIGNED: {"aligned": Kind("aligned")},
    CROSS: {"cross": Kind("cross"), "moved": Kind("moved")},
    SHUFFLED: {"shuffled": Kind("shuffled", answered=False)},
}
PRESETS = {"paper-5k": 5_000, "paper-50k": 50_000}
FOLDER_KINDS |= {name: FOLDER_KINDS[SHUFFLED] | FOLDER_KINDS[ALIGNED] for name in PRESETS}
DRAWN_KINDS = {
    ALIGNED: {"aligned": Kind("aligned")},
    CROSS: {
        "cross": Kind("cross"),
        "moved": Kind("moved"),
        "other": Kind("other", answered=False),
        "aligned": Kind("aligned"),
    },
    SHUFFLED: {"other": Kind("other", answered=False)},
    BACKGROUNDS: {"plugin": Kind("cross", plugin=True), "plain": Kind("cross")},
    HINTS: {"hinted": Kind("cross", hinted=True, answered=False), "plain": Kind("cross")},
}
DRAWN_KINDS |= {name: DRAWN_KINDS[SHUFFLED] | DRAWN_KINDS[ALIGNED] for name in PRESETS}
DRAWN_REFERENCES = {
    "aligned": "aligned_reference",
    "cross": "reference",
    "moved": "moved_reference",
    "other": "other_reference",
}


@dataclass(frozen=True, eq=False)
class Hint:
    """Dots of one colour on one part of a drawing.

    Attributes:
        picture: transparent but for them.
        mask: (H, W) bool, where they are.
        part: index of the part.
        color: (3,) uint8.
    """

    picture: Image.Image
    mask: np.ndarray
    part: int
    color: np.ndarray


@dataclass(frozen=True, eq=False)
class Pair:
    """A sketch, and what is known of the picture that it should become.

    Attributes:
        name: of the sketch.
        sketch: (H, W, 1) uint8, paper 255, lines 0.
        truth: (H, W, 3) uint8, the sketch's own picture; of drawn pairs the right answer.
        references: name -> (h, w, 3) uint8.
        sketch_mask, reference_mask: (H, W, 1) and (h, w, 1) uint8 foregrounds, 255 inside; of the
            drawn pairs of `BACKGROUNDS` alone.
        parts: (H, W, 1) indices of drawn parts; None where nobody knows them.
        hint: of the pairs of `HINTS`.
    """

    name: str
    sketch: np.ndarray
    truth: np.ndarray
    references: dict[str, np.ndarray] = field(default_factory=dict)
    sketch_mask: np.ndarray | None = None
    reference_mask: np.ndarray | None = None
    parts: np.ndarray | None = None
    hint: Hint | None = None


class Pairs(Protocol):
    """Random access to pairs.

    Attributes:
        kinds: how each of them is coloured; a pair without the reference of one goes without it.
    """

    kinds: dict[str, Kind]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Pair:
        """Read pair `index`; DataError where it cannot be read."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """What tells these pairs from others, wherever they lie."""
        ...


class DrawnPairs:
    """Illustrations that the project draws, whose right answers are known exactly.

    Args:
        protocol: of `DRAWN_KINDS`.
        num: how many.
        height, width: px.
        seed: which.
    """

    def __init__(self, protocol: str, num: int, height: int, width: int, seed: int = 0):
        self.kinds = DRAWN_KINDS[protocol]
        self._behind = protocol == BACKGROUNDS
        try:
            self._source = CrossPairSource(
                seed, num, height, width, reference_background=self._behind
            )
        except DataError as error:
            raise UserError(str(error)) from error

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Pair:
        """Draw pair `index`."""
        return self.pair(index, self.record(index))

    def record(self, index: int) -> Record:
        """All that is drawn of a pair, see `CrossPairSource`."""
        return self._source[index]

    def pair(self, index: int, record: Record) -> Pair:
        """Pair `index` of its record."""
        wanted = {kind.reference for kind in self.kinds.values()}
        return Pair(
            name=f"pair {index}",
            sketch=record["sketch"],
            truth=record["image"],
            references={name: record[DRAWN_REFERENCES[name]] for name in sorted(wanted)},
            sketch_mask=record["sketch_mask"] if self._behind else None,
            reference_mask=record["reference_mask"] if self._behind else None,
            parts=record["parts"],
        )

    def fingerprint(self) -> dict[str, Any]:
        """Which pairs are drawn."""
        return {"drawn": repr(self._source)}


class FolderPairs:
    """Pictures of a user's folder, each sketch with the references that a protocol gives it.

    Args:
        source: the pictures.
        protocol: of `FOLDER_KINDS`.
        num: how many of them, drawn without repetition.
        seed: which, and whose reference goes to whom in `SHUFFLED`.

    Raises:
        UserError: there are fewer that the protocol can use.
    """

    def __init__(self, source: Pictures, protocol: str, num: int, seed: int = 0):
        if protocol == CROSS and not isinstance(source, FolderSource):
            raise UserError(
                f"got --protocol {CROSS} and {source.root}, whose examples name no other pictures "
                f"of a character, expected {ALIGNED} or {SHUFFLED}, or a folder with an index"
            )
        self.kinds, self._source = FOLDER_KINDS[protocol], source
        self.protocol, self.seed = protocol, seed
        usable = np.arange(len(source))
        if protocol == CROSS:
            usable = np.flatnonzero([bool(self._others(i)) for i in usable])
        if len(usable) < num or ("shuffled" in self.kinds and len(usable) < 2):
            lists = " with another picture in their reference_list" if protocol == CROSS else ""
            raise UserError(
                f"got --num {num} and {len(usable)} pictures{lists} in {source.root}, expected "
                "at least as many (and two where references are exchanged); lower --num"
            )
        self.available = len(usable)
        chosen = np.random.default_rng(seed).permutation(usable)
        self._chosen = [int(i) for i in chosen[:num]]
        # A shuffled reference is the next one of the permutation, which is never the own one.
        self._next = [int(i) for i in np.roll(chosen, -1)[:num]]

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Pair:
        """Read pair `index`, every picture at its own size.

        Raises:
            DataError: one of them is damaged or missing.
        """
        position = self._chosen[index]
        record = self._source.draw(position, np.random.default_rng((self.seed, index)))
        height, width = record["image"].shape

        def whole(picture: Any, size: Sequence[int]) -> np.ndarray:
            return picture.whole(*size, Image.Resampling.LANCZOS)

        truth = whole(record["image"], (height, width))
        references = {
            name: whole(picture, picture.shape)
            for name, picture in self._references(index, position).items()
        }
        if "aligned" in self.kinds:
            references["aligned"] = truth
        sketch = whole(record["sketch"], (height, width))
        return Pair(self._source.name(position), sketch, truth, references)

    def _references(self, index: int, position: int) -> dict[str, Any]:
        source = self._source
        if "shuffled" in self.kinds:
            other = source.draw(self._next[index], np.random.default_rng(self.seed))
            return {"shuffled": other["image"]}
        if self.protocol == CROSS:
            rows = self._others(position)
            return {
                name: source.picture(catalog.COLOR, row, "color")
                for name, row in zip(("cross", "moved"), rows, strict=False)
            }
        return {}

    def _others(self, position: int) -> list[int]:
        """Rows of the catalog that show the same character, but for the picture itself."""
        row = int(self._source.rows[position])
        listed = self._source.table["references"][row].as_py() or []
        return [other for other in dict.fromkeys(listed) if other != row]

    def fingerprint(self) -> dict[str, Any]:
        """What tells the pictures, and the choice among them, from others."""
        return {**self._source.fingerprint(), "num": len(self), "seed": self.seed}
