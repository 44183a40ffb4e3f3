"""Every write of the commands that make files fails once: one line, and nothing lost."""

import builtins
import contextlib
import errno
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import small_run

from colorize_jax.commands import cli

ERRORS = [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.ENAMETOOLONG]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run.make(tmp_path_factory.mktemp("run"))


class Failing:
    """Makes the n-th write below a folder fail: an opened file, a new folder or a new name."""

    def __init__(self, folder: Path, number: int, error: int):
        self.folder, self.number, self.error, self.count = str(folder), number, error, 0

    def _meet(self, path: object) -> None:
        if isinstance(path, str | os.PathLike) and str(path).startswith(self.folder):
            self.count += 1
            if self.count == self.number:
                raise OSError(self.error, os.strerror(self.error), str(path))

    @contextlib.contextmanager
    def context(self) -> Iterator[None]:
        opened, mkdir, rename, replace = io.open, os.mkdir, os.rename, os.replace

        def open_file(path, mode="r", *rest, **options):
            if set(mode) & set("wax+"):
                self._meet(path)
            return opened(path, mode, *rest, **options)

        def on(function):
            def call(path, *rest, **options):
                self._meet(path)
                return function(path, *rest, **options)

            return call

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(builtins, "open", open_file)
            patch.setattr(io, "open", open_file)
            patch.setattr(os, "mkdir", on(mkdir))
            patch.setattr(os, "rename", on(rename))
            patch.setattr(os, "replace", on(replace))
            yield


def snapshot(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


COMMANDS = {
    "export": ("export", "--checkpoint", "RUN", "--output", "OUT/model.safetensors"),
    "shards": ("export", "--checkpoint", "RUN", "--output", "OUT/m", "--max-shard-size", "1MB"),
    "diffusers": ("export", "--checkpoint", "RUN", "--output", "OUT/d", "--format", "diffusers"),
    "import": ("import", "--input", "OUT/whole.safetensors", "--output", "OUT/w"),
}


@pytest.mark.parametrize(
    "error",
    [ERRORS[0], *(pytest.param(one, marks=pytest.mark.slow) for one in ERRORS[1:])],
    ids=errno.errorcode.get,
)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_write_that_fails_is_one_line_and_loses_nothing(
    workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, error: int
) -> None:
    whole = str(tmp_path / "whole.safetensors")
    assert cli.main(["export", "--checkpoint", str(workdir), "--output", whole]) == 0
    words = [w.replace("RUN", str(workdir)).replace("OUT", str(tmp_path)) for w in COMMANDS[name]]
    assert cli.main(words) == 0
    before = snapshot(tmp_path)
    capsys.readouterr()
    for number in range(1, 100):
        failing = Failing(tmp_path, number, error)
        with failing.context():
            status = cli.main([*words, "--overwrite"])
        text = capsys.readouterr().err
        if failing.count < number:
            assert status == 0
            break
        if status == 0:  # a folder that is there already need not be made
            assert cli.main(["inspect", words[words.index("--output") + 1], "--scan"]) == 0
            capsys.readouterr()
            before = snapshot(tmp_path)
            continue
        assert status == 2, (number, text)
        lines = [line for line in text.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and "Traceback" not in text, (number, text)
        assert snapshot(tmp_path) == before, number
        assert not list(tmp_path.glob(".colorize-jax-tmp*"))
    assert 2 < number < 99
