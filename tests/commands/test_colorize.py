"""`colorize` and `tags` as a user calls them: on the workdir of a run, and on imported weights."""

import json

import numpy as np
import pytest
import small_published
import small_run
import small_system
import small_tokenizer
from PIL import Image

from colorize_jax.commands import cli
from colorize_jax.inference.metadata import read_metadata


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return small_run.make(tmp_path_factory.mktemp("run"))


@pytest.fixture
def files(tmp_path):
    return small_run.draw(tmp_path)


@pytest.fixture
def run(workdir, capsys):
    def run(*arguments, checkpoint=workdir):
        command = ["colorize", *map(str, arguments)]
        status = cli.main([*command, "--checkpoint", str(checkpoint)] if checkpoint else command)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def pixels(path):
    return np.asarray(Image.open(path))


def test_one_picture_and_its_repetition(run, files, workdir):
    sketch, reference = files / "sketches" / "a.png", files / "references" / "a.png"
    out, again, other = (files / f"{name}.png" for name in ("out", "again", "other"))
    pair = ("--sketch", sketch, "--reference", reference)
    status, text, _ = run(*pair, "--output", out)
    made_with = read_metadata(out)
    seed = made_with.options.seed
    assert status == 0 and f"wrote {out} (seed {seed})" in text
    # The run samples as its config says; what is given goes before that.
    assert (made_with.options.sampler, made_with.options.steps) == ("Euler", 2)
    assert made_with.options.reference_guidance == 1.5
    assert made_with.inputs["sketch"] == str(sketch)
    assert made_with.extra["checkpoints"] == [str(workdir)]

    assert run("--from-image", out, "--output", again, checkpoint=None)[0] == 0
    np.testing.assert_array_equal(pixels(out), pixels(again))
    options = files / "options.yaml"
    options.write_text("steps: 3\nsketch_strength: 0.5\n")
    changed = ("--options", options, "--sketch_strength", 0.25, "--output", other)
    assert run("--from-image", out, *changed)[0] == 0
    found = read_metadata(other).options
    assert (found.steps, found.sketch_strength, found.seed) == (3, 0.25, seed)
    assert found.reference_guidance == 1.5

    status, _, error = run(*pair, "--output", out)
    assert status == 2 and "that exists" in error
    assert run(*pair, "--output", out, "--overwrite", "--seed", 0)[0] == 0
    assert read_metadata(out).options.seed == 0


def test_several_references_by_region_and_their_repetition(run, files):
    sketch, *references = (
        files / part for part in ("sketches/a.png", "references/a.png", "references/b.png")
    )
    height, width = pixels(sketch).shape[:2]
    masks = files / "left.png", files / "right.png"
    left = np.zeros((height, width), np.uint8)
    left[:, : width // 2] = 255
    for path, mask in zip(masks, (left, 255 - left), strict=True):
        Image.fromarray(mask).save(path)
    out, again, scene_out, alone = (files / f"{n}.png" for n in ("out", "again", "scene", "alone"))
    flags = [
        w
        for pair in zip(references, masks, strict=True)
        for w in ("--reference", "{}:{}".format(*pair))
    ]
    base = ("--sketch", sketch, "--seed", 0)
    assert run(*base, *flags, "--output", out)[0] == 0
    assert run(*base, "--reference", references[0], "--output", alone)[0] == 0
    assert (pixels(out) != pixels(alone)).any()
    assert run("--from-image", out, "--output", again, checkpoint=None)[0] == 0
    np.testing.assert_array_equal(pixels(out), pixels(again))
    rows = [f"- {{picture: {r.name}, mask: {m}}}" for r, m in zip(references, masks, strict=True)]
    scene = files / "references" / "scene.yaml"
    scene.write_text("\n".join(["references:", *rows]))
    assert run(*base, "--scene", scene, "--output", scene_out)[0] == 0
    np.testing.assert_array_equal(pixels(out), pixels(scene_out))

    # Nothing that a scene names is ever written to.
    status, _, error = run(*base, *flags, "--output", masks[0], "--overwrite")
    assert status == 2 and "which is the reference" in error and error.count("\n") == 1
    sheet = ("--contact-sheet", scene, "--overwrite")
    status, _, error = run(*base, "--scene", scene, "--output", scene_out, *sheet)
    assert status == 2 and "which is the scene" in error and scene.read_text().startswith("ref")
    status, _, error = run(
        *base, "--scene", scene, "--output", scene_out, *sheet[:1], "x.y", sheet[2]
    )
    assert status == 2 and "that ends in .png" in error
    status, _, error = run(*base, *flags, "--scene", scene, "--output", alone)
    assert status == 2 and "expected one of them" in error


def test_folders_are_finished_whatever_is_in_them(run, files):
    out, sheet = files / "out", files / "sheet.png"
    pair = ("--sketch", files / "sketches", "--reference", files / "references", "--output", out)
    status, text, error = run(*pair, "--batch-size", 2, "--seed", 1, "--contact-sheet", sheet)
    assert status == 1 and "wrote 2 pictures" in text
    assert "failed: c.png: got no reference" in error
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "b.png"]
    assert Image.open(sheet).width > Image.open(sheet).height

    # One reference for all; what is there is left alone, what was damaged is tried again.
    before = pixels(out / "a.png")
    reference = files / "references" / "a.png"
    one = ("--sketch", files / "sketches", "--reference", reference, "--output", out)
    status, text, error = run(*one)
    assert status == 1 and "wrote 0 pictures" in text and "2 existed" in text
    assert "c.png, which is damaged" in error
    np.testing.assert_array_equal(pixels(out / "a.png"), before)
    sketch, _ = small_system.make_pictures(2)
    Image.fromarray(sketch).save(files / "sketches" / "c.png")
    assert run(*one, "--seed", 1)[0] == 0
    assert "nothing to do: all 3 pictures exist" in run(*one)[1]

    # A picture of a folder is the picture that one gets alone.
    alone = files / "alone.png"
    single = ("--sketch", files / "sketches" / "c.png", "--reference", reference)
    assert run(*single, "--output", alone, "--seed", 1)[0] == 0
    np.testing.assert_array_equal(pixels(alone), pixels(out / "c.png"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sketch", "S/a.png"], "got no reference, expected one"),
        (["--sketch", "S/c.png", "--reference", "R/a.png"], "which is damaged"),
        (["--reference", "R/a.png"], "got no --sketch"),
        (["--sketch", "S/a.png", "--reference", "R/a.png", "--steps", "0"], "got steps 0"),
        (["--sketch", "S/a.png", "--reference", "R/a.png", "--sampler", "Eular"], '"Euler"'),
        (["--sketch", "S/a.png", "--reference", "R/a.png", "--width", "1000001"], "got width"),
        (["--sketch", "S/a.png", "--reference", "R/a.png", "--width", "8"], "got width 8 px"),
        (["--sketch", "S/a.png", "--reference", "R/a.png", "--background_plugin"], "the plugin"),
        (["--sketch", "S/a.png", "--reference", "R/a.png", "--batch-size", "0"], "--batch-size 0"),
        (["--sketch", "S/a.png", "--reference", "R/a.png", "--output", "o.jpg"], "ends in .png"),
        (["--sketch", "S", "--reference", "R", "--output", "S"], "that this command reads"),
        (
            ["--sketch", "R", "--reference", "E", "--output", "E"],
            "without a file of any sketch's name",
        ),
        (["--sketch", "E", "--reference", "R", "--output", "R"], "without pictures"),
        (["--from-image", "S/a.png"], "without colorize-jax's options"),
        (["--sketch", "S/a.png", "--reference", "R/a.png", "--text", "red"], "without CLIP"),
        (["--sketch", "S/a.png", "--reference", "R/a.png", "--text", "r; s=1"], '"s", expected'),
        (
            ["--sketch", "S/a.png", "--reference", "R/a.png", "--checkpoint", "S"],
            "a folder with a.png",
        ),
    ],
)
def test_bad_input_is_one_line_and_status_2(run, files, arguments, message):
    (files / "empty").mkdir()
    folders = {"S": files / "sketches", "R": files / "references", "E": files / "empty"}

    def place(word):
        first, slash, rest = word.partition("/")
        return f"{folders[first]}{slash}{rest}" if first in folders else word

    status, _, error = run("--output", files / "o.png", *map(place, arguments))
    assert status == 2 and message in error and error.startswith("error: ")
    assert error.count("\n") == 1


def test_without_a_reference_where_that_is_asked_for(run, files):
    out = files / "out.png"
    sketch = ("--sketch", files / "sketches" / "a.png")
    assert run(*sketch, "--unconditional", "--output", out)[0] == 0
    assert "reference" not in read_metadata(out).inputs
    reference = files / "references" / "a.png"
    again = files / "again.png"
    flags = (*sketch, "--reference", reference, "--output", again)
    status, _, error = run(*flags, "--unconditional")
    assert status == 2 and "got a reference and --unconditional, expected one" in error
    # Of a remembered picture either may be changed.
    status, _, error = run("--from-image", out, "--reference", reference, "--output", again)
    assert status == 2 and "--no-unconditional takes" in error
    changed = ("--from-image", out, "--reference", reference, "--no-unconditional")
    assert run(*changed, "--output", again)[0] == 0
    third = files / "third.png"
    assert run("--from-image", again, "--unconditional", "--seed", 1, "--output", third)[0] == 0
    assert "reference" not in read_metadata(third).inputs


def test_what_a_picture_remembers_can_be_left_out(run, files):
    sketch = ("--sketch", files / "sketches" / "a.png")
    reference = ("--reference", files / "references" / "a.png")
    strokes = Image.new("RGBA", Image.open(files / "sketches" / "a.png").size)
    strokes.paste((200, 30, 60, 255), (4, 4, 20, 20))
    strokes.save(files / "strokes.png")
    plain = files / "plain.png"
    assert run(*sketch, *reference, "--seed", 0, "--output", plain)[0] == 0
    for number, flags in enumerate(
        (("--hints", files / "strokes.png"), ("--hint", "0.5,0.5,#c81e3c,0.2"))
    ):
        hinted, kept = files / f"hinted{number}.png", files / f"kept{number}.png"
        assert run(*sketch, *reference, *flags, "--seed", 0, "--output", hinted)[0] == 0
        assert (pixels(hinted) != pixels(plain)).any()
        assert run("--from-image", hinted, "--output", kept)[0] == 0
        np.testing.assert_array_equal(pixels(kept), pixels(hinted))
        for flag in ("--hints", "--hint"):
            out = files / f"without{number}{flag}.png"
            assert run("--from-image", hinted, flag, "none", "--output", out)[0] == 0
            np.testing.assert_array_equal(pixels(out), pixels(plain))
            told = read_metadata(out)
            assert "hints" not in told.inputs and "hint" not in told.extra


# --------------------------------------------------------------------------------- imported weights


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Colorizer, plugin, CLIP and tagger as small files with published names."""
    folder = tmp_path_factory.mktemp("published")
    paths = small_published.make(folder)
    exported = folder / "exported.safetensors"
    words = ["export", "--checkpoint", paths["colorizer"], "--output", exported]
    assert cli.main([str(word) for word in words]) == 0
    return paths | {"exported": exported}


@pytest.fixture
def color(run, files, published):
    """(name of a picture, flags) -> its pixels, or the one line that refuses it."""

    def color(name, *flags, checkpoints=("colorizer", "clip_vision", "tagger"), refused=False):
        paths = [published[checkpoint] for checkpoint in checkpoints]
        words = ["--sketch", files / "sketches" / "a.png", "--output", files / f"{name}.png"]
        words += ["--reference", files / "references" / "a.png", "--width", 256, "--height", 256]
        words += ["--steps", 1, "--sampler", "Euler", "--seed", 0, *flags]
        words += [word for path in paths for word in ("--checkpoint", path)]
        status, _, error = run(*words, checkpoint=None)
        assert status == (2 if refused else 0), error
        assert error.count("\n") == 1 or not refused
        return error if refused else pixels(files / f"{name}.png")

    return color


def test_imported_weights_and_published_files(color):
    assert "expected clip_vision too" in color("o", checkpoints=["colorizer"], refused=True)
    imported = color("imported")
    assert imported.shape == (256, 213, 3)
    exported = color("exported", checkpoints=["exported", "clip_vision", "tagger"])
    np.testing.assert_array_equal(imported, exported)


def test_texts(run, files, color):
    tokenizer = small_tokenizer.save(files / "tokenizer")
    text = ("--text", "red hair; anchor=green sky; strength=10")
    assert "expected checkpoints with clip_text too" in color("red", *text, refused=True)
    towers = ["colorizer", "clip_vision", "clip_text", "tagger"]
    error = color("red", *text, checkpoints=towers, refused=True)
    assert "got text without a tokenizer" in error
    error = color("red", *text, "--tokenizer", files, checkpoints=towers, refused=True)
    assert "expected a folder with CLIP's" in error
    red = color("red", *text, "--tokenizer", tokenizer, checkpoints=towers)
    assert (red != color("plain")).any()

    # The picture remembers its texts and where the tokenizer is.
    (manipulation,) = read_metadata(files / "red.png").options.text
    assert (manipulation.target, manipulation.strength) == ("red hair", 10)
    again = files / "again.png"
    assert run("--from-image", files / "red.png", "--output", again, checkpoint=None)[0] == 0
    np.testing.assert_array_equal(pixels(again), red)


def test_the_plugin(color):
    rest = ["colorizer", "clip_vision", "tagger"]
    flags = ("--background_plugin", "--mask_source", "estimate")
    error = color("other", *flags, checkpoints=[*rest, "plugin"], refused=True)
    assert "name its checkpoint before the colorizer's" in error
    pictures = {
        name: color(name, *more, checkpoints=["plugin", *rest])
        for name, more in {
            "plain": (),
            "background": flags,
            "both": (*flags, "--foreground_latent"),
            "quiet": (*flags, "--lora_scales", "background=0.5"),
        }.items()
    }
    for name, picture in pictures.items():
        assert not any((picture == pictures[other]).all() for other in pictures if other != name)


def test_tags(published, files, capsys):
    labels = files / "labels.csv"
    rows = [f"{i},tag_{i},{9 if i < 2 else 0},1" for i in range(7)]
    labels.write_text("tag_id,name,category,count\n" + "\n".join(rows) + "\n")
    picture = files / "references" / "a.png"
    words = ["tags", picture, "--checkpoint", published["tagger"], "--labels", labels]
    assert cli.main([*map(str, words), "--threshold", "0", "--json"]) == 0
    tags = json.loads(capsys.readouterr().out)["tags"]
    # One rating, and every other tag, likeliest first.
    assert len(tags) == 6 and sum(name in ("tag_0", "tag_1") for name in tags) == 1
    scores = list(tags.values())[1:]
    assert scores == sorted(scores, reverse=True) and all(0 < score < 1 for score in scores)
    assert cli.main([*map(str, words), "--threshold", "1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2

    table = files / "tags.jsonl"
    words = ["tags", files / "references", "--checkpoint", published["tagger"], "--labels", labels]
    words += ["--threshold", "0", "--output", table]
    assert cli.main(list(map(str, words))) == 0
    whole = table.read_bytes()
    rows = {row["image_path"]: row for row in map(json.loads, whole.splitlines())}
    assert set(rows) == {path.name for path in (files / "references").iterdir()}
    assert len(rows["a.png"]["tags"]) == 5 and not rows["a.png"]["characters"]
    table.write_bytes(whole[: len(whole) // 2])  # a start that was killed
    assert cli.main(list(map(str, words))) == 0
    assert table.read_bytes() == whole
    capsys.readouterr()

    labels.write_text("name\nonly\n")
    assert cli.main(list(map(str, words))) == 2
    assert "got 1 labels" in capsys.readouterr().err
