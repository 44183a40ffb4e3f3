"""How fast records are made, and what millions of index rows cost; the figures of docs/data.md.

    python tests/data/measure.py throughput DIR [--workers N] [--references SHARE] [--torch]
    python tests/data/measure.py rows DIR [--count N]

Both make what they need in DIR, once. Times are of processors, all threads and processes together,
so that they do not depend on what else the machine does; wall times are printed beside them.
"""

import argparse
import json
import os
import resource
import time
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from PIL import Image

from data import transforms
from data.buckets import BUCKETS, BucketSampler, bucket_of
from data.illustrations import render
from data.loader import make_loader
from data.sources.folders import FolderSource
from data.sources.selection import FolderOptions

PICTURES, HEIGHT, WIDTH, BATCH = 32, 1200, 1600, 8
ARCHIVE = 1000  # pictures


def make_pictures(root: Path) -> None:
    """JPEG colours with the noise of photographs, PNG sketches and masks."""
    if (root / "mask").exists():
        return
    for kind in ("color", "sketch", "mask"):
        (root / kind).mkdir(parents=True)
    names = [f"{i}.jpg" for i in range(PICTURES)]
    index = [{"image_path": name, "reference_list": names} for name in names]
    (root / "index.json").write_text(json.dumps(index))
    rng = np.random.default_rng(0)
    for i in range(PICTURES):
        drawn = render(i, i, HEIGHT, WIDTH)
        noisy = drawn.image + rng.normal(0, 4, drawn.image.shape)
        color = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
        color.save(root / f"color/{i}.jpg", quality=92)
        for kind, array in (("sketch", drawn.sketch), ("mask", drawn.mask)):
            Image.fromarray(array[..., 0]).save(root / f"{kind}/{i}.png")


def processor_seconds() -> float:
    """Of this process and of its children that have ended."""
    parts = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in parts)


def report(name: str, records: int, wall: float, processor: float) -> None:
    """One line."""
    print(
        f"{name}: {records / wall:.1f} records/s, {records / processor:.1f} a second of one core "
        f"({1000 * processor / records:.0f} ms each)"
    )


def measure(name: str, batches, epochs: int) -> None:
    """Time an iterator of batches, starting its processes included."""
    start, before = time.perf_counter(), processor_seconds()
    records = sum(len(batch["image"]) for batch in batches)
    assert records == epochs * PICTURES
    getattr(batches, "close", lambda: None)()
    report(name, records, time.perf_counter() - start, processor_seconds() - before)


def throughput(options: argparse.Namespace) -> None:
    """Records of configs/base.py, against a PyTorch loader of the published transforms."""
    root = Path(options.dir)
    make_pictures(root)
    source = FolderSource(root, FolderOptions(reference_rate=options.references))
    sampler = BucketSampler(source.measure, BATCH, 0)
    steps = [
        transforms.BucketCrop(reference_size=448),
        transforms.AlterReferenceMask(),
        transforms.BlankMargins(0.1),
    ]
    loader = make_loader(
        source,
        BATCH,
        0,
        sampler=sampler,
        transforms=steps,
        num_epochs=options.epochs,
        num_threads=2,
        prefetch=2,
        worker_count=options.workers,
    )
    measure(f"records of configs/base.py, {options.workers} workers", loader, options.epochs)
    if options.torch:
        measure(
            f"torch DataLoader, {options.workers} workers",
            torch_batches(root, source.shapes, options),
            options.epochs,
        )


def torch_batches(root: Path, shapes: np.ndarray, options: argparse.Namespace):
    """The published trainer's transforms, by what the paper's code does and not how."""
    import torch
    from torch.utils.data import DataLoader, Dataset

    bicubic, bilinear = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR

    class Pictures(Dataset):
        def __len__(self) -> int:
            return PICTURES * options.epochs

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            index, rng = index % PICTURES, np.random.default_rng(index)
            height, width = BUCKETS[int(bucket_of(shapes[index : index + 1], BUCKETS)[0])]
            scale = max(height / HEIGHT, width / WIDTH)
            size = max(width, round(WIDTH * scale)), max(height, round(HEIGHT * scale))
            left = int(rng.integers(size[0] - width + 1))
            top = int(rng.integers(size[1] - height + 1))
            box = (left, top, left + width, top + height)

            def tensor(kind: str, end: str, mode: str, method: Image.Resampling) -> torch.Tensor:
                image = Image.open(root / kind / f"{index}.{end}").convert(mode)
                array = np.asarray(image.resize(size, method).crop(box))
                return torch.from_numpy(array.copy()).float() / 255

            image = tensor("color", "jpg", "RGB", bicubic).permute(2, 0, 1)
            sketch = tensor("sketch", "png", "L", bicubic)[None]
            mask = tensor("mask", "png", "L", bilinear)[None]
            if rng.random() < 0.75:  # margins
                margin = int(rng.integers(202))
                sketch[:, :margin] = sketch[:, height - margin :] = 1
            wide = torch.nn.functional.max_pool2d(mask, 21, stride=1, padding=10)
            return {
                "image": image * 2 - 1,
                "sketch": sketch * 2 - 1,
                "reference": image * 2 - 1,
                "sketch_mask": mask,
                "reference_mask": wide,
            }

    torch.set_num_threads(1)
    return DataLoader(Pictures(), BATCH, num_workers=options.workers)


def make_rows(root: Path, count: int) -> None:
    """An index of `count` rows, and archives that hold them: one file under many names."""
    if (root / "data_index").exists():
        return
    (root / "color").mkdir(parents=True)
    Image.new("L", (8, 8)).save(root / "tiny.png")
    content = (root / "tiny.png").read_bytes()
    with zipfile.ZipFile(root / "archive.zip", "w") as archive:
        for i in range(ARCHIVE):
            archive.writestr(f"{i:04}.png", content)
    for i in range(-(-count // ARCHIVE)):
        os.link(root / "archive.zip", root / "color" / f"{i:06}.zip")
    (root / "sketch").symlink_to("color")
    (root / "mask").symlink_to("color")
    rng = np.random.default_rng(0)
    numbers = np.arange(count)
    names = [f"{i // ARCHIVE:06}/{i % ARCHIVE:04}.png" for i in range(count)]
    table = pa.table(
        {
            "image_path": names,
            "width": pa.array(rng.integers(700, 2400, count), pa.int32()),
            "height": pa.array(rng.integers(700, 2400, count), pa.int32()),
            "aesthetic_score": pa.array(rng.normal(6, 1, count), pa.float32()),
            "exist_sketch": pa.array(numbers % 50 > 0),
            "reference_list": pa.array(
                [[names[i - 1]] if i % 3 == 0 else None for i in range(count)]
            ),
        }
    )
    (root / "data_index").mkdir()
    pyarrow.parquet.write_table(table, root / "data_index" / "all.parquet")


def memory(pid: int | str = "self") -> str:
    """What a process holds, and how much of it is neither files nor their mapped pages, MB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {line.split(":")[0]: int(line.split()[1]) / 1000 for line in lines}
    return f"{sizes['Rss']:.0f} MB resident, {sizes['Anonymous']:.0f} of them its own"


def children() -> list[int]:
    """Processes that this one has started."""
    paths = Path("/proc/self/task").glob("*/children")
    return [int(pid) for path in paths for pid in path.read_text().split()]


def rows(options: argparse.Namespace) -> None:
    """The start of a run on millions of pictures, and the shuffles of its epochs."""
    root = Path(options.dir)
    make_rows(root, options.count)
    start = time.perf_counter()
    source = FolderSource(root)
    sampler = BucketSampler(source.measure, 128, 0)
    print(f"{len(source)} pictures ready after {time.perf_counter() - start:.1f} s; {memory()}")
    start = time.perf_counter()
    sampler.batch(1, 0)
    print(f"an epoch shuffled in {time.perf_counter() - start:.1f} s; {memory()}")
    crop = transforms.BucketCrop(32, 32)
    start = time.perf_counter()
    loader = make_loader(
        source, 128, 0, sampler=sampler, transforms=[crop], prefetch=1, worker_count=2
    )
    for _ in range(8):
        next(loader)
    print(f"eight batches by two workers after {time.perf_counter() - start:.1f} s; {memory()}")
    for pid in children():
        name = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
        if "spawn_main" in name:
            print(f"  worker: {memory(pid)}")
    loader.close()


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["throughput", "rows"])
    parser.add_argument("dir")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument(
        "--references", type=float, default=0.0, help="share whose reference is another picture"
    )
    parser.add_argument("--torch", action="store_true")
    parser.add_argument("--count", type=int, default=6_000_000)
    options = parser.parse_args()
    {"throughput": throughput, "rows": rows}[options.what](options)


if __name__ == "__main__":
    main()
