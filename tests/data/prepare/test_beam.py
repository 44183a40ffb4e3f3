"""The stages as pipelines of Apache Beam give the same set, byte by byte."""

from pathlib import Path

import pytest
from drawn_folder import make

from data.prepare import beam as by_beam
from data.prepare.__main__ import main
from data.prepare.jobs.options import Options
from data.prepare.pipeline import prepare


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def test_without_beam_it_is_asked_for(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "apache_beam", None)
    (tmp_path / "in").mkdir()
    assert main([f"{tmp_path}/in", f"--output={tmp_path}/out", "--beam", ""]) == 2
    assert "pip install '.[beam]'" in capsys.readouterr().err


def test_the_direct_runner_gives_the_same_set(tmp_path):
    pytest.importorskip("apache_beam")
    make(tmp_path / "in", 12, 64)
    common = {"archive_size": 4, "lines": ("clean",), "characters": ("folder",)}
    by_hand = Options(str(tmp_path / "in"), str(tmp_path / "a"), **common)
    prepare(by_hand, lambda line: None)
    options = Options(str(tmp_path / "in"), str(tmp_path / "b"), **common)
    by_beam.prepare_by_beam(options, "--runner=DirectRunner", lambda line: None)
    whole = contents(tmp_path / "a")
    assert contents(tmp_path / "b") == whole and len(whole) >= 12

    # What is missing is made again, and what two workers make at once is whole.
    (tmp_path / "b" / ".prepare" / "made" / "000001.parquet").unlink()
    (tmp_path / "b" / "color" / "000001.zip").unlink()
    by_beam.prepare_by_beam(options, "--runner=DirectRunner", lambda line: None)
    assert contents(tmp_path / "b") == whole
    for _ in range(2):
        by_beam._make(options, tmp_path / "b" / ".prepare", 0)
    assert contents(tmp_path / "b") == whole
