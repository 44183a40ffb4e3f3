"""TFDS builder: illustrations stored as array_record, written and read without TensorFlow.

`data.illustrations.stored` builds and reads the sets. TFDS finds a dataset by the names of this
file and of its class.
"""

import dataclasses
import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from data.illustrations.source import CrossPairSource, IllustrationSource
from data.records import Source

KINDS = ("train", "heldout")


@dataclasses.dataclass
class IllustrationsConfig(tfds.core.BuilderConfig):
    """Which source to store: the arguments of `IllustrationSource` or `CrossPairSource`.

    Attributes:
        kind: "train" for aligned examples, "heldout" for cross pairs; also the split's name.
        seed, num_examples, height, width, reference_size: as in both sources.
        same_identity_rate: as in `IllustrationSource`; must stay 0 for cross pairs.
    """

    kind: str = "train"
    seed: int = 0
    num_examples: int = 20000
    height: int = 64
    width: int = 64
    same_identity_rate: float = 0.0
    reference_size: int | None = None

    def source(self) -> Source:
        """The source that draws the same records on the fly."""
        shape = (self.seed, self.num_examples, self.height, self.width)
        if self.kind == "heldout":
            return CrossPairSource(*shape, reference_size=self.reference_size)
        return IllustrationSource(
            *shape,
            same_identity_rate=self.same_identity_rate,
            reference_size=self.reference_size,
        )


def config(**options) -> IllustrationsConfig:
    """A configuration whose name tells its options, so that different sets never mix."""
    made = IllustrationsConfig(name="", **options)
    parts = [made.kind, f"{made.height}x{made.width}", f"n{made.num_examples}", f"s{made.seed}"]
    if made.same_identity_rate:
        parts.append(f"i{round(100 * made.same_identity_rate)}")
    if made.reference_size:
        parts.append(f"r{made.reference_size}")
    made.name = "-".join(parts)
    return made


class Builder(tfds.core.GeneratorBasedBuilder):
    """Illustrations in the order of their source."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First drawing."}  # noqa: RUF012 (TFDS reads it as a plain dict)
    BUILDER_CONFIGS = [  # noqa: RUF012 (TFDS reads it as a plain list)
        config(),
        config(kind="heldout", num_examples=256),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        record = self.builder_config.source()[0]
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict({k: _feature(v) for k, v in record.items()}),
            license="CC0-1.0",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {self.builder_config.kind: self._generate_examples(self.builder_config.source())}

    def _generate_examples(self, source: Source):
        for index in range(len(source)):
            yield index, {name: _encoded(value) for name, value in source[index].items()}


def _is_picture(value: np.ndarray) -> bool:
    return value.ndim == 3


def _feature(value: np.ndarray) -> tfds.features.FeatureConnector:
    if _is_picture(value):
        return tfds.features.Image(shape=value.shape, dtype=np.uint8, encoding_format="png")
    return tfds.features.Tensor(shape=value.shape, dtype=value.dtype.type)


def _encoded(value: np.ndarray):
    """Pictures as PNG files: TFDS would encode arrays by TensorFlow."""
    if not _is_picture(value):
        return value
    file = io.BytesIO()
    Image.fromarray(value[..., 0] if value.shape[2] == 1 else value).save(file, "PNG")
    file.seek(0)
    return file
