"""TFDS builder: a prepared folder stored as array_record, written and read without TensorFlow.

`python -m data.prepare.tfds` builds sets. TFDS finds a dataset by the names of this file and of
its class.
"""

import dataclasses
import io
import re
from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data.sources import catalog
from data.sources.folders import FolderSource

_AT_A_TIME = 256  # pictures of one of Beam's elements


@dataclasses.dataclass
class PreparedConfig(tfds.core.BuilderConfig):
    """Which folder to store, and how it is worked on.

    Attributes:
        folder: see `FolderSource`.
        beam: yield a pipeline of Apache Beam's, not a generator.
    """

    folder: str = ""
    beam: bool = False


def config(folder: Path, *, beam: bool) -> PreparedConfig:
    """A configuration whose name tells what is in a folder, so that different sets never mix."""
    known = FolderSource(folder).fingerprint()
    name = re.sub(r"\W+", "_", folder.name)
    name = f"{name}-n{known['pictures']}-{known['names'][:8]}-{known['index'][:8]}"
    return PreparedConfig(name=name, folder=str(folder), beam=beam)


class Builder(tfds.core.GeneratorBasedBuilder):
    """The files of a folder's pictures, sketches and masks as they are, and what its index says.

    Sketches of every style have a feature of their own. A picture without a mask, or without a
    sketch of one style, has an empty one in its place.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First set."}  # noqa: RUF012 (TFDS reads it as a plain dict)
    BUILDER_CONFIGS = [PreparedConfig(name="folder")]  # noqa: RUF012 (as a plain list)

    @cached_property
    def _source(self) -> FolderSource:
        return FolderSource(self.builder_config.folder)

    def _info(self) -> tfds.core.DatasetInfo:
        source = self._source
        channels = {"image": 3} | {name: 1 for name in _stores(source)}
        features: dict[str, Any] = {
            name: tfds.features.Image(shape=(None, None, count)) for name, count in channels.items()
        }
        features |= {name: tfds.features.Text() for name in ("name", *_texts(source))}
        features["aesthetic_score"] = tfds.features.Scalar(np.float32)
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{self.__doc__}\n\n{len(source)} pictures.",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(self._source)}

    def _generate_examples(self, source: FolderSource):
        if not self.builder_config.beam:
            return examples(source, 0, len(source))
        import apache_beam as beam

        starts = range(0, len(source), _AT_A_TIME)
        return beam.Create(starts) | beam.FlatMap(partial(_some, source))


def _some(source: FolderSource, start: int) -> Iterator[tuple[int, dict[str, Any]]]:
    return examples(source, start, min(start + _AT_A_TIME, len(source)))


def examples(source: FolderSource, start: int, stop: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and features of the pictures from `start` to `stop`, their files unread by Pillow."""
    for index in range(start, stop):
        row = int(source.rows[index])
        example: dict[str, Any] = {"image": _file(source, catalog.COLOR, row)}
        example |= {name: _file(source, name, row) for name in _stores(source)}
        example |= dict.fromkeys(_texts(source), "") | source.texts(index)
        example["name"] = source.name(index)
        example["aesthetic_score"] = source.score(row)
        yield index, example


def _stores(source: FolderSource) -> list[str]:
    return [*source.styles, *([catalog.MASK] if source.has_masks else [])]


def _texts(source: FolderSource) -> list[str]:
    return [name for name in ("caption", "tags") if name in source.table.column_names]


def _file(source: FolderSource, store: str, row: int) -> io.BytesIO:
    there = source.table[store][row].is_valid
    return io.BytesIO(source.picture(store, row, "color").content if there else b"")
