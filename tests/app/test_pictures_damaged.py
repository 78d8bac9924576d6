"""Files that are no pictures, or damaged ones, or too large: named, or read without what is damaged."""

import io

import numpy as np
import pytest
from drawn import png, random_rgb
from PIL import Image

from colourize import pictures
from colourize.files import UserError


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_levels_without_an_agreed_range_are_refused(tmp_path, dtype):
    Image.fromarray(np.full((4, 4), 70_000, dtype)).save(tmp_path / "picture.tiff")
    with pytest.raises(UserError, match=r"picture\.tiff: .* grey levels have no agreed range"):
        pictures.read(tmp_path / "picture.tiff")


def test_damaged_exif_is_said_and_left_out(tmp_path, said):
    Image.fromarray(random_rgb()).save(tmp_path / "picture.png", exif=b"Exif\0\0damaged")
    assert np.array_equal(pictures.read(tmp_path / "picture.png").rgb, random_rgb())
    assert len(said()) == 1
    assert "picture.png: its EXIF data is damaged" in said()[0]


def test_a_damaged_profile_is_said_and_left_out(tmp_path, said):
    Image.fromarray(random_rgb()).save(tmp_path / "picture.png", icc_profile=b"not a profile")
    assert np.array_equal(pictures.read(tmp_path / "picture.png").rgb, random_rgb())
    assert len(said()) == 1
    assert "picture.png: its colour profile cannot be used" in said()[0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"no picture at all", "not a picture in any known format"),
        (b"\x89PNG\r\n\x1a\n", "not a picture|damaged"),
    ],
)
def test_files_that_are_no_pictures_are_named(tmp_path, content, words):
    (tmp_path / "picture.png").write_bytes(content)
    with pytest.raises(UserError, match=rf"cannot read .*picture\.png: .*({words})"):
        pictures.read(tmp_path / "picture.png")


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*missing\.png: No such file"):
        pictures.read(tmp_path / "missing.png")
    with pytest.raises(UserError, match=r"cannot read .*: (Is a directory|Permission denied)"):
        pictures.read(tmp_path)


def encoded(kind):
    buffer = io.BytesIO()
    Image.fromarray(random_rgb()).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP"])
def test_truncated_files_are_named(tmp_path, kind):
    content = encoded(kind)
    (tmp_path / "half").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"cannot read .*half: "):
        pictures.read(tmp_path / "half")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP"])
def test_damaged_files_are_read_or_named(tmp_path, kind):
    content, random = encoded(kind), np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(content)
        for place in random.integers(min(200, len(content)), size=3):
            damaged[place] = random.integers(256)
        (tmp_path / "picture").write_bytes(damaged)
        try:
            picture = pictures.read(tmp_path / "picture", max_pixels=1_000_000)
        except UserError as error:
            assert str(error).startswith(f"cannot read {tmp_path / 'picture'}: ")
        else:
            assert picture.rgb.dtype == np.uint8 and picture.rgb.shape[2] == 3


def test_a_decompression_bomb_is_refused_unread(tmp_path):
    (tmp_path / "bomb.png").write_bytes(png(30_000, 30_000, 8, 3, b""))
    with pytest.raises(UserError, match=r"cannot read .*bomb\.png: Image size \(900000000 pixels\) exceeds"):
        pictures.read(tmp_path / "bomb.png")


def test_the_limit_on_pixels_can_be_chosen(tmp_path):
    pictures.write(tmp_path / "picture.png", random_rgb(10, 20))
    assert pictures.read(tmp_path / "picture.png", max_pixels=200).rgb.shape == (10, 20, 3)
    with pytest.raises(UserError, match=r"picture\.png: 20 × 10 is over 199 pixels"):
        pictures.read(tmp_path / "picture.png", max_pixels=199)
