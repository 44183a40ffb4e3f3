"""A folder of colour pictures as people have them: drawn ones, and some that are no use.

    python tests/data/prepare/drawn_folder.py DIR --count 500 --side 1024

Most are JPEG; names, folders, formats, turns and sizes are mixed, one folder is a zip archive, and
3 % are copies (equal files, and files saved again) or damaged.
"""

import argparse
import shutil
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from data.illustrations import render

FORMATS = ("jpg", "JPG", "jpeg", "png", "jpg", "webp", "jpg")
FOLDERS = ("", "sets/a/", "sets/ü b/", "old.scans/", "zipped/")
ASPECTS = ((1.0, 1.0), (1.25, 0.8), (0.75, 1.25), (1.0, 0.9))
NUM_CHARACTERS = 40
_FAULTY = 0.03
_ORIENTATION = 0x0112


def make(root: Path, count: int, side: int = 1024) -> dict[str, str]:
    """Make `count` pictures of about `side` px; returns name -> fault of those that are no use."""
    rng = np.random.default_rng(0)
    names = []
    for i in range(count):
        height, width = (round(side * part) for part in ASPECTS[i % len(ASPECTS)])
        image = Image.fromarray(render(i, i % NUM_CHARACTERS, height, width).image)
        names.append(_save(root, i, image))
    faults = {}
    faulty = [n for n in names if not n.startswith("zipped/")]
    chosen = rng.permutation(len(faulty))[: max(3, round(_FAULTY * count))]
    for number, index in enumerate(chosen.tolist()):
        path = root / faulty[index]
        kind = ("copy", "again", "damaged")[number % 3]
        if kind == "copy":
            shutil.copy(path, path.with_name(f"z copy {number}{path.suffix}"))
            faults[f"{Path(faulty[index]).parent}/z copy {number}{path.suffix}"] = kind
        elif kind == "again":
            with Image.open(path) as image:
                small = image.convert("RGB").resize((image.width // 2, image.height // 2))
                small.save(path.with_name(f"again {number}.jpg"), exif=image.getexif())
            faults[f"{Path(faulty[index]).parent}/again {number}.jpg"] = kind
        else:
            content = path.read_bytes()
            path.write_bytes(content[: len(content) // 2])
            faults[faulty[index]] = kind
    (root / "notes.txt").write_text("no picture")
    _zip(root / "zipped")
    return {name.removeprefix("./"): kind for name, kind in faults.items()}


def _save(root: Path, i: int, image: Image.Image) -> str:
    folder, end = FOLDERS[i % len(FOLDERS)], FORMATS[i % len(FORMATS)]
    name = f"{folder}{('', 'IMG_', 'drawing no. ')[i % 3]}{i:04}.{end}"
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, object] = {}
    if end.lower().startswith("jp"):
        options["quality"] = 90
        if i % 11 == 0:
            image = image.transpose(Image.Transpose.ROTATE_90)
            turned = Image.Exif()
            turned[_ORIENTATION] = 6
            options["exif"] = turned
    image.save(path, **options)
    return name


def _zip(folder: Path) -> None:
    if not folder.is_dir():
        return
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)
    shutil.rmtree(folder)


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("dir", type=Path)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--side", type=int, default=1024, help="px")
    options = parser.parse_args()
    for name, fault in make(options.dir, options.count, options.side).items():
        print(f"{name}: {fault}")


if __name__ == "__main__":
    main()
