"""Models from ONNX files: lines without seams, masks, tags, embeddings and scores."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from data.errors import DataError
from data.illustrations import render
from data.prepare.__main__ import main
from data.prepare.models import uses
from data.prepare.models.description import read_description
from data.prepare.models.tiles import by_tiles

models = pytest.importorskip("onnx_models", reason="needs onnx")
pytest.importorskip("onnxruntime")

PAGE = Path(__file__).parents[3] / "docs" / "prepare.md"


def picture(height=150, width=230) -> Image.Image:
    """A figure of a dark outline on light colours."""
    image = Image.new("RGB", (width, height), (240, 220, 200))
    pen = ImageDraw.Draw(image)
    pen.ellipse((40, 30, width - 40, height - 20), fill=(200, 230, 250), outline=(10, 10, 10))
    return image


# ------------------------------------------------------------------------------- lines


@pytest.mark.parametrize("sides", [(64, 64), (64, 100), (257, 190), (300, 40)])
def test_tiles_leave_no_seams(sides):
    """A function that sees less than a quarter of the overlap gives what it gives at once."""
    rng = np.random.default_rng(0)
    image = rng.random((*sides, 3)).astype(np.float32)

    def shifted(part):
        padded = np.pad(part[..., 0], 7, mode="constant", constant_values=9)
        return sum(
            padded[a : a + part.shape[0], b : b + part.shape[1]] for a in (0, 14) for b in (0, 14)
        )

    whole = by_tiles(image, shifted, (max(64, sides[0]), max(64, sides[1])), 32)
    np.testing.assert_allclose(by_tiles(image, shifted, (64, 64), 32), whole, atol=1e-5)
    assert whole.shape == sides


def test_a_model_in_tiles_draws_what_it_draws_at_once(tmp_path):
    image = Image.fromarray(render(3, 3, 300, 260).image)
    drawn = []
    for tile in (1024, 96):
        folder = tmp_path / str(tile)
        folder.mkdir()
        described = {"range": [0, 1], "tile": tile, "overlap": 32, "multiple": 4}
        drawn.append(np.asarray(uses.draw_lines(image, models.blur(folder, 6, **described))))
    inner = (slice(8, -8),) * 2  # what lies outside is grey for one and repeated for the other
    difference = np.abs(drawn[0].astype(int) - drawn[1])[inner]
    assert drawn[0].shape == (300, 260) and difference.max() <= 1


def described(name: str) -> dict:
    """The description of a published extractor as the page has it, without its file's name."""
    blocks = re.findall(r"```json\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (found,) = [json.loads(block) for block in blocks if f'"{name}.onnx"' in block]
    return {key: value for key, value in found.items() if key != "model"}


@pytest.mark.parametrize("name", ["sketchkeras", "anime2sketch", "manga", "lineart"])
@pytest.mark.parametrize("size", [(150, 230), (700, 530)])
def test_published_extractors_as_the_page_describes_them(tmp_path, name, size):
    image = picture(*size)
    path = getattr(models, name)(tmp_path, **described(name))
    lines = np.asarray(uses.draw_lines(image, path))
    assert lines.shape == size and lines.dtype == np.uint8
    dark = np.asarray(image).max(axis=2) < 40
    assert lines[dark].mean() < 120 and lines[~dark].mean() > 190


def test_polarity_and_range(tmp_path):
    for lines, expected in (("dark", 51), ("light", 204)):
        folder = tmp_path / lines
        folder.mkdir()
        nodes, constants = models.grey(1.0, 0.0)
        nodes.append(("Identity", ["grey"], ["y"], {}))
        told = {"range": [0, 10], "output_range": [0, 10], "lines": lines}
        path = models.save(folder, "l", nodes, models.ANY, models.LINES, constants, **told)
        drawn = np.asarray(uses.draw_lines(Image.new("RGB", (40, 30), (51, 51, 51)), path))
        assert (drawn == expected).all()


# ------------------------------------------------------------- masks, tags, embeddings, scores


@pytest.mark.parametrize("fit", ["stretch", "pad"])
def test_segmenters(tmp_path, fit):
    image = Image.new("RGB", (200, 120), "white")
    image.paste((0, 0, 0), (50, 30, 150, 90))
    told = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "range": [0, 1]}
    path = models.segmenter(tmp_path, 64, fit=fit, activation="sigmoid", **told)
    mask = np.asarray(uses.segment(image, path)) / 255
    truth = np.asarray(image.convert("L")) == 0
    assert mask.shape == truth.shape
    assert np.abs(mask - truth).mean() < 0.03
    other = models.segmenter(tmp_path, 64, fit=fit, activation="minmax")
    assert np.abs(np.asarray(uses.segment(image, other)) / 255 - truth).mean() < 0.03


def test_taggers_see_bgr_and_name_characters(tmp_path):
    labels = "name,category\nblue,0\nalice,4\ngeneral,9\n"
    (tmp_path / "labels.csv").write_text(labels)
    path = models.means(
        tmp_path, "tagger", [1, 32, 32, 3], (1, 2),
        layout="NHWC", channels="BGR", range=[0, 1], fit="pad", labels="labels.csv", threshold=0.3,
    )  # fmt: skip
    tags = uses.tag(Image.new("RGB", (50, 50), (255, 102, 204)), path)
    assert tags == uses.Tags(["blue", "alice"], ["alice"])  # 0.8, 0.4 and 1.0, a rating


def test_scores_of_embeddings(tmp_path):
    image = Image.new("RGB", (60, 40), (255, 0, 0))
    models.means(tmp_path, "clip", [1, 3, 28, 28], (2, 3), range=[0, 4], fit="crop")
    path = models.head(tmp_path, [5.0, 1.0, 1.0], 0.5, features="clip.json")
    np.testing.assert_allclose(uses.embed(image, str(tmp_path / "clip.json")), [1, 0, 0])
    assert uses.score(image, path) == pytest.approx(5.5)


def test_a_set_by_models(tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for i, color in enumerate(["red", "red", "blue", "blue", "green"]):
        image = Image.fromarray(render(i, i, 80 + 8 * i, 96).image)
        image.paste(color, (0, 0, 96, 50))
        image.save(source / f"{i}.png")
    (tmp_path / "labels.csv").write_text("name,category\nred,4\ngreen,0\nblue,4\n")
    told = {"range": [0, 1], "fit": "crop", "size": 16}
    tagger = models.means(
        tmp_path, "tagger", [1, 3, "H", "W"], (2, 3), labels="labels.csv", threshold=0.62, **told
    )
    clip = models.means(tmp_path, "clip", [1, 3, "H", "W"], (2, 3), **told)
    score = models.head(tmp_path, [1.0, 0.0, 0.0], 1.0, features="clip.json")
    words = ["--lines", "clean", models.blur(tmp_path, 2, range=[0, 1], tile=64, overlap=16)]
    words += ["--masks", models.segmenter(tmp_path, 64, activation="sigmoid")]
    words += [f"--tagger={tagger}", f"--embeddings={clip}", f"--score={score}"]
    words += ["--characters", "tags", "embeddings:0.99", "--processes=1"]
    assert main([str(source), f"--output={output}", *words]) == 0
    report = json.loads((output / "report.json").read_text())
    assert report["sketches"] == {"clean": "sketch", "blur": "sketch_blur"}
    assert report["masks"] == {"segmenter": 5}
    assert report["with_score"] == 5 and report["with_tags"] >= 4
    assert report["with_references"] >= 4


# --------------------------------------------------------------------------------- errors


def told(function, *given) -> str:
    with pytest.raises(DataError) as caught:
        function(*given)
    message = str(caught.value)
    assert message.startswith("got ") and "expected" in message and "\n" not in message
    return message


def test_models_of_another_kind_name_their_input_and_output(tmp_path):
    (tmp_path / "labels.csv").write_text("name\na\nb\n")
    lines = models.blur(tmp_path, 1)
    tagger = models.means(tmp_path, "tagger", [1, 3, 32, 32], (2, 3), labels="labels.csv")
    for use, path, expected in (
        ("lines", tagger, "one channel of pixels"),
        ("masks", lines, '"size" in its description'),
        ("tagger", tagger, "2 classes"),
        ("score", tagger, "one number a picture"),
    ):
        message = told(uses.check_model, use, path)
        assert expected in message
        assert "with input 'x' float (1, 3, " in message and "output 'y' float (1, " in message
    segmenter = models.segmenter(tmp_path, 64, channels="L")
    assert "does not take (1, 1, 64, 64)" in told(uses.check_model, "masks", segmenter)


def test_files_that_are_no_models(tmp_path):
    path = tmp_path / "m.json"
    path.write_text('{"model": "m.onnx"}')
    assert "No such file" in told(uses.check_model, "lines", str(path))
    (tmp_path / "m.onnx").write_bytes(b"no model")
    uses.open_session.cache_clear()
    assert "which is no ONNX model that can be read" in told(uses.check_model, "lines", str(path))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "got description"),
        ("[]", 'without "model"'),
        ('{"model": "a.onnx", "sise": 3}', "got sise 3"),
        ('{"model": "a.onnx", "channels": "HSV"}', "one of RGB, BGR, L, each"),
        ('{"model": "a.onnx", "range": [1]}', "a list of 2 numbers"),
        ('{"model": "a.onnx", "range": [1, 1]}', "two different numbers"),
        ('{"model": "a.onnx", "overlap": 2000}', "less than the tile's 1024"),
        ('{"model": "a.onnx", "multiple": 300}', "a multiple of 300"),
        ('{"model": "a.onnx", "std": [0, 1, 1]}', "numbers above 0"),
        ('{"model": "a.onnx", "size": "big"}', "a number of at least 0"),
        ('{"model": 3}', "a text"),
    ],
)
def test_descriptions_are_checked(tmp_path, content, words):
    path = tmp_path / "m.json"
    path.write_text(content)
    assert words in told(read_description, str(path))


def test_wrong_models_are_told_before_anything_is_written(tmp_path, capsys):
    picture().save(tmp_path / "a.png")
    source = tmp_path / "in"
    source.mkdir()
    picture().save(source / "a.png")
    path = models.segmenter(tmp_path, 64)
    (tmp_path / "labels.csv").write_text("name\na\n")
    assert main([str(source), f"--output={tmp_path}/out", f"--score={path}"]) == 2
    assert capsys.readouterr().err.startswith("error: got model ")
    assert not (tmp_path / "out").exists()
