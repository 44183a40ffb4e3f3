"""What to make of a folder of pictures."""

import hashlib
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data.errors import DataError
from data.pictures.lines import STYLES
from data.pictures.looks import MAX_BITS
from data.prepare.models.description import read_description

LAYOUTS = ("zip", "tar", "folder")
DUPLICATES = ("alike", "exact", "keep")
SPLITS = ("none", "aspect")
BUILT_IN_MASKS = ("transparency", "estimate")
# What does not change a byte of what is written.
_HOW = ("pictures", "output", "processes", "threads")


@dataclass(frozen=True)
class Options:
    """Options of `data.prepare`; the command's flags have the same names.

    Attributes:
        pictures: folder of colour pictures: files, folders of them, zip and tar archives.
        output: folder of the set.
        layout: "zip" archives as the published trainer has them, "tar" shards, or a "folder".
        archive_size: pictures of an archive, a shard or a folder of pictures.
        duplicates: "alike" leaves out equal files and pictures that look alike, "exact" equal
            files alone, "keep" nothing.
        alike_bits: how many of 64 bits alike pictures may differ in.
        lines: styles of lines, in order: names of `STYLES` or descriptions of models.
        masks: what is tried in order: "transparency", "estimate", folders of masks, descriptions
            of models.
        tagger, score, embeddings: descriptions of models; "" for none.
        metadata: a table as an index is one, of the user's captions, tags and scores; "" for none.
        characters: ways to tell who is in a picture, see `characters.py`; the first that can wins.
        max_references: other pictures that a picture names at most.
        splits: "none", or tables by "aspect" as the published ones.
        heldout_share: share of the pictures that go into a table of their own, characters whole.
        processes: that pictures are shared among.
        threads: of the only process; of several, of each one's models.
    """

    pictures: str
    output: str
    layout: str = "zip"
    archive_size: int = 1000
    duplicates: str = "alike"
    alike_bits: int = 3
    lines: tuple[str, ...] = tuple(STYLES)
    masks: tuple[str, ...] = BUILT_IN_MASKS
    tagger: str = ""
    score: str = ""
    embeddings: str = ""
    metadata: str = ""
    characters: tuple[str, ...] = ()
    max_references: int = 16
    splits: str = "none"
    heldout_share: float = 0.0
    processes: int = 1
    threads: int = 1

    def __post_init__(self) -> None:
        for name, words in (("layout", LAYOUTS), ("duplicates", DUPLICATES), ("splits", SPLITS)):
            if getattr(self, name) not in words:
                raise DataError(
                    f"got {name} {getattr(self, name)!r}, expected one of {', '.join(words)}; "
                    "choose one"
                )
        for name, least, most in (
            ("archive_size", 1, 100_000),
            ("alike_bits", 0, MAX_BITS),
            ("max_references", 1, 1000),
            ("heldout_share", 0.0, 0.5),
            ("processes", 1, 1024),
            ("threads", 1, 1024),
        ):
            if not least <= getattr(self, name) <= most:
                raise DataError(
                    f"got {name} {getattr(self, name)}, expected {least}..{most}; change it"
                )
        self._check_names()

    def _check_names(self) -> None:
        for style in self.lines:
            if style not in STYLES and not is_description(style):
                raise DataError(
                    f"got lines {style!r}, expected {', '.join(STYLES)} or the .json description "
                    "of a model; check its name"
                )
        names = self.styles
        if len(set(names)) < len(names):
            raise DataError(f"got lines {', '.join(names)}, expected each once; leave one out")
        for mask in self.masks:
            known = mask in BUILT_IN_MASKS or is_description(mask) or Path(mask).is_dir()
            if not known:
                raise DataError(
                    f"got masks {mask!r}, expected {', '.join(BUILT_IN_MASKS)}, a folder of masks "
                    "or the .json description of a model; check its name"
                )

    @property
    def styles(self) -> tuple[str, ...]:
        """Names of the styles of lines: of a model that of its description's file."""
        words = (Path(style).stem if is_description(style) else style for style in self.lines)
        return tuple(re.sub(r"\W+", "_", word).lower() for word in words)

    def settings(self) -> dict[str, Any]:
        """What the bytes that are written follow from, beside the pictures."""
        known = {name: value for name, value in asdict(self).items() if name not in _HOW}
        for name, value in list(known.items()):
            values = value if isinstance(value, tuple) else (value,)
            files = [v for v in values if isinstance(v, str) and v and Path(v).is_file()]
            if isinstance(value, tuple):
                known[name] = list(value)
            if files:
                known[f"{name} are"] = [_digest(Path(file)) for file in files]
        return known


def is_description(word: str) -> bool:
    """Whether a word names the description of a model."""
    return word.lower().endswith(".json")


def _digest(path: Path) -> str:
    """Of a file; with the description of a model, of the model too."""
    found = hashlib.sha256(path.read_bytes())
    if is_description(path.name):
        described = read_description(str(path))
        files = (described.model, described.labels)
        for file in (Path(file) for file in files if file and Path(file).is_file()):
            with file.open("rb") as content:
                found.update(hashlib.file_digest(content, "sha256").digest())
        if described.features:
            found.update(_digest(Path(described.features)).encode())
    return found.hexdigest()[:16]
