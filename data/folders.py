"""A user's own data: `color/`, `sketch/` and, where there are any, `mask/` -> records."""

import hashlib
import math
from functools import cached_property
from pathlib import Path
from typing import SupportsIndex

import numpy as np

from data.archives import PictureFolder
from data.errors import DataError
from data.index import Entry, read_index, select
from data.records import Record, checked_index, resize

DEFAULT_SCORE = 7.0  # the score that inference asks for


class FolderSource:
    """Records of the pictures below `root/color`, by their names.

    `color/`, `sketch/` and `mask/` hold equal names, up to the extension: plain files, folders of
    them, or zip archives of equal names with members of equal names. Sketches are dark lines on
    light paper. Without `mask/` everything is foreground. Pictures are decoded when asked for.

    Args:
        root: folder that holds `color/` and `sketch/`.
        index: JSON or Parquet file (see `data.index`); every picture in `color/` if None.
        min_aesthetic_score, min_short_side: filters on the index; None takes all. The published
            trainer uses 5.5 and 768 px.
        reference_rate: share of the pictures with a `reference_list` that take a reference from it
            instead of themselves; which ones, and which reference, follows from (seed, index).
        seed: of those choices.
        default_score: aesthetic score of pictures for which the index has none.

    Raises:
        DataError: on missing folders, pictures without a sketch or mask, and bad options.
    """

    def __init__(
        self,
        root: str | Path,
        index: str | Path | None = None,
        *,
        min_aesthetic_score: float | None = None,
        min_short_side: int | None = None,
        reference_rate: float = 0.0,
        seed: int = 0,
        default_score: float = DEFAULT_SCORE,
    ) -> None:
        if not 0.0 <= reference_rate <= 1.0:
            raise DataError(
                f"got reference_rate {reference_rate}, expected 0..1; give a probability"
            )
        if seed < 0:
            raise DataError(f"got seed {seed}, expected at least 0; raise it")
        if index is None and (min_aesthetic_score, min_short_side) != (None, None):
            raise DataError("got filters without an index, expected one to filter by; name it")
        self.root, self.seed = Path(root), seed
        self.reference_rate, self.default_score = reference_rate, default_score
        self._color = PictureFolder(self.root / "color")
        self._sketch = PictureFolder(self.root / "sketch")
        self._mask = PictureFolder(self.root / "mask") if (self.root / "mask").is_dir() else None
        self.entries = self._entries(index, min_aesthetic_score, min_short_side)
        self._check()

    def __repr__(self) -> str:
        return (
            f"FolderSource({str(self.root)!r}, {len(self)} pictures, "
            f"reference_rate={self.reference_rate}, seed={self.seed})"
        )

    def __len__(self) -> int:
        return len(self.entries)

    def fingerprint(self) -> dict[str, object]:
        """What tells these pictures from others, wherever they lie: count, names and index."""
        names = [entry.image_path for entry in self.entries]
        return {"pictures": len(names), "names": _digest(names), "index": _digest(self.entries)}

    @cached_property
    def shapes(self) -> np.ndarray:
        """(N, 2) heights and widths, px, from the index or else the files' headers."""
        return np.array(
            [
                (entry.height, entry.width)
                if entry.height and entry.width
                else self._color.shape(self._found(self._color, entry.image_path))
                for entry in self.entries
            ],
            np.int64,
        )

    def __getitem__(self, index: SupportsIndex) -> Record:
        """Record `index` (see `data.records`), all pictures at the size of their colour picture.

        Raises:
            DataError: naming the file, when a picture is damaged.
        """
        index = checked_index(index, len(self))
        entry = self.entries[index]
        image, mask = self._picture(entry.image_path)
        line_art = self._sketch.load(self._found(self._sketch, entry.image_path), "L")
        chosen = self._reference(entry, index)
        reference, reference_mask = (image, mask) if chosen is None else self._picture(chosen)
        height, width = image.shape[:2]
        score = self.default_score if entry.aesthetic_score is None else entry.aesthetic_score
        return {
            "image": image,
            "sketch": resize(line_art, height, width),
            "sketch_mask": mask,
            "reference": reference,
            "reference_mask": reference_mask,
            "size": np.float32(math.sqrt(height * width)),
            "aesthetic_score": np.float32(score),
        }

    def _picture(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """(H, W, 3) colours and (H, W, 1) mask."""
        image = self._color.load(self._found(self._color, name), "RGB")
        if self._mask is None:
            return image, np.full((*image.shape[:2], 1), 255, np.uint8)
        mask = self._mask.load(self._found(self._mask, name), "L")
        return image, resize(mask, *image.shape[:2])

    def _reference(self, entry: Entry, index: int) -> str | None:
        """Name of another picture of the same character, or None for the picture itself."""
        rng = np.random.default_rng((self.seed, index))
        if not entry.reference_list or rng.random() >= self.reference_rate:
            return None
        return entry.reference_list[rng.integers(len(entry.reference_list))]

    def _entries(self, index, min_aesthetic_score, min_short_side) -> list[Entry]:
        if index is not None:
            return select(read_index(index), min_aesthetic_score, min_short_side)
        if not self._color.names:
            raise DataError(
                f"got no pictures in {self._color.folder}, expected some, as files or in zip "
                "archives; put them there"
            )
        return [Entry(name) for name in self._color.names]

    def _check(self) -> None:
        """All files that records need are there."""
        for entry in self.entries:
            references = entry.reference_list if self.reference_rate else ()
            for name in (entry.image_path, *references):
                self._found(self._color, name)
                if self._mask is not None:
                    self._found(self._mask, name)
            self._found(self._sketch, entry.image_path)

    def _found(self, folder: PictureFolder, name: str) -> str:
        found = folder.find(name)
        if found is None:
            raise DataError(
                f"got no picture {name} in {folder.folder}, expected one of that name; add it, or "
                "leave the picture out of color/ or the index"
            )
        return found


def _digest(values: object) -> str:
    return hashlib.sha256(repr(values).encode("utf-8", "surrogatepass")).hexdigest()[:16]
