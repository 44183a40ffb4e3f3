"""Windows of stored pictures: what cutting the whole picture gives, for less."""

import io
import resource
import sys

import numpy as np
import pytest
from PIL import Image, ImageCms

from data.errors import PictureError
from data.illustrations import render
from data.pictures import stored
from data.pictures.reading import read_picture
from data.pictures.stored import StoredPicture, Window

LANCZOS = Image.Resampling.LANCZOS


def saved(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def picture(content, kind="color"):
    return StoredPicture(lambda: content, "some picture", kind)


@pytest.fixture(scope="module")
def scene():
    return Image.fromarray(render(3, 3, 120, 200).image)


@pytest.mark.parametrize("turn", range(1, 9))
def test_windows_are_chosen_on_the_upright_picture(scene, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    for kind in ("PNG", "JPEG"):
        content = saved(scene, kind, exif=exif, **({"quality": 98} if kind == "JPEG" else {}))
        found = picture(content)
        whole = read_picture(Image.open(io.BytesIO(content)))
        assert found.shape == whole.rgb.shape[:2] == ((120, 200) if turn < 5 else (200, 120))
        window = Window(30, 20, 60, 80)
        expected = Image.fromarray(whole.rgb).resize((40, 30), LANCZOS, box=(20, 30, 100, 90))
        error = found.window(window, 30, 40, LANCZOS).astype(int) - np.asarray(expected)
        assert np.abs(error).mean() < (1 if kind == "PNG" else 5)


def test_every_mode_is_read_as_colouring_reads_it(scene):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = profile.replace(b"rXYZ", b"----").replace(b"gXYZ", b"rXYZ").replace(b"----", b"gXYZ")
    for letters in ("sRGB".encode("utf-16-be"), b"sRGB"):
        swapped = swapped.replace(letters, letters.replace(b"s", b"x"))
    layer = scene.convert("RGBA")
    layer.putalpha(Image.linear_gradient("L").resize(scene.size))
    contents = {
        "swapped profile": saved(scene, icc_profile=swapped),
        "transparency": saved(layer),
        "grey with transparency": saved(layer.convert("LA")),
        "palette": saved(scene.convert("P", palette=Image.Palette.ADAPTIVE)),
        "1 bit": saved(scene.convert("1")),
        "16 bit": saved(Image.fromarray(np.asarray(scene.convert("L")).astype(np.uint16) * 257)),
        "CMYK": saved(scene.convert("CMYK"), "TIFF"),
        "animation": saved(
            scene, "GIF", save_all=True, append_images=[Image.new("RGB", (200, 120))]
        ),
        "AVIF": saved(scene, "AVIF"),
    }
    for name, content in contents.items():
        expected = np.asarray(read_picture(Image.open(io.BytesIO(content))).on(255))
        found = picture(content).whole(120, 200, LANCZOS)
        np.testing.assert_array_equal(found, expected, err_msg=name)


def test_a_jpeg_is_decoded_no_larger_than_its_window_asks_for(monkeypatch):
    image = Image.linear_gradient("L").resize((1600, 1200)).convert("RGB")
    found, sizes = picture(saved(image, "JPEG")), []
    levels = stored.levels

    def noted(image, *arguments, **options):
        sizes.append(image.size)
        return levels(image, *arguments, **options)

    monkeypatch.setattr(stored, "levels", noted)
    small = found.whole(150, 200, LANCZOS)
    found.whole(100, 100, LANCZOS)
    assert sizes == [(200, 150)]
    assert np.abs(small.astype(int) - np.asarray(image.resize((200, 150), LANCZOS))).max() <= 3
    found.window(Window(0, 0, 600, 800), 600, 800, LANCZOS)
    assert sizes == [(200, 150), (1600, 1200)]


@pytest.mark.parametrize(
    "mask",
    [
        lambda grey: Image.fromarray(grey // 255),
        lambda grey: Image.fromarray((grey // 255).astype(np.uint16)),
        lambda grey: Image.fromarray(grey.astype(np.uint16) * 257),
        lambda grey: Image.fromarray(grey).convert("1"),
        lambda grey: Image.merge("LA", [Image.new("L", grey.shape[::-1]), Image.fromarray(grey)]),
        lambda grey: Image.merge("RGBA", [Image.fromarray(grey)] * 4),
    ],
    ids=["0 and 1", "0 and 1 in 16 bits", "16 bits", "1 bit", "silhouette", "white on nothing"],
)
def test_masks_of_all_kinds(mask):
    grey = np.zeros((40, 60), np.uint8)
    grey[10:20, 5:30] = 255
    found = picture(saved(mask(grey)), "mask").whole(40, 60, Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(found[..., 0], grey)


def test_transparent_sketches_are_on_paper():
    ink = np.zeros((8, 8, 4), np.uint8)
    ink[2:4, :, 3] = 255
    lines = picture(saved(Image.fromarray(ink)), "sketch").whole(8, 8, LANCZOS)
    assert lines.shape == (8, 8, 1) and (lines[2:4] == 0).all() and (lines[4:] == 255).all()


def test_damage_is_one_line(scene):
    whole = saved(scene, "JPEG")
    for content in (b"", b"no picture", whole[: len(whole) // 2], saved(scene)[:800]):
        with pytest.raises(PictureError, match="got some picture, which is") as caught:
            picture(content).whole(10, 10, LANCZOS)
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_memory_of_huge_and_thin_pictures():
    grey = Image.new("L", (12000, 12000), 200)
    contents = [
        ("color", saved(Image.new("RGB", (4000, 40)))),
        ("color", saved(Image.new("RGB", (300, 20000)))),
        ("sketch", saved(grey)),
        ("color", saved(grey.convert("RGB"), "JPEG")),
    ]
    del grey
    scale = 1024 if sys.platform.startswith("linux") else 1
    # The peak so far counts what was made for the test: it only ever grows.
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    for kind, content in contents:
        found = picture(content, kind)
        height, width = found.shape
        side = min(height, width)
        array = found.window(Window(0, 0, side, side), 1024, 1024, LANCZOS)
        assert array.shape[:2] == (1024, 1024)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale - before < 400 * 2**20


def test_pictures_that_take_too_much_memory_are_named():
    content = saved(Image.new("RGB", (9000, 9000)))
    with pytest.raises(PictureError, match=r"9000x9000 px in mode RGB, which takes 309 MiB"):
        picture(content).whole(64, 64, LANCZOS)
