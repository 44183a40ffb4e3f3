"""A run's pictures through its frozen encoders, into shards that `data.source=encoded` trains from.

Every process encodes whole shards on its own devices, so that processes neither wait for each other
nor have to be as many when the work is taken up again.
"""

import functools
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from colorize_jax.config.options import Config, MeshConfig
from colorize_jax.errors import UserError
from colorize_jax.rng import stream
from colorize_jax.setup import datasets
from colorize_jax.setup.encoders import abstract_encodings, build_encoders
from colorize_jax.setup.encodings import encoder_options, fingerprints, preprocessing
from colorize_jax.setup.initialize import load_encoders
from colorize_jax.sharding import batch_sharding, batch_shards, in_bytes, make_mesh
from colorize_jax.training import augment
from colorize_jax.training.encoding import encodings
from colorize_jax.types import Array
from data.buckets import bucket_of
from data.encoded.arrays import NUMBERS, PICTURES, as_png, pack, record_bytes
from data.encoded.reading import read_pictures
from data.encoded.shards import (
    FORMAT,
    HELD_OUT,
    MANIFEST,
    TRAIN,
    Shard,
    ShardWriter,
    is_written,
    local_folder,
    plan,
    read_manifest,
    write_json,
    writing,
)
from data.errors import DataError
from data.loader import Skipped, name_of
from data.records import Record, Source

_EACH = 8  # pictures a device
_PACKING_THREADS = 8
_LOOKED_AT = 8  # pictures whose sketches tell how large sketches are
_REFERENCES = ("reference", "reference_mask")
_ENCODED_OF = ("image", "sketch", *_REFERENCES, *NUMBERS)


@dataclass(frozen=True)
class EncodeOptions:
    """How a set is stored.

    Attributes:
        precision: of `data.encoded.arrays.PRECISIONS`.
        crops: how often every picture is encoded.
        masks: whether the sketches' masks are stored.
        shard_size: pictures a shard.
        batch_size: of this process's devices together; None: eight each.
    """

    precision: str = "bfloat16"
    crops: int = 1
    masks: bool = True
    shard_size: int = 2048
    batch_size: int | None = None

    def __post_init__(self) -> None:
        for name in ("crops", "shard_size", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"got {name} {value}, expected at least 1; raise it")


class _Part(NamedTuple):
    """A split: its pictures, what is done to them, and its shards."""

    source: Source
    transforms: Sequence[Any]
    shards: list[Shard]


def encode_set(
    config: Config, output: str | Path, options: EncodeOptions, *, only_estimate: bool = False
) -> None:
    """Encode this process's share of the shards that are not there yet.

    Args:
        config: of the run, with its pictures and the weights of its encoders.
        output: folder of the set.
        options: how it is stored.
        only_estimate: say how much disk it takes, and stop.

    Raises:
        UserError: bad options, weights or pictures, another set in the folder, or too little disk.
    """
    try:
        _encode_set(config, local_folder(output), options, only_estimate)
    except DataError as error:
        raise UserError(str(error)) from error


def _encode_set(config: Config, root: Path, options: EncodeOptions, only_estimate: bool) -> None:
    if config.data.source == "encoded":
        raise UserError(
            "got data.source = 'encoded', expected pictures to encode; name the source they are in"
        )
    devices = jax.local_devices()
    mesh = make_mesh(MeshConfig(data=1, fsdp=-1), devices)
    batch_size = options.batch_size or _EACH * len(devices)
    if batch_size % batch_shards(mesh):
        raise UserError(
            f"got a batch of {batch_size} for {len(devices)} devices, expected a multiple; change "
            "--batch_size"
        )
    source = datasets.make_source(config)
    parts = _parts(config, source, options)
    shards = [shard for part in parts.values() for shard in part.shards]
    missing = [shard for shard in shards if not is_written(root, shard)]
    _say_size(config, parts, missing, root, options)
    if only_estimate:
        return
    known = _manifest(config, source, parts, options)
    encode = _encoder(config, mesh)
    _claim(root, known)
    # Whose a shard is does not depend on which are missing: processes do not begin at one time.
    mine = shards[jax.process_index() :: jax.process_count()]
    own = {shard.name for shard in mine if not is_written(root, shard)}
    count = sum(len(shard.indices) for shard in mine if shard.name in own)
    bar = tqdm(total=count, unit="picture", disable=jax.process_index() > 0, dynamic_ncols=True)
    with bar, jax.set_mesh(mesh):
        for part in parts.values():
            todo = [shard for shard in part.shards if shard.name in own]
            _encode_shards(config, part, todo, root, options, batch_size, encode, bar)
    left = sum(not is_written(root, shard) for shard in shards)
    if jax.process_index() == 0:
        others = f"; {left} are left to other processes" if left else ""
        print(f"{len(shards) - left} of {len(shards)} shards are in {root}{others}")


# ------------------------------------------------------------------------------------- the work


def _parts(config: Config, source: Source, options: EncodeOptions) -> dict[str, _Part]:
    """What there is to encode: training pictures and, where they are measured, held-out ones."""
    data = config.data
    members: dict[tuple[int, int] | None, np.ndarray] = {None: np.arange(len(source))}
    if data.source == "folder" and data.buckets:
        buckets = datasets.bucket_shapes(data)
        numbers = bucket_of(source.measure(), buckets)
        found = ((bucket, np.flatnonzero(numbers == n)) for n, bucket in enumerate(buckets))
        members = {bucket: indices for bucket, indices in found if len(indices)}
    shards = plan(TRAIN, members, options.crops, options.shard_size)
    parts = {TRAIN: _Part(source, datasets.picture_transforms(data), shards)}
    if config.logging.validation_every:
        count = data.batch_size * config.logging.validation_batches
        pictures = datasets.held_out(config, source, count)
        if pictures is not None:
            own = {None: np.arange(min(count, len(pictures)))}
            shards = plan(HELD_OUT, own, 1, options.shard_size)
            parts[HELD_OUT] = _Part(pictures, datasets.validation_transforms(data), shards)
    return parts


def _encoder(config: Config, mesh: Mesh) -> Callable[..., dict[str, Array]]:
    """(record of NumPy arrays, key) -> encodings on the devices; returns before they are there."""
    encoders = build_encoders(config)
    params = load_encoders(config, encoders, mesh)
    split = batch_sharding(mesh)

    @functools.partial(jax.jit, out_shardings=split, compiler_options=_compiler_options(mesh))
    def encode(params: Any, record: Mapping[str, Array], key: Array) -> dict[str, Array]:
        batch = augment.to_batch(record)
        if batch.reference is not None:
            batch = augment.inpaint_reference(batch, key, config.diffusion.inpaint_rate)
        return encodings(encoders, params, batch)

    def run(record: Record, key: Array) -> dict[str, Array]:
        # By themselves, references are one program for pictures of all sizes.
        own = {name: x for name, x in record.items() if name not in _REFERENCES}
        other = record | {"sketch": record["sketch"][:, :1, :1]}
        del other["image"]
        found = [jax.device_put(part, split) for part in (own, other)]
        return encode(params, found[0], key) | encode(params, found[1], key)

    return run


def _compiler_options(mesh: Mesh) -> dict[str, bool] | None:
    """Processes compile other programs than each other, so that they cannot share their tuning."""
    on_gpus = mesh.devices.flat[0].platform in ("gpu", "cuda", "rocm")
    return {"xla_gpu_shard_autotuning": False} if on_gpus and jax.process_count() > 1 else None


def _encode_shards(
    config: Config,
    part: _Part,
    shards: Sequence[Shard],
    root: Path,
    options: EncodeOptions,
    batch_size: int,
    encode: Callable[..., dict[str, Array]],
    bar: tqdm,
) -> None:
    records = read_pictures(
        part.source,
        part.transforms,
        config.data.seed,
        shards,
        num_threads=config.data.num_threads,
        num_ahead=config.data.prefetch * batch_size,
    )
    key, num_skipped, num_read = jax.random.key(config.seed), 0, 0
    kept = (*PICTURES[: 1 + options.masks], *NUMBERS)
    for shard in shards:
        writer, numbers = ShardWriter(root, shard), iter(range(len(shard.indices)))
        own = jax.random.fold_in(stream(key, shard.variant, "inpaint"), int(shard.indices[0]))
        waiting = None  # the batch before: it is stored while the next one is encoded
        while (batch := [(n, next(records)) for n in islice(numbers, batch_size)]) or waiting:
            sound = [(n, one) for n, one in batch if not isinstance(one, Skipped)]
            for _, one in (pair for pair in batch if isinstance(pair[1], Skipped)):
                writer.skip(one.name, one.reason)
                num_skipped += 1
            found = None
            if sound:
                found = encode(_stacked([one for _, one in sound], batch_size), own)
                own = jax.random.fold_in(own, 1)
            if waiting:
                _store(writer, part.source, shard, *waiting, kept, options.precision)
            waiting = (sound, found) if sound else None
            num_read += len(batch)
            bar.update(len(batch))
            _check_skipped(config, num_skipped, num_read, batch)
        writer.close()


def _stacked(records: Sequence[Record], batch_size: int) -> Record:
    """Records as a batch; the last one fills it up."""
    rows = [*records, *[records[-1]] * (batch_size - len(records))]
    return {n: np.stack([row[n] for row in rows]) for n in _ENCODED_OF if n in rows[0]}


def _store(
    writer: ShardWriter,
    source: Source,
    shard: Shard,
    rows: Sequence[tuple[int, Record]],
    found: Mapping[str, Array],
    kept: Sequence[str],
    precision: str,
) -> None:
    arrays = {name: np.asarray(x) for name, x in found.items()}

    def packed(row: int) -> bytes:
        record = {name: x for name, x in rows[row][1].items() if name in kept}
        return pack(record | {name: x[row] for name, x in arrays.items()}, precision)

    indices = [int(shard.indices[number]) for number, _ in rows]
    with ThreadPoolExecutor(_PACKING_THREADS) as pool:  # PNGs take 20 ms each
        for index, content in zip(indices, pool.map(packed, range(len(rows))), strict=True):
            writer.write(index, name_of(source, index), content)


def _check_skipped(config: Config, num_skipped: int, num_read: int, batch: Sequence[Any]) -> None:
    most = config.data.max_skipped_share * max(num_read, 100)
    if num_skipped > most:
        reason = next((one.reason for _, one in batch if isinstance(one, Skipped)), "as named")
        raise UserError(
            f"got {num_skipped} of {num_read} pictures that cannot be encoded ({reason}), expected "
            f"at most {config.data.max_skipped_share:.0%}; mend them or raise "
            "data.max_skipped_share"
        )


# ------------------------------------------------------------------------------- before the work


def _manifest(
    config: Config, source: Source, parts: Mapping[str, _Part], options: EncodeOptions
) -> dict[str, Any]:
    splits = {
        name: {
            "pictures": sum(len(one.indices) for one in part.shards if one.variant == 0),
            "shards": len(part.shards),
        }
        for name, part in parts.items()
    }
    return {
        "format": FORMAT,
        "made_with": {name: _version(name) for name in ("colorize-jax", "jax", "flax", "pillow")},
        "encoders": encoder_options(config),
        "weights": fingerprints(config),
        "preprocessing": preprocessing(config),
        "pictures": datasets.fingerprint(source),
        "precision": options.precision,
        "masks": options.masks and config.data.masks != "off",
        "crops": options.crops,
        "shard_size": options.shard_size,
        "splits": splits,
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "a checkout"


def _claim(root: Path, known: Mapping[str, Any]) -> None:
    """Make the folder a set's own, or see that it is this one's.

    Raises:
        UserError: it is another one's, or no set's.
    """
    others = root.iterdir() if root.exists() and not (root / MANIFEST).exists() else ()
    if any(not path.name.startswith(".") for path in others):
        raise UserError(
            f"got --output {root}, a folder with something else in it, expected a new one or that "
            "of encodings; name another"
        )
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
        if not (root / MANIFEST).exists():
            write_json(root / MANIFEST, known)
            return
    there = read_manifest(root)
    for name, ours in known.items():
        if name != "made_with" and there.get(name) != ours:
            raise UserError(
                f"got --output {root}, begun with {name} = {there.get(name)}, and {ours} now, "
                "expected the same; take that up with its own options or name another folder"
            )


def _say_size(
    config: Config,
    parts: Mapping[str, _Part],
    missing: Sequence[Shard],
    root: Path,
    options: EncodeOptions,
) -> None:
    """Print what the set will take, before anything is encoded.

    Raises:
        UserError: what is missing does not fit on the disk.
    """
    shapes = {name: x.shape[1:] for name, x in abstract_encodings(config).items()}
    own = config.data.height, config.data.width
    cell = own[0] // shapes["moments"][0]
    pixels = _picture_bytes(config, parts[TRAIN], options)

    def size(shard: Shard) -> dict[str, float]:
        height, width = shard.bucket or own
        latents = (height // cell, width // cell, shapes["moments"][2])
        found = record_bytes(shapes | {"moments": latents}, options.precision)
        return found | {name: each * height * width for name, each in pixels.items()}

    shards = [shard for part in parts.values() for shard in part.shards]
    total, needed = (sum(sum(size(s).values()) * len(s.indices) for s in some)
                     for some in (shards, missing))  # fmt: skip
    count = sum(len(shard.indices) for shard in shards)
    free = shutil.disk_usage(next(p for p in (root, *root.parents) if p.exists())).free
    if jax.process_index() == 0:
        each = ", ".join(f"{name} {n / 1000:.0f} kB" for name, n in size(shards[0]).items())
        print(
            f"{count} records in {len(shards)} shards, {options.precision}: about "
            f"{in_bytes(total)}, {each} a record; {len(missing)} shards are missing, about "
            f"{in_bytes(needed)}; {in_bytes(free)} are free"
        )
    if needed > free:
        raise UserError(
            f"got {in_bytes(free)} of free disk for about {in_bytes(needed)} at {root}, expected "
            "enough; make room, or choose another --precision or --output"
        )


def _picture_bytes(config: Config, part: _Part, options: EncodeOptions) -> dict[str, float]:
    """Bytes a pixel of stored pictures, by those of the first records."""
    first = part.shards[0]._replace(indices=part.shards[0].indices[:_LOOKED_AT])
    read = read_pictures(
        part.source, part.transforms, config.data.seed, [first], num_threads=2, num_ahead=2
    )
    records = [one for one in read if not isinstance(one, Skipped)]
    names = [name for name in PICTURES[: 1 + options.masks] if records and name in records[0]]
    return {
        name: float(np.mean([len(as_png(one[name])) / one[name].size for one in records]))
        for name in names
    }
