"""Illustrations stored in files by TFDS and read back, without TensorFlow.

    python -m data.illustrations --build DIR --size 64 --count 20000

draws a set into DIR once and prints the folder that `StoredSource` opens. Needs the `tfds` extra.
"""

from pathlib import Path
from typing import SupportsIndex

import numpy as np

from data.errors import DataError
from data.extras import import_tfds
from data.records import Record, checked_index


def build(directory: str | Path, **options) -> Path:
    """Draws a set of illustrations into array_record files, unless it is there already.

    Args:
        directory: TFDS data directory.
        options: fields of `illustrations_dataset_builder.IllustrationsConfig`.

    Returns:
        The folder of the set, for `StoredSource`.

    Raises:
        DataError: without the `tfds` extra, or on options out of range.
    """
    tfds = import_tfds()
    from data.illustrations import illustrations_dataset_builder as stored

    builder = stored.Builder(
        data_dir=str(directory), config=stored.config(**options), file_format="array_record"
    )
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
    return Path(builder.data_dir)


class StoredSource:
    """The records of a set built by `build`: those of its on-the-fly source, bit for bit.

    Args:
        directory: the folder that `build` returned.

    Raises:
        DataError: without the `tfds` extra, or when the folder holds no complete set.
    """

    def __init__(self, directory: str | Path) -> None:
        tfds = import_tfds()
        self.directory = str(directory)
        try:
            builder = tfds.builder_from_directory(self.directory)
            (split,) = builder.info.splits
            self._examples = builder.as_data_source(split=split)
        except (OSError, ValueError, AttributeError, tfds.core.DatasetNotFoundError) as error:
            raise DataError(
                f"got {self.directory}, which holds no stored illustrations, expected the folder "
                "that python -m data.illustrations --build printed; build it anew"
            ) from error
        features = builder.info.features
        self._types: dict[str, type] = {name: features[name].np_dtype for name in features}

    def __repr__(self) -> str:
        return f"StoredSource({self.directory!r})"

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: SupportsIndex) -> Record:
        """Record `index`, as the on-the-fly source draws it."""
        example = self._examples[checked_index(index, len(self))]
        return {name: np.asarray(example[name], kind)[()] for name, kind in self._types.items()}
