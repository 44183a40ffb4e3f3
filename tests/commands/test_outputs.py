"""No command writes onto or above what it reads, nor replaces what it did not make."""

import os
from pathlib import Path

import pytest
import small_run

from colorize_jax.commands import cli


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return small_run.make(tmp_path_factory.mktemp("run"))


@pytest.fixture
def files(tmp_path):
    return small_run.draw(tmp_path)


@pytest.fixture
def run(capsys):
    def run(*arguments):
        status = cli.main(list(map(str, arguments)))
        captured = capsys.readouterr()
        assert status == 0 or captured.err.count("\n") == 1, captured.err
        return status, captured.out, captured.err

    return run


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Name -> inode and content of every file."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.read_bytes()) for path in paths
    }


def colorize(workdir, sketch, reference, output, *rest):
    pair = ("--sketch", sketch, "--reference", reference, "--output", output)
    return ("colorize", "--checkpoint", workdir, *pair, *rest)


@pytest.mark.parametrize("spelling", ["plain", "dots", "link", "folder link", "hard link"])
@pytest.mark.parametrize("role", ["sketch", "reference"])
def test_a_picture_is_not_written_onto_what_it_is_made_of(run, files, workdir, role, spelling):
    own = {"sketch": files / "sketches" / "a.png", "reference": files / "references" / "b.png"}
    target = own[role]
    output = {
        "plain": target,
        "dots": target.parent / ".." / target.parent.name / target.name,
        "link": files / "link.png",
        "folder link": files / "folder" / target.name,
        "hard link": files / "hard.png",
    }[spelling]
    (files / "link.png").symlink_to(target)
    (files / "folder").symlink_to(target.parent)
    os.link(target, files / "hard.png")
    before = snapshot(files)
    command = colorize(workdir, own["sketch"], own["reference"], output, "--overwrite")
    status, _, error = run(*command)
    assert status == 2 and f"which is the {role} {target}" in error
    assert snapshot(files) == before


def test_a_folder_of_references_is_no_folder_for_results(run, files, workdir):
    sketches, references = files / "sketches", files / "references"
    before = snapshot(files)
    for rest in ((), ("--overwrite",)):
        status, out, error = run(*colorize(workdir, sketches, references, references, *rest))
        assert status == 2 and f"which is the reference {references / 'a.png'}" in error
        assert "nothing to do" not in out
    single = colorize(workdir, sketches / "a.png", references / "b.png", sketches, "--overwrite")
    assert "which is the sketch" in run(*single)[2]
    assert snapshot(files) == before


@pytest.mark.parametrize("what", ["sketch_mask", "reference_mask", "background"])
def test_nor_onto_the_pictures_beside_them(run, files, workdir, what):
    sketch, reference = files / "sketches" / "a.png", files / "references" / "a.png"
    own = files / "own.png"
    own.write_bytes(reference.read_bytes())
    before = snapshot(files)
    command = colorize(workdir, sketch, reference, own, f"--{what}", own, "--overwrite")
    status, _, error = run(*command)
    assert status == 2 and f"which is the {what} {own}" in error
    assert snapshot(files) == before


@pytest.mark.parametrize("what", ["checkpoint", "options", "from_image"])
def test_nor_onto_what_else_is_read(run, files, workdir, what):
    sketch, reference = files / "sketches" / "a.png", files / "references" / "a.png"
    made, options = files / "made.png", files / "options.png"
    assert run(*colorize(workdir, sketch, reference, made))[0] == 0
    options.write_text("steps: 2\n")
    rest = {
        "checkpoint": ("--contact-sheet", workdir / "config.json"),
        "options": ("--options", options, "--contact-sheet", options),
        "from_image": ("--from-image", made, "--contact-sheet", made),
    }[what]
    before = snapshot(files), snapshot(workdir)
    command = colorize(workdir, sketch, reference, files / "new.png", *rest, "--overwrite")
    status, _, error = run(*command)
    assert status == 2 and "that this command reads" in error
    assert (snapshot(files), snapshot(workdir)) == before


def test_a_contact_sheet_obeys_overwrite_and_is_no_result(run, files, workdir):
    sketch, reference = files / "sketches" / "a.png", files / "references" / "a.png"
    sheet = files / "sheet.png"
    sheet.write_text("precious")
    command = colorize(workdir, sketch, reference, files / "a.png", "--contact-sheet", sheet)
    status, _, error = run(*command)
    assert status == 2 and f"{sheet} that exists" in error and sheet.read_text() == "precious"
    same = colorize(workdir, sketch, reference, sheet, "--contact-sheet", sheet, "--overwrite")
    assert "which is the result" in run(*same)[2] and sheet.read_text() == "precious"


@pytest.mark.parametrize("shards", [(), ("--max-shard-size", "1MB"), ("--format", "diffusers")])
@pytest.mark.parametrize("place", ["", "checkpoints", "checkpoints/1", ".."])
def test_an_export_replaces_no_run(run, workdir, shards, place):
    before = snapshot(workdir)
    output = workdir / place
    command = ("export", "--checkpoint", workdir, "--output", output, *shards, "--overwrite")
    status, _, error = run(*command)
    assert status == 2 and ("that this command reads" in error or "expected a file" in error)
    assert snapshot(workdir) == before


def test_a_folder_is_replaced_only_if_it_is_ours_of_the_same_kind(run, workdir, tmp_path):
    shards = ("export", "--checkpoint", workdir, "--max-shard-size", "1MB", "--overwrite")
    ours, theirs, other = tmp_path / "ours", tmp_path / "theirs", small_run.make(tmp_path / "other")
    assert run(*shards, "--output", ours)[0] == 0
    assert run(*shards, "--output", ours)[0] == 0  # its own kind
    theirs.mkdir()
    (theirs / "thesis.tex").write_text("years")
    imports = ("import", "--input", ours, "--overwrite", "--output")
    for command, place, reason in (
        (shards, theirs, "that this program did not make"),
        (shards, other, "that this program did not make"),
        (imports[:4], tmp_path / "weights", None),
        (shards, tmp_path / "weights", "that is a folder of weights"),
    ):
        status, _, error = run(*command, "--output", place)
        assert status == (2 if reason else 0) and (reason or "") in error
    status, _, error = run(*imports, tmp_path)
    assert status == 2 and "which holds the input" in error
    (ours / "notes.txt").write_text("mine")
    status, _, error = run(*shards, "--output", ours)
    assert status == 2 and "that also holds notes.txt" in error
    assert (ours / "notes.txt").read_text() == "mine" and (theirs / "thesis.tex").exists()
    assert (other / "config.json").exists()


def test_what_cannot_be_written_is_a_line_and_the_rest_is_done(
    run, files, workdir, monkeypatch, capsys
):
    sketches, references = files / "sketches", files / "references"
    (sketches / "c.png").unlink()
    long = "x" * 251 + ".bmp"  # as long as a name may be; with .png as well
    (sketches / "b.png").rename(sketches / long)
    (files / "out").mkdir()
    (files / "out" / "a.png").mkdir()  # a folder where a picture should go
    arguments = colorize(workdir, sketches, references / "a.png", files / "out", "--overwrite")
    status = cli.main(list(map(str, arguments)))
    error = capsys.readouterr().err
    assert status == 1
    assert [line for line in error.splitlines() if line.startswith("failed: ")] == [
        f"failed: a.png: got output {files / 'out' / 'a.png'}, a folder, expected a file; name a "
        "file in it"
    ]
    assert sorted(path.name for path in (files / "out").iterdir()) == ["a.png", "x" * 251 + ".png"]


def test_a_file_that_fails_where_nobody_expects_it_is_one_line(run, monkeypatch, tmp_path):
    def fail(args):
        raise PermissionError(13, "Permission denied", str(tmp_path / "a"))

    monkeypatch.setattr("colorize_jax.commands.verify.run", fail)
    status, _, said = run("verify", tmp_path)
    assert status == 2 and f"{tmp_path}/a, which cannot be read or written (Permission" in said
