"""How the pictures of a unit lie on the disk: zip archives, tar shards, or folders."""

import contextlib
import io
import json
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from data.prepare.jobs.output import replacing
from data.prepare.stages.products import Product

_EPOCH = (1980, 1, 1, 0, 0, 0)  # of all members: the same pictures make the same archive
_MODE = 0o644


class Unit(Protocol):
    """Pictures that are put where they belong, one after the other."""

    def add(self, product: Product) -> None:
        """Put the files of one picture."""
        ...


@contextlib.contextmanager
def zip_unit(output: Path, number: int, kinds: list[str]) -> Iterator[Unit]:
    """Archives `KIND/NUMBER.zip` with members `NUMBER/name.suffix`, as published."""
    with contextlib.ExitStack() as stack:
        archives = {}
        for kind in kinds:
            file = stack.enter_context(replacing(output / kind / f"{number:06}.zip"))
            archives[kind] = stack.enter_context(zipfile.ZipFile(file, "w"))
        yield _Zips(archives)


class _Zips:
    def __init__(self, archives: dict[str, zipfile.ZipFile]) -> None:
        self._archives = archives

    def add(self, product: Product) -> None:
        for kind, (suffix, content) in product.files.items():
            member = zipfile.ZipInfo(product.name + suffix, _EPOCH)
            member.external_attr = _MODE << 16
            self._archives[kind].writestr(member, content)


@contextlib.contextmanager
def tar_unit(output: Path, number: int, kinds: list[str]) -> Iterator[Unit]:
    """A shard `NUMBER.tar` with `KEY.jpg`, `KEY.sketch.png`, `KEY.mask.png` and `KEY.json`."""
    del kinds
    with (
        replacing(output / f"{number:06}.tar") as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as shard,
    ):
        yield _Tar(shard)


class _Tar:
    def __init__(self, shard: tarfile.TarFile) -> None:
        self._shard = shard

    def add(self, product: Product) -> None:
        name = product.name.partition("/")[2]  # the shard's own name stands for the first part
        for kind, (suffix, content) in product.files.items():
            self._put(f"{name}{'' if kind == 'color' else '.' + kind}{suffix}", content)
        known = {
            name: value
            for name, value in product.facts.items()
            if value is not None and name in ("width", "height", "tags", "aesthetic_score")
        }
        self._put(f"{name}.json", json.dumps(known, ensure_ascii=False).encode())

    def _put(self, name: str, content: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(content), _MODE
        self._shard.addfile(member, io.BytesIO(content))


@contextlib.contextmanager
def folder_unit(output: Path, number: int, kinds: list[str]) -> Iterator[Unit]:
    """Files `KIND/NUMBER/name.suffix`, each whole or not there."""
    del number, kinds
    yield _Files(output)


class _Files:
    def __init__(self, output: Path) -> None:
        self._output = output

    def add(self, product: Product) -> None:
        for kind, (suffix, content) in product.files.items():
            with replacing(self._output / kind / (product.name + suffix)) as file:
                file.write(content)


UNITS = {"zip": zip_unit, "tar": tar_unit, "folder": folder_unit}
