"""Pictures in ArrayRecord files, those of TFDS and plain ones of `tf.train.Example`s.

A set's features are `image`, `sketch` (and `sketch_…`, further styles), perhaps `mask`, each a
picture of any size; and what an index says: `aesthetic_score`, `caption` or `text`, `tags`.
Pictures stay encoded until a window of them is asked for, as those of folders do.
"""

import contextlib
import hashlib
import math
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
from tqdm import tqdm

from data.errors import DataError, PictureError
from data.pictures.made import EstimatedMask, ExtractedLines
from data.pictures.reading import SIDEWAYS, opened, orientation
from data.pictures.stored import Deferred, StoredPicture
from data.records import Record, checked_index
from data.sources.catalog import CACHE, lots
from data.sources.examples import INFO, find_files, identity, open_examples
from data.sources.files import as_path
from data.sources.folders import NO_SKETCH, FolderSource, decoded, of_aspect
from data.sources.index_tables import OURS
from data.sources.selection import FolderOptions, Selection

_SHOWN_FROM = 2000  # pictures, from which on a bar shows how far it is


def is_record_set(path: Path) -> bool:
    """Whether a folder holds ArrayRecord files of pictures."""
    return (path / INFO).is_file() or bool(find_files(path))


class ArrayRecordSource:
    """Records of a set's one split; threads may share it, and pickled it is a path and options.

    Args:
        root: folder with TFDS's `dataset_info.json`, or `NAME.array_record` files.
        options: see `FolderOptions`; of them `indices` and `reference_rate` have no meaning here.

    Raises:
        DataError: it cannot be opened, see `open_examples`, or nothing in it can be used.
    """

    reference_rate = 0.0

    def __init__(self, root: str | Path, options: FolderOptions | None = None) -> None:
        self.root, self.options = as_path(root), options or FolderOptions()
        if self.options.indices or self.options.reference_rate:
            raise DataError(
                f"got data.index or data.same_identity_rate with the set {root}, expected "
                "neither: its examples are all that it has; leave them out"
            )
        self._open()
        self._choose()

    def __repr__(self) -> str:
        return f"ArrayRecordSource({str(self.root)!r}, {len(self)} pictures, {self.options})"

    def __len__(self) -> int:
        return len(self.rows)

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: vars(self)[name]
            for name in ("root", "options", "sizes", "scores", "rows", "num_unread")
        }

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    def _open(self) -> None:
        self._split, self._examples, pictures = open_examples(self.root)
        masks = ("mask", "sketch_mask")
        # Sorted: files do not say their features in one order, and draws depend on it.
        self.styles = tuple(
            name for name in sorted(pictures) if name.startswith("sketch") and name not in masks
        )
        self._mask_name = next((name for name in masks if name in pictures), None)
        extracts = self.options.sketches == "extract"
        if "image" not in pictures or not (self.styles or extracts):
            raise DataError(
                f"got {self.root} with pictures {', '.join(pictures) or 'none'}, expected an image "
                "and a sketch; write it so, or set data.sketches=extract"
            )

    def _choose(self) -> None:
        """Measure all pictures, once, and filter them."""
        self.sizes, self.scores = self._measured()
        readable = self.sizes.min(axis=1) > 0
        self.num_unread = int((~readable).sum())
        self._selection = Selection(
            self.options,
            sound=readable,
            short_sides=lambda: self.sizes.min(axis=1),
            scores=lambda: np.where(np.isnan(self.scores), OURS.filter_score, self.scores),
            lots=lots([self._name(row) for row in range(len(readable))]),
        )
        self.rows = self._selection.rows
        if not self._selection.allows(self.num_unread):
            self._selection.refuse(self.root, self.num_unread, self.describe()[1:])

    def _measured(self) -> tuple[np.ndarray, np.ndarray]:
        """(N, 2) heights and widths, px, 0 where a header cannot be read; (N,) scores."""
        stamp = hashlib.sha256(identity(self.root).encode()).hexdigest()[:16]
        path = self.root / CACHE / f"{stamp}.npz"
        if path.is_file():
            with np.load(path) as stored:
                return stored["sizes"], stored["scores"]
        count = len(self._examples)
        sizes, scores = np.zeros((count, 2), np.int32), np.full(count, np.nan, np.float32)
        numbers = tqdm(range(count), "sizes", unit="picture", disable=count < _SHOWN_FROM)
        for row in numbers:
            example = self._examples[row]
            scores[row] = example.get("aesthetic_score", np.nan)
            try:
                with opened(example["image"], self._name(row), whole=False) as image:
                    size = image.height, image.width
                    turn = orientation(image, example["image"])
                sizes[row] = size[::-1] if turn >= SIDEWAYS else size
            except PictureError:
                continue
        # Where it cannot be written, it is measured anew the next time.
        with contextlib.suppress(OSError):
            path.parent.mkdir(exist_ok=True)
            temporary = path.with_suffix(f".{os.getpid()}.npz")
            np.savez(temporary, sizes=sizes, scores=scores)
            temporary.replace(path)
        return sizes, scores

    def _name(self, row: int) -> str:
        return f"{self._split}/{row}"

    @property
    def shapes(self) -> np.ndarray:
        """(N, 2) heights and widths, px."""
        return self.sizes[self.rows]

    def measure(self) -> np.ndarray:
        """The same, as a function for `buckets.BucketSampler`."""
        return self.shapes

    def name(self, index: SupportsIndex) -> str:
        """Split and number of record `index`."""
        return self._name(int(self.rows[index]))

    def fingerprint(self) -> dict[str, Any]:
        """What tells these pictures from others, wherever they lie."""
        told = self.rows.tobytes() + self.sizes.tobytes() + self.scores.tobytes()
        return {"pictures": len(self), "digest": hashlib.sha256(told).hexdigest()[:16]}

    def __getitem__(self, index: SupportsIndex) -> Record:
        """Record `index` (see `data.records`), all its pictures at the size of its image."""
        index = checked_index(index, len(self))
        return decoded(self.draw(index, np.random.default_rng((self.options.seed, index))))

    def draw(self, index: int, rng: np.random.Generator) -> Record:
        """Record `index` of one epoch, its pictures not decoded yet; see `FolderSource.draw`."""
        row = int(self.rows[index])
        example, draw = self._examples[row], rng.random()

        def picture(name: str, kind: str) -> StoredPicture:
            content = partial(bytes, example[name])
            return StoredPicture(content, f"{self.root}/{self._name(row)}/{name}", kind)

        image = picture("image", "color")
        # A feature that a picture has not is empty: one shape of example serves the whole set.
        styles = [style for style in self.styles if example.get(style)]
        if not styles and self.options.sketches != "extract":
            raise PictureError(f"got {self.root}/{self._name(row)}, which {NO_SKETCH}")
        sketch: Deferred = ExtractedLines(image)
        if styles:
            style = styles[int(draw * len(styles))]
            sketch = of_aspect(picture(style, "sketch"), image)
        record = {"image": image, "sketch": sketch, "reference": image}
        if self.options.masks != "off":
            mask: Deferred = EstimatedMask(image)
            if self._mask_name and example.get(self._mask_name):
                mask = of_aspect(picture(self._mask_name, "mask"), image)
            record |= {"sketch_mask": mask, "reference_mask": mask}
        height, width = image.shape
        record["size"] = np.float32(math.sqrt(height * width))
        score = self.scores[row]
        record["aesthetic_score"] = np.float32(OURS.score if np.isnan(score) else score)
        return record

    def texts(self, index: int) -> dict[str, str]:
        """Caption and tags of record `index`, where the set has them."""
        example = self._examples[int(self.rows[index])]
        found = {
            "caption": example.get("caption", example.get("text")),
            "tags": example.get("tags"),
        }
        return {name: _text(value) for name, value in found.items() if value is not None}

    def describe(self) -> list[str]:
        """What a run sees here, and what not, in a few lines."""
        masks = f"masks in {self._mask_name}" if self._mask_name else "masks estimated"
        masks = "no masks" if self.options.masks == "off" else masks
        lines = [
            f"{len(self)} pictures in {self.root}; "
            f"{', '.join(self.styles) or 'lines extracted'}; {masks}"
        ]
        lines += self._selection.describe()
        if self.num_unread:
            lines.append(f"  {self.num_unread} passed over: cannot be read")
        return lines


def _text(value: Any) -> str:
    """A feature of a text, or a list of them."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, np.ndarray | list | tuple):
        return ", ".join(map(_text, np.asarray(value).tolist()))
    return str(value)


Pictures = FolderSource | ArrayRecordSource


def open_pictures(path: str | Path, options: FolderOptions) -> Pictures:
    """Open a folder of pictures or a set in ArrayRecord files, whichever a path is."""
    path = as_path(path)
    return (ArrayRecordSource if is_record_set(path) else FolderSource)(path, options)
