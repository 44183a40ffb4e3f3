"""Windows of stored pictures: what cutting the whole picture gives, for less."""

import io
import subprocess
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


RECORDS = """
import re, sys
import numpy as np
from data.errors import PictureError
from data.sources.folders import FolderOptions, FolderSource
from data.transforms import BucketCrop

def peak():  # in KiB; getrusage would count the program that started this one
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])

source, crop = FolderSource(sys.argv[1], FolderOptions(masks="off")), BucketCrop(736, 1312)
before = peak()
for i in range(len(source)):
    rng = np.random.default_rng(i)
    try:
        crop(rng, source.draw(i, rng))
        said = "made"
    except PictureError as error:
        said = str(error)
    print(source.name(i), (peak() - before) // 1024, said, sep="|")
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_of_huge_and_thin_pictures(tmp_path):
    """In a process of its own: what was needed to make the pictures is no part of the peak."""
    sizes = {"a.png": (4000, 40), "b.png": (300, 20000), "c.jpg": (12000, 12000)}
    sizes["d.png"] = sizes["c.jpg"]
    for name, size in sizes.items():
        for kind, mode in (("color", "RGB"), ("sketch", "L")):
            (tmp_path / kind).mkdir(exist_ok=True)
            end = name if kind == "color" else name.replace("jpg", "png")
            made = Image.new(mode, size, (200,) * len(mode))
            made.save(tmp_path / kind / f"{name[0]}.{end[2:]}", compress_level=1)
    result = subprocess.run(
        [sys.executable, "-c", RECORDS, str(tmp_path)], capture_output=True, text=True, check=True
    )
    told = {line.split("|")[0][6:]: line.split("|")[1:] for line in result.stdout.splitlines()}
    assert told.keys() == sizes.keys()
    assert all(int(peak) < 400 for peak, _ in told.values()), told
    assert [said for _, said in told.values()][:3] == ["made"] * 3
    assert "12000x12000 px in mode RGB, which takes 549 MiB" in told["d.png"][1]


def test_pictures_that_take_too_much_memory_are_named(tmp_path):
    content = saved(Image.new("RGB", (9000, 9000)))
    with pytest.raises(PictureError, match=r"9000x9000 px in mode RGB, which takes 309 MiB"):
        picture(content).whole(64, 64, LANCZOS)
    # A JPEG is decoded smaller; read as a whole it has too many pixels, too.
    path = tmp_path / "large.jpg"
    Image.new("L", (9000, 9000), 200).save(path)
    made = picture(path.read_bytes(), kind="sketch").whole(64, 64, LANCZOS)
    assert made.shape == (64, 64, 1) and np.abs(made.astype(int) - 200).max() <= 1
    with pytest.raises(PictureError, match="expected at most 67 megapixels"):
        read_picture(path)
