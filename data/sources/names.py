"""What names of pictures mean: equal ones are found in other folders, archives and spellings."""

import re
import unicodedata

from data.pictures.reading import suffixes

_ARCHIVE = re.compile(r"\.(zip|tar)/", re.IGNORECASE)
# What other programs leave behind: macOS, Synology.
_LEFTOVERS = frozenset(("__MACOSX", "@eaDir", "Thumbs.db"))


def is_archive(name: str) -> bool:
    """Whether a file is an archive of pictures, by its name."""
    return name[-4:].lower() in (".zip", ".tar")


def is_hidden(part: str) -> bool:
    """Whether a file or a folder of this name is none of the user's pictures."""
    return part.startswith(".") or part in _LEFTOVERS


def suffix(name: str) -> str:
    """The suffix of a name in small letters, such as ".png"; "" without one."""
    start = name.rfind(".")
    return name[start:].lower() if start > name.rfind("/") + 1 else ""


def is_picture(name: str) -> bool:
    """Whether a file is a picture, by its name."""
    return suffix(name) in suffixes()


def key(name: str) -> str:
    """One spelling of a picture's name, its suffix with it.

    `a.zip/b.png`, `A/b.png` in an archive `A.ZIP`, `a.zip/a/b.png` and `a/b.png` name one picture,
    and so do composed and decomposed letters.
    """
    if not name.isascii():
        name = unicodedata.normalize("NFC", name)
    if "\\" in name:
        name = name.replace("\\", "/")
    name = name.removeprefix("./")
    found = _ARCHIVE.search(name)
    if found is None:
        return name
    folder, member = name[: found.start()], name[found.end() :]
    own = folder.rpartition("/")[2] + "/"
    return f"{folder}/{member.removeprefix(own)}"


def stem(name: str) -> str:
    """A name without its suffix, where that is a picture's."""
    end = suffix(name)
    return name[: -len(end)] if end in suffixes() else name
