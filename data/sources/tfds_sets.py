"""Pictures that TFDS stored in ArrayRecord files, read without TensorFlow.

A set's features are `image`, `sketch` (and `sketch_…`, further styles), perhaps `mask`, each an
`Image` of any size; and what an index says: `aesthetic_score`, `caption` or `text`, `tags`.
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
from data.sources.files import as_path
from data.sources.folders import FolderOptions, FolderSource, decoded, of_aspect
from data.sources.index_tables import OURS

INFO = "dataset_info.json"
_SHOWN_FROM = 2000  # pictures, from which on a bar shows how far it is


def is_tfds_set(path: str | Path) -> bool:
    """Whether a folder is a set that TFDS wrote."""
    return (as_path(path) / INFO).is_file()


class TfdsSource:
    """Records of a set's one split; threads may share it, and pickled it is a path and options.

    Args:
        root: folder with `dataset_info.json`.
        options: see `FolderOptions`; of them `indices` and `reference_rate` have no meaning here.

    Raises:
        DataError: TFDS is not installed, this is no such set, or nothing in it can be used.
    """

    reference_rate = 0.0

    def __init__(self, root: str | Path, options: FolderOptions | None = None) -> None:
        self.root, self.options = Path(root), options or FolderOptions()
        if self.options.indices or self.options.reference_rate:
            raise DataError(
                f"got data.index or data.same_identity_rate with the TFDS set {root}, expected "
                "neither: its examples are all that it has; leave them out"
            )
        self._open()
        self._choose()

    def __repr__(self) -> str:
        return f"TfdsSource({str(self.root)!r}, {len(self)} pictures, {self.options})"

    def __len__(self) -> int:
        return len(self.rows)

    def __getstate__(self) -> dict[str, Any]:
        return {name: vars(self)[name] for name in ("root", "options", "sizes", "scores", "rows")}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    def _open(self) -> None:
        try:
            import tensorflow_datasets as tfds
        except ImportError as error:
            raise DataError(
                f"got the TFDS set {self.root} and no package {error.name}, expected "
                "tensorflow-datasets; pip install '.[tfds]'"
            ) from error
        try:
            builder = tfds.builder_from_directory(str(self.root))
            self._split, *others = builder.info.splits
            features = builder.info.features
            kinds = {name: type(features[name]).__name__ for name in features}
            self._pictures = tuple(name for name, kind in kinds.items() if kind == "Image")
            skip = {name: tfds.decode.SkipDecoding() for name in self._pictures}
            self._examples = builder.as_data_source(split=self._split, decoders=skip)
        except (OSError, ValueError, AttributeError, tfds.core.DatasetNotFoundError) as error:
            raise DataError(
                f"got {self.root}, which is no whole TFDS set ({' '.join(str(error).split())}), "
                "expected one in ArrayRecord files; write it anew"
            ) from error
        self.styles = tuple(name for name in self._pictures if name.startswith("sketch"))
        self.styles = tuple(name for name in self.styles if not name.endswith("mask"))
        self._mask_name = next((n for n in ("mask", "sketch_mask") if n in self._pictures), None)
        extracts = self.options.sketches == "extract"
        if others or "image" not in self._pictures or not (self.styles or extracts):
            raise DataError(
                f"got {self.root} with splits {', '.join((self._split, *others))} and pictures "
                f"{', '.join(self._pictures) or 'none'}, expected one split with an image and a "
                "sketch; write it so"
            )

    def _choose(self) -> None:
        """Measure all pictures, once, and filter them."""
        self.sizes, self.scores = self._measured()
        options, score = self.options, self.scores
        score = np.where(np.isnan(score), OURS.filter_score, score)
        short_sides = self.sizes.min(axis=1)
        readable, large = short_sides > 0, short_sides >= options.min_short_side
        self._filters = {
            "cannot be read": readable,
            f"short side below {options.min_short_side} px": large | ~readable,
            f"aesthetic score below {options.min_aesthetic_score:g}": (
                score >= options.min_aesthetic_score
            ),
        }
        usable = np.all(list(self._filters.values()), axis=0)
        out = lots([self._name(row) for row in range(len(usable))]) < options.heldout_share
        self.rows = np.flatnonzero(usable & (out == options.heldout)).astype(np.int32)
        self.num_other = int((usable & (out != options.heldout)).sum())
        unread = int((~readable).sum())
        total = unread + len(self) + self.num_other
        if not len(self) or unread > options.max_passed_over * total:
            told = "; ".join(line.strip() for line in self.describe()[1:])
            raise DataError(
                f"got {self.root} with {len(self)} pictures to use and {unread} that cannot be "
                f"read ({told}), expected at most {options.max_passed_over:.0%} of them; mend them "
                "or raise data.max_skipped_share"
            )

    def _measured(self) -> tuple[np.ndarray, np.ndarray]:
        """(N, 2) heights and widths, px, 0 where a header cannot be read; (N,) scores."""
        stamp = hashlib.sha256((self.root / INFO).read_bytes()).hexdigest()[:16]
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
                with opened(example["image"], self._name(row)) as image:
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
        sketch: Deferred = ExtractedLines(image)
        if self.styles:
            style = self.styles[int(draw * len(self.styles))]
            sketch = of_aspect(picture(style, "sketch"), image)
        record = {"image": image, "sketch": sketch, "reference": image}
        if self.options.masks != "off":
            mask: Deferred = EstimatedMask(image)
            if self._mask_name:
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
        if self.num_other and not self.options.heldout:
            lines.append(f"  {self.num_other} held out for validation")
        for reason, passes in self._filters.items():
            if not passes.all():
                lines.append(f"  {int((~passes).sum())} left out: {reason}")
        return lines


def _text(value: Any) -> str:
    """A feature of a text, or a list of them."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, np.ndarray | list | tuple):
        return ", ".join(map(_text, np.asarray(value).tolist()))
    return str(value)


Pictures = FolderSource | TfdsSource


def open_pictures(path: str | Path, options: FolderOptions) -> Pictures:
    """Open a folder of pictures or a TFDS set, whichever a path is."""
    return (TfdsSource if is_tfds_set(path) else FolderSource)(path, options)
