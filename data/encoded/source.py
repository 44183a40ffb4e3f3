"""Training examples whose pictures were encoded before; see `arrays` and `shards`."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
import pyarrow as pa
from grain.sources import ArrayRecordDataSource

from data.encoded.arrays import unpack
from data.encoded.ranges import record_of
from data.encoded.shards import TRAIN, Written, read_manifest, read_shards
from data.errors import DataError, PictureError
from data.records import Record, checked_index
from data.sources.files import as_path, is_remote, read_range
from data.sources.mixture import MixedSource


class _File(NamedTuple):
    """A shard as the reader of ArrayRecord files takes it, its length known."""

    filename: str
    skip: int
    take: int
    examples_in_shard: int


def _local_records(found: Written) -> Sequence[bytes]:
    files = zip(found.paths, found.counts, strict=True)
    return ArrayRecordDataSource(
        [_File(str(path), 0, count, count) for path, count in files if count]
    )


class _RemoteRecords(Sequence[bytes]):
    """All records of shards in a bucket, each by one request."""

    def __init__(self, found: Written) -> None:
        if len(found.places) != len(found.indices):
            raise DataError(
                f"got {found.paths[0].parent}, whose shards do not say where their records lie, "
                "expected that of a set in a bucket; encode again, or mount the bucket"
            )
        self._paths, self._places = list(map(str, found.paths)), found.places
        self._edges = np.cumsum(found.counts)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> bytes:
        path = self._paths[int(np.searchsorted(self._edges, index, side="right"))]
        start, length = map(int, self._places[index])
        return record_of(read_range(path, start, length), start)


class EncodedSource:
    """Records of encodings; epoch e shows crop e modulo the number of crops of every picture.

    Threads may share it; pickled, it is a path.

    Args:
        root: folder that `python -m colorize_jax encode` wrote, or its copy in a bucket.
        split: `shards.TRAIN` or `shards.HELD_OUT`.
        token_dtype: of the tokens that it returns.

    Raises:
        DataError: it is no such folder, or some shards are missing.
    """

    reference_rate = 0.0

    def __init__(self, root: str | Path, split: str = TRAIN, token_dtype: str = "bfloat16") -> None:
        self.root, self.split, self.token_dtype = as_path(root), split, token_dtype
        self.manifest = read_manifest(self.root)
        self._open()

    def _open(self) -> None:
        known, self._precision = self.manifest, self.manifest["precision"]
        own = (known["preprocessing"]["height"], known["preprocessing"]["width"])
        if self.split not in known["splits"]:
            raise DataError(
                f"got {self.root} without pictures that are held out, expected some; encode with "
                "logging.validation_every, or set it to 0"
            )
        num_shards = known["splits"][self.split]["shards"]
        self.num_variants = known["crops"] if self.split == TRAIN else 1
        found = read_shards(self.root, self.split, num_shards, own)
        self._records = (_RemoteRecords if is_remote(self.root) else _local_records)(found)
        variants = np.repeat(found.variants, found.counts)
        count = int(found.indices.max(initial=-1)) + 1
        places = np.full((self.num_variants, count), -1, np.int32)
        places[variants, found.indices] = np.arange(len(variants))
        # A crop that could not be made, for want of its reference, is replaced by the first one.
        first = places[(places >= 0).argmax(axis=0), np.arange(count)]
        places = np.where(places >= 0, places, first)
        self._places = places[:, first >= 0]
        first = self._places[0]
        self.shapes = np.repeat(np.array(found.buckets, np.int32), found.counts, axis=0)[first]
        self._names = found.names.take(pa.array(first))
        self.num_skipped = found.num_skipped

    def __repr__(self) -> str:
        return f"EncodedSource({str(self.root)!r}, {self.split!r}, {len(self)} pictures)"

    def __len__(self) -> int:
        return self._places.shape[1]

    def __getstate__(self) -> dict[str, Any]:
        return {name: vars(self)[name] for name in ("root", "split", "token_dtype", "manifest")}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    def measure(self) -> np.ndarray:
        """(N, 2) heights and widths of the pictures that were encoded, px."""
        return self.shapes

    def name(self, index: SupportsIndex) -> str:
        """What the pictures' own source called record `index`."""
        return self._names[int(index)].as_py()

    def fingerprint(self) -> dict[str, Any]:
        """What tells these encodings from others, wherever they lie."""
        told = repr({**self.manifest, "made_with": None, "weights": self._weights()}).encode()
        digest = hashlib.sha256(told + self._places.tobytes())
        return {"pictures": len(self), "digest": digest.hexdigest()[:16]}

    def _weights(self) -> dict[str, str]:
        return {name: one["fingerprint"] for name, one in self.manifest["weights"].items()}

    def __getitem__(self, index: SupportsIndex) -> Record:
        """The first crop of picture `index`."""
        return self.of_epoch(checked_index(index, len(self)), 0)

    def of_epoch(self, index: int, epoch: int) -> Record:
        """Picture `index` as epoch `epoch` shows it: `arrays.ENCODINGS`, sketch and numbers.

        Raises:
            PictureError: the record is damaged.
        """
        place = int(self._places[epoch % self.num_variants, index])
        try:
            return unpack(self._records[place], self._precision, self.token_dtype)
        except Exception as error:  # the readers raise what a damaged file makes them raise
            detail = " ".join(str(error).split()) or type(error).__name__
            raise PictureError(
                f"got the encodings of {self.name(index)} in {self.root}, which cannot be read "
                f"({detail}), expected a whole record; remove its shard and encode again"
            ) from error

    def describe(self) -> list[str]:
        """What a run sees here, in a few lines."""
        known = self.manifest
        lines = [f"encodings of {len(self)} pictures in {self.root}, in {self._precision}"]
        crops = f"{self.num_variants} crops" if self.num_variants > 1 else "one crop"
        lines.append(
            f"  {crops} a picture, with its window, style of sketch and reference, the same again "
            f"every {self.num_variants} epochs"
        )
        for name, one in known["weights"].items():
            lines.append(f"  encoded by {name} {one['fingerprint']} ({one['path']})")
        rate = known["preprocessing"]["inpaint_rate"]
        said = f"at the rate {rate:g}, as they were encoded" if rate else "none"
        lines.append(f"  references painted white in part: {said}")
        if self.num_skipped:
            lines.append(f"  {self.num_skipped} pictures could not be encoded")
        return lines


class MixedEncodings(MixedSource):
    """Several sets of encodings as one, see `MixedSource`."""

    def of_epoch(self, index: int, epoch: int) -> Record:
        """See `EncodedSource.of_epoch`."""
        source, place = self.find(index)
        return source.of_epoch(place, epoch)
