"""Any picture file gives what a viewer would show, or one line of error."""

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from data.errors import PictureError
from data.pictures import reading
from data.pictures.reading import read_picture

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F")


def _scene(height: int, width: int) -> np.ndarray:
    """White, with a black quarter at the top left: every orientation looks different."""
    scene = np.full((height, width), 255, np.uint8)
    scene[: (height + 1) // 2, : (width + 1) // 3] = 0
    return scene


def _in_mode(scene: np.ndarray, mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(scene.astype(np.uint16) * 257)
    if mode == "I":
        return Image.fromarray(scene.astype(np.int32) * 257)
    if mode == "F":
        return Image.fromarray(scene.astype(np.float32) / 255)
    if mode == "PA":
        return Image.fromarray(scene).convert("RGB").convert("P").convert("PA")
    image = Image.fromarray(scene)
    return image if mode == "L" else image.convert("RGB").convert(mode)


def _file(image: Image.Image, kind: str, **options) -> io.BytesIO:
    content = io.BytesIO()
    image.save(content, kind, **options)
    content.seek(0)
    return content


def _write(path, image, **options):
    image.save(path, **options)
    return path


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(MODES), st.integers(1, 40), st.integers(1, 40), st.integers(1, 8))
def test_every_mode_and_orientation_gives_the_same_picture(mode, height, width, orientation):
    scene = _scene(height, width)
    # The tag says how to turn what is stored; store the inverse of that.
    turns = {
        2: (Image.Transpose.FLIP_LEFT_RIGHT,),
        3: (Image.Transpose.ROTATE_180,),
        4: (Image.Transpose.FLIP_TOP_BOTTOM,),
        5: (Image.Transpose.TRANSPOSE,),
        6: (Image.Transpose.ROTATE_90,),
        7: (Image.Transpose.TRANSVERSE,),
        8: (Image.Transpose.ROTATE_270,),
    }
    image = Image.fromarray(scene)
    for turn in turns.get(orientation, ()):
        image = image.transpose(turn)
    stored = _in_mode(np.asarray(image), mode)
    stored.getexif()[0x0112] = orientation
    before = stored.tobytes()
    picture = read_picture(stored)
    assert (picture.height, picture.width) == scene.shape
    assert picture.alpha is None
    assert np.abs(picture.rgb.astype(int) - scene[..., None]).max() <= 2
    assert stored.tobytes() == before


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("PNG", "1"), ("PNG", "L"), ("PNG", "LA"), ("PNG", "P"), ("PNG", "RGBA"), ("PNG", "I;16"),
        ("TIFF", "I;16"), ("TIFF", "F"), ("TIFF", "CMYK"), ("TIFF", "1"), ("TIFF", "LAB"),
        ("JPEG", "L"), ("JPEG", "CMYK"), ("WEBP", "RGB"), ("BMP", "1"), ("GIF", "P"), ("PPM", "L"),
    ],
)  # fmt: skip
def test_files(tmp_path, kind, mode):
    scene = _scene(48, 64)
    image = _in_mode(scene, "L" if mode == "LAB" else mode)
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(image.convert("RGB"), *profiles, outputMode="LAB")
    options = {"quality": 95} if kind in ("JPEG", "WEBP") else {}
    picture = read_picture(_write(tmp_path / "a.bin", image, format=kind, **options))
    assert np.abs(picture.rgb.astype(int) - scene[..., None]).mean() < 3
    assert picture.name.endswith("a.bin")


def test_orientation_tag_of_a_file(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(_scene(30, 50)).transpose(Image.Transpose.ROTATE_90)
    picture = read_picture(_write(tmp_path / "a.png", stored, exif=exif))
    np.testing.assert_array_equal(picture.rgb[..., 0], _scene(30, 50))


def test_transparency_in_all_its_forms(tmp_path):
    ink = np.zeros((8, 8, 4), np.uint8)
    ink[2:4, :, 3] = 255
    rgba = Image.fromarray(ink)
    indexed = Image.new("P", (8, 8), 1)
    indexed.putpalette([0, 0, 0, 9, 9, 9])
    indexed.paste(0, (0, 2, 8, 4))
    grey = Image.new("L", (8, 8), 7)
    grey.paste(0, (0, 2, 8, 4))
    deep = Image.fromarray(np.where(ink[..., 3] > 0, 0, 777).astype(np.uint16))
    deep.info["transparency"] = 777
    files = {
        "rgba": _write(tmp_path / "rgba.png", rgba),
        "la": _write(tmp_path / "la.png", rgba.convert("LA")),
        "index": _write(tmp_path / "index.gif", indexed, transparency=1),
        "palette": _write(tmp_path / "palette.png", indexed, transparency=bytes([255, 0])),
        "grey": _write(tmp_path / "grey.png", grey, transparency=7),
        "webp": _write(tmp_path / "webp.webp", rgba, lossless=True, exact=True),
        "premultiplied": rgba.convert("RGBa"),
        "premultiplied grey": rgba.convert("LA").convert("La"),
        "16 bit": deep,
    }
    for name, file in files.items():
        picture = read_picture(file)
        assert picture.alpha is not None, name
        np.testing.assert_array_equal(picture.alpha, ink[..., 3], err_msg=name)
        on_white = np.asarray(picture.on(255))
        assert (on_white[2:4] == 0).all(), name
        assert (on_white[:2] == 255).all(), name
        assert (on_white[4:] == 255).all(), name
        assert (np.asarray(picture.on(0)) == 0).all(), name


def test_half_transparent_ink_is_half_paper():
    picture = read_picture(np.array([[[0, 0, 0, 128]]], np.uint8))
    assert np.abs(np.asarray(picture.on(255)).astype(int) - 127).max() <= 1


def test_sixteen_bits_are_scaled_not_clipped():
    values = np.array([[0, 128, 257, 32896, 65535]], np.uint16)
    expected = [0, 0, 1, 128, 255]
    assert read_picture(Image.fromarray(values)).rgb[0, :, 0].tolist() == expected
    assert read_picture(values).rgb[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.float32([[0, 0.5, 1]]), [0, 128, 255]),
        (np.float32([[0, 100, 255]]), [0, 100, 255]),
        (np.float32([[-1, 0, 1]]), [0, 128, 255]),
        (np.int32([[0, 10, 255]]), [0, 10, 255]),
        (np.int32([[0, 257, 65535]]), [0, 1, 255]),
        (np.float32([[0, 0, 0]]), [0, 0, 0]),
        (np.int32([[0, 250000, 1000000]]), [0, 64, 255]),
    ],
)
def test_range_of_deep_greys(values, expected):
    assert read_picture(Image.fromarray(values)).rgb[0, :, 0].tolist() == expected


def test_arrays():
    scene = _scene(6, 9)
    for values in (
        scene,
        scene[..., None],
        np.repeat(scene[..., None], 3, 2),
        scene > 0,
        scene / np.float32(255),
        scene.astype(np.uint16) * 257,
        np.stack([scene, np.full_like(scene, 255)], -1),
    ):
        picture = read_picture(values)
        np.testing.assert_array_equal(picture.rgb[..., 1], scene)
        assert picture.alpha is None


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((4, 4, 5), np.uint8),
        np.zeros((4,), np.uint8),
        np.zeros((0, 4), np.uint8),
        np.zeros((4, 4), np.int64),
        np.full((4, 4), -1.0),
        np.full((4, 4), np.nan),
    ],
)
def test_arrays_that_are_no_pictures(values):
    with pytest.raises(PictureError, match="expected"):
        read_picture(values)


def test_colour_profiles_are_applied_and_nonsense_ignored(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # A device whose red primary is green and whose green one is red.
    swapped = profile.replace(b"rXYZ", b"----").replace(b"gXYZ", b"rXYZ").replace(b"----", b"gXYZ")
    for letters in ("sRGB".encode("utf-16-be"), b"sRGB"):
        swapped = swapped.replace(letters, letters.replace(b"s", b"x"))
    image = Image.new("RGB", (4, 4), (255, 0, 0))
    for content, expected in (
        (swapped, (0, 255, 0)),
        (profile, (255, 0, 0)),
        (b"nonsense", (255, 0, 0)),
    ):
        path = _write(tmp_path / "a.png", image, icc_profile=content)
        assert np.abs(read_picture(path).rgb[0, 0].astype(int) - expected).max() <= 3
    layer = image.convert("RGBA")
    layer.putalpha(100)
    picture = read_picture(_write(tmp_path / "a.png", layer, icc_profile=swapped))
    assert np.abs(picture.rgb[0, 0].astype(int) - (0, 255, 0)).max() <= 3
    assert (picture.alpha == 100).all()


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("L", (5, 4), level) for level in (255, 0, 0)]
    for name in ("a.gif", "a.webp", "a.tiff", "a.png"):
        options = {"lossless": True} if name.endswith("webp") else {}
        path = tmp_path / name
        frames[0].save(path, save_all=True, append_images=frames[1:], **options)
        assert (read_picture(path).rgb == 255).all(), name


def _bomb() -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", 60000, 60000, 1, 0, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def test_bad_files(tmp_path):
    cases = {
        "bomb.png": (_bomb(), "megapixels"),
        "empty.png": (b"", "empty"),
        "text.png": (b"hello, I am no picture", "no picture"),
        "drawing.eps": (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n",
            "EPS",
        ),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(PictureError, match=message) as caught:
            read_picture(tmp_path / name)
        assert name in str(caught.value)
    with pytest.raises(PictureError, match="does not exist"):
        read_picture(tmp_path / "missing.png")
    with pytest.raises(PictureError, match="cannot be read"):
        read_picture(tmp_path)
    with pytest.raises(PictureError, match="type int"):
        read_picture(3)


def test_limit_of_pixels_whatever_the_source(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_PIXELS", 99)
    image = Image.new("L", (10, 10))
    for source in (image, np.asarray(image), _write(tmp_path / "a.png", image)):
        with pytest.raises(PictureError, match="10x10 px"):
            read_picture(source)


def test_pictures_whose_reading_copies_them_have_a_lower_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_PIXELS_COPIED", 99)
    image = Image.new("RGB", (10, 10))
    image.save(tmp_path / "a.webp")
    Image.new("F", (10, 10)).save(tmp_path / "a.tif")
    for name in ("a.webp", "a.tif"):
        with pytest.raises(
            PictureError, match=f"{name} of 10x10 px, expected at most 0 megapixels"
        ):
            read_picture(tmp_path / name)
    assert read_picture(_write(tmp_path / "a.png", image)).width == 10


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the memory")
def test_the_largest_picture_takes_less_than_a_gigabyte(tmp_path):
    Image.new("RGBA", (8192, 8192), (1, 2, 3, 4)).save(tmp_path / "a.png", compress_level=1)
    program = (
        "import re, sys; from data.pictures.reading import read_picture; "
        "width = read_picture(sys.argv[1]).width; "
        # In KiB; getrusage would count the program that started this one.
        "peak = re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]; "
        "print(width, int(peak) // 1000)"
    )
    command = [sys.executable, "-c", program, tmp_path / "a.png"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    width, megabytes = map(int, said.split())
    assert width == 8192 and megabytes < 1000


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_damaged_files_give_one_line(tmp_path_factory, data):
    kind = data.draw(st.sampled_from(("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP")))
    content = bytearray(_file(Image.fromarray(_scene(40, 50)).convert("RGB"), kind).getvalue())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(1, len(content) - 1))]
    else:
        for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
            content[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "a.bin"
    path.write_bytes(content)
    try:
        picture = read_picture(path)
    except PictureError as error:
        assert "\n" not in str(error)
        assert "a.bin" in str(error)
    else:
        assert picture.rgb.dtype == np.uint8
