"""A folder of pictures, plain files and zip archives alike, read by name."""

import io
import os
import struct
import threading
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from data.errors import DataError

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp"))
_OPEN_ARCHIVES = 128
_DAMAGE = (
    EOFError,
    KeyError,
    NotImplementedError,
    OSError,
    RuntimeError,
    SyntaxError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
    Image.DecompressionBombError,
)  # what Pillow and zipfile raise on damaged, encrypted or absurdly large files


class PictureFolder:
    """The pictures below a folder.

    A picture's name is its path below the folder; the members of `a/b.zip` are `a/b.zip/member`.
    Files are opened when read. Threads and processes may share it.

    Args:
        folder: where the pictures are.

    Raises:
        DataError: if the folder is missing or an archive is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise DataError(
                f"got {self.folder}, expected a folder of pictures; create or rename it"
            )
        self._archives: OrderedDict[str, zipfile.ZipFile] = OrderedDict()
        self._lock, self._owner = threading.Lock(), os.getpid()
        self.names: tuple[str, ...] = tuple(sorted(self._list()))
        self._stems = {stem(name): name for name in self.names}

    def __repr__(self) -> str:
        return f"PictureFolder({str(self.folder)!r})"

    def __getstate__(self) -> dict:
        private = ("_archives", "_lock", "_owner")
        return {name: value for name, value in vars(self).items() if name not in private}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._archives, self._lock, self._owner = OrderedDict(), threading.Lock(), os.getpid()

    def find(self, name: str) -> str | None:
        """The picture of this name but for its extension; `a/b` may stand for `a.zip/b`."""
        wanted = stem(name)
        found = self._stems.get(wanted)
        if found is None and "/" in wanted and ".zip/" not in wanted:
            parts = wanted.split("/")
            for i in range(1, len(parts)):
                inside = "/".join(parts[:i]) + ".zip/" + "/".join(parts[i:])
                if inside in self._stems:
                    return self._stems[inside]
        return found

    def load(self, name: str, mode: str) -> np.ndarray:
        """Decodes one picture.

        Args:
            name: one of `names`.
            mode: "RGB" or "L"; transparent parts become white.

        Returns:
            (H, W, 3) or (H, W, 1) uint8.

        Raises:
            DataError: naming the file, when it is missing or damaged.
        """
        try:
            with Image.open(io.BytesIO(self._read(name))) as picture:
                array = np.asarray(_flattened(picture).convert(mode))
        except _DAMAGE as error:
            raise self._damaged(name, error) from error
        return array if array.ndim == 3 else array[..., None]

    def shape(self, name: str) -> tuple[int, int]:
        """(H, W) from the picture's header.

        Raises:
            DataError: naming the file, when it is missing or damaged.
        """
        try:
            with self._open(name) as file, Image.open(file) as picture:
                return picture.height, picture.width
        except _DAMAGE as error:
            raise self._damaged(name, error) from error

    def _damaged(self, name: str, error: Exception) -> DataError:
        why = " ".join(str(error).split()) or type(error).__name__
        return DataError(
            f"got {self.folder / name}, which cannot be read ({why}), expected a whole "
            f"{'/'.join(sorted(s[1:] for s in SUFFIXES))} picture; replace or remove it"
        )

    def _list(self) -> list[str]:
        names = []
        for path in self.folder.rglob("*"):
            name = path.relative_to(self.folder).as_posix()
            if path.suffix.lower() == ".zip" and path.is_file():
                names += [f"{name}/{member}" for member in self._members(name)]
            elif path.suffix.lower() in SUFFIXES:
                names.append(name)
        return [name for name in names if not PurePosixPath(name).name.startswith(".")]

    def _members(self, archive: str) -> list[str]:
        try:
            with zipfile.ZipFile(self.folder / archive) as file:
                members = file.namelist()
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(
                f"got {self.folder / archive}, which is not a whole zip archive ({error}); "
                "expected one; copy it again"
            ) from error
        return [m for m in members if PurePosixPath(m).suffix.lower() in SUFFIXES]

    def _open(self, name: str):
        archive, separator, member = name.partition(".zip/")
        if not separator:
            return open(self.folder / name, "rb")
        return self._archive(f"{archive}.zip").open(member)

    def _read(self, name: str) -> bytes:
        with self._open(name) as file:
            return file.read()

    def _archive(self, name: str) -> zipfile.ZipFile:
        """The opened archive. Those not used for longest are let go, and close with their users."""
        with self._lock:
            if self._owner != os.getpid():  # a forked process must not move its parent's files
                self._archives, self._owner = OrderedDict(), os.getpid()
            archive = self._archives.pop(name, None) or zipfile.ZipFile(self.folder / name)
            self._archives[name] = archive
            if len(self._archives) > _OPEN_ARCHIVES:
                self._archives.popitem(last=False)
            return archive


def stem(name: str) -> str:
    """A picture's name without its extension."""
    suffix = PurePosixPath(name).suffix
    return name[: -len(suffix)] if suffix.lower() in SUFFIXES else name


def _flattened(picture: Image.Image) -> Image.Image:
    """The picture in 8 bits, on white where it is transparent."""
    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode not in ("RGBA", "LA", "PA") and "transparency" not in picture.info:
        return picture
    colors = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", colors.size, "white"), colors)
