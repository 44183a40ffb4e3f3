"""The report on a folder with one of everything."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from data.check.__main__ import main
from data.illustrations import render


@pytest.fixture
def root(tmp_path):
    for kind in ("color", "sketch", "mask"):
        (tmp_path / kind).mkdir()
    for i in range(8):
        drawn = render(i, i, *((96, 80), (80, 128))[i % 2])
        Image.fromarray(drawn.image).save(tmp_path / f"color/{i}.{('png', 'jpg')[i % 2]}")
        Image.fromarray(drawn.sketch[..., 0]).save(tmp_path / f"sketch/{i}.png")
        Image.fromarray(drawn.mask[..., 0]).save(tmp_path / f"mask/{i}.png")
    return tmp_path


def check(root, capsys, *flags):
    path = root / "report.json"
    status = main([str(root), "--size=64", f"--json={path}", *flags])
    return status, json.loads(path.read_text()), capsys.readouterr().out


def test_a_sound_folder(root, capsys):
    status, report, text = check(root, capsys)
    assert status == 0 and report["pictures"] == 8
    assert report["formats"] == {".png": 4, ".jpg": 4} and report["short_side"] == [80, 80, 80]
    assert sum(report["buckets"].values()) == 8
    assert not any(report[name] for name in ("damaged", "equal_files", "passed_over"))
    assert "8 pictures in" in text and "formats: .png 4, .jpg 4" in text


def test_everything_that_can_be_wrong(root, capsys):
    shutil.copy(root / "color" / "1.jpg", root / "color" / "copy.jpg")
    shutil.copy(root / "sketch" / "1.png", root / "sketch" / "copy.png")
    again = Image.open(root / "color" / "3.jpg").resize((120, 76))
    again.save(root / "color" / "again.jpg")
    shutil.copy(root / "sketch" / "3.png", root / "sketch" / "again.png")
    dark = np.asarray(Image.open(root / "sketch" / "5.png"))
    Image.fromarray(255 - dark).save(root / "sketch" / "5.png")
    Image.new("L", (80, 96), 255).save(root / "sketch" / "2.png")
    Image.new("L", (80, 96)).save(root / "mask" / "2.png")
    Image.new("L", (50, 20), 255).save(root / "sketch" / "4.png")
    whole = (root / "color" / "6.png").read_bytes()
    (root / "color" / "6.png").write_bytes(whole[: len(whole) // 2])
    (root / "color" / "empty.png").write_bytes(b"")
    shutil.copy(root / "sketch" / "1.png", root / "sketch" / "empty.png")
    (root / "color" / "notes.txt").write_text("")
    sheet = root / "sheet.png"
    status, report, text = check(root, capsys, "--decode", f"--contact-sheet={sheet}")
    assert status == 1
    assert report["equal_files"] == [["color/1.jpg", "color/copy.jpg"]]
    assert ["color/1.jpg", "color/copy.jpg"] in report["look_alike"]
    assert ["color/3.jpg", "color/again.jpg"] in report["look_alike"]
    assert report["inverted_sketches"] == ["color/5.jpg"]
    assert report["blank_sketches"] == report["empty_masks"] == ["color/2.png"]
    damaged = dict(report["damaged"])
    assert damaged.keys() == {"color/4.png", "color/6.png"}
    assert "expected the same aspect" in damaged["color/4.png"]
    assert ["empty.png", "is empty"] in report["passed_over"]
    assert ["color/notes.txt", "is no picture (suffix .txt)"] in report["passed_over"]
    assert "1 sketches seem to be light on dark: invert them: color/5.jpg" in text
    assert Image.open(sheet).width == 5 * 200 + 8


def test_errors_are_one_line(tmp_path, root, capsys):
    assert main([str(tmp_path / "nowhere")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: got ") and error.count("\n") == 1
    assert main([str(root), "--size=64", f"--json={root}/none/report.json"]) == 2
    assert "cannot be written" in capsys.readouterr().err.splitlines()[-1]


def test_its_files_replace_nothing_that_is_read_and_obey_overwrite(root, tmp_path_factory, capsys):
    picture, other = root / "color" / "0.png", tmp_path_factory.mktemp("out") / "report.json"
    before = picture.read_bytes()
    for flag in ("--json", "--contact-sheet"):
        for rest in ((), ("--overwrite",)):
            assert main([str(root), "--size=64", f"{flag}={picture}", *rest]) == 2
            error = capsys.readouterr().err
            assert f"{picture}, which belongs to {root} that this command reads" in error
            assert error.count("\n") == 1 and picture.read_bytes() == before
    other.write_text("precious")
    assert main([str(root), "--size=64", f"--json={other}"]) == 2
    assert "that exists" in capsys.readouterr().err and other.read_text() == "precious"
    assert main([str(root), "--size=64", f"--json={other}", "--overwrite"]) == 0
    assert json.loads(other.read_text())["pictures"] == 8
    assert [path.name for path in other.parent.iterdir()] == ["report.json"]
