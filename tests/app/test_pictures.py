"""What a picture file holds is read as it is meant, and what is written comes back."""

import numpy as np
import pytest
from drawn import png, random_rgb, smooth_rgb
from PIL import Image, ImageCms

from colourize import pictures
from colourize.files import UserError


def png16(levels):
    """uint16 (H, W, C) as a PNG file."""
    height, width, channels = levels.shape
    return png(width, height, 16, channels, b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels))


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".ppm"])
def test_lossless_formats_come_back_exactly(tmp_path, suffix):
    rgb = random_rgb()
    pictures.write(tmp_path / f"picture{suffix}", rgb)
    picture = pictures.read(tmp_path / f"picture{suffix}")
    assert np.array_equal(picture.rgb, rgb)
    assert picture.rgb.dtype == np.uint8
    assert picture.alpha is None


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
def test_lossy_formats_come_back_nearly(tmp_path, suffix):
    rgb = smooth_rgb()
    pictures.write(tmp_path / f"picture{suffix}", rgb)
    assert np.abs(pictures.read(tmp_path / f"picture{suffix}").rgb.astype(int) - rgb).max() < 16


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1)])
def test_extreme_shapes(tmp_path, shape):
    pictures.write(tmp_path / "picture.png", np.full((*shape, 3), 7, np.uint8))
    assert np.array_equal(pictures.read(tmp_path / "picture.png").rgb, np.full((*shape, 3), 7))


def test_fifty_megapixels(tmp_path):
    Image.new("RGB", (10_000, 5_000), (10, 20, 30)).save(tmp_path / "large.png", compress_level=1)
    picture = pictures.read(tmp_path / "large.png")
    assert picture.rgb.shape == (5_000, 10_000, 3)
    assert picture.rgb[-1, -1].tolist() == [10, 20, 30]


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(tmp_path, mode):
    image = Image.fromarray(smooth_rgb()).convert(mode)
    path = tmp_path / ("picture.jp2" if mode == "YCbCr" else "picture.tiff")  # Pillow < 13 misreads its own YCbCr TIFF
    image.save(path)
    picture = pictures.read(path)
    assert np.array_equal(picture.rgb, np.array(image.convert("RGB")))
    assert picture.alpha is None


def test_lab_becomes_rgb(tmp_path):
    rgb = smooth_rgb() // 2 + 64
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.profileToProfile(Image.fromarray(rgb), srgb, lab, outputMode="LAB")
    image.save(tmp_path / "picture.tiff")
    errors = np.abs(pictures.read(tmp_path / "picture.tiff").rgb.astype(int) - rgb)
    assert errors.mean() < 1  # 8-bit Lab is coarse, up to 9 levels for single colours


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_alpha_is_kept_beside(tmp_path, mode):
    image = Image.fromarray(smooth_rgb()).convert(mode)
    rgb, alpha = np.array(image.convert("RGB")), smooth_rgb()[..., 0]
    image.putalpha(Image.fromarray(alpha))
    image.save(tmp_path / "picture.png")
    picture = pictures.read(tmp_path / "picture.png")
    assert np.array_equal(picture.rgb, rgb)
    assert np.array_equal(picture.alpha, alpha)


def test_a_transparent_palette_entry_becomes_alpha(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    image.save(tmp_path / "picture.gif", transparency=1)
    picture = pictures.read(tmp_path / "picture.gif")
    assert picture.rgb[0, 0].tolist() == [255, 0, 0]
    assert picture.alpha.tolist() == [[255, 0]]


def test_opaque_alpha_is_dropped(tmp_path):
    Image.new("RGBA", (3, 3), (1, 2, 3, 255)).save(tmp_path / "picture.png")
    assert pictures.read(tmp_path / "picture.png").alpha is None


def test_alpha_comes_back(tmp_path):
    rgb, alpha = random_rgb(), random_rgb()[..., 0]
    pictures.write(tmp_path / "picture.png", rgb, alpha)
    picture = pictures.read(tmp_path / "picture.png")
    assert np.array_equal(picture.rgb, rgb)
    assert np.array_equal(picture.alpha, alpha)


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_are_reduced_and_said_once(tmp_path, said, channels):
    levels = np.random.default_rng(0).integers(65536, size=(9, 8, channels), dtype=np.uint16)
    levels[0, 0], levels[0, 1] = 0, 65535
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(png16(levels))
        rgb = pictures.read(tmp_path / name).rgb
        assert np.abs(rgb - levels / 257).max() <= (
            0.5 if channels == 1 else 1
        )  # PIL truncates 16-bit colours
    assert [sentence.partition("/a.png")[2] for sentence in said()] == [
        " has 16 bits per channel; such pictures are reduced to 8"
    ]


def test_8_bits_are_not_called_16(tmp_path, said):
    pictures.write(tmp_path / "picture.png", random_rgb())
    pictures.read(tmp_path / "picture.png")
    assert said() == []


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    upright = random_rgb()
    turned = {  # from upright to how a camera stores it
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(turned)).save(tmp_path / "picture.png", exif=exif)
    assert np.array_equal(pictures.read(tmp_path / "picture.png").rgb, upright)


def swapped_profile():
    """sRGB with red and blue exchanged, so that a picture with this profile shows its channels exchanged."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = profile.replace(b"rXYZ", b"????", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"????", b"bXYZ", 1)
    return profile.replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be"))


def test_a_colour_profile_is_applied(tmp_path):
    rgb = smooth_rgb()
    Image.fromarray(rgb).save(tmp_path / "picture.png", icc_profile=swapped_profile())
    picture = pictures.read(tmp_path / "picture.png")
    assert np.abs(picture.rgb.astype(int) - rgb[..., ::-1]).max() <= 3


def test_an_srgb_profile_changes_nothing(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(random_rgb()).save(tmp_path / "picture.png", icc_profile=profile)
    assert np.array_equal(pictures.read(tmp_path / "picture.png").rgb, random_rgb())


def test_grey_arrays_are_written(tmp_path):
    pictures.write(tmp_path / "picture.png", random_rgb()[..., 0])
    assert np.array_equal(
        pictures.read(tmp_path / "picture.png").rgb, random_rgb()[..., :1].repeat(3, axis=2)
    )


@pytest.mark.parametrize("name", ["picture.txt", "picture", "picture.xyz"])
def test_write_names_a_suffix_it_does_not_know(tmp_path, name):
    with pytest.raises(UserError, match=rf"{name}: .* is not a picture format; try \.png"):
        pictures.write(tmp_path / name, random_rgb())
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("suffix", ["jpg", "bmp"])
def test_write_refuses_to_lose_alpha(tmp_path, suffix):
    with pytest.raises(UserError, match=r"has no transparency; try \.png"):
        pictures.write(tmp_path / f"picture.{suffix}", random_rgb(), random_rgb()[..., 0])


@pytest.mark.parametrize("array", [np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), np.zeros(4, np.uint8)])
def test_write_names_wrong_arrays(tmp_path, array):
    with pytest.raises(ValueError, match=r"array must be uint8 \(H, W, 3\) or \(H, W\), got"):
        pictures.write(tmp_path / "picture.png", array)


def test_a_format_with_limits_says_so_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "picture.jpg"
    path.write_bytes(b"old")
    with pytest.raises(UserError, match=r"cannot write .*picture\.jpg: "):
        pictures.write(path, np.zeros((1, 70_000, 3), np.uint8))
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["picture.jpg"]


def test_reads_real_photographs(shared_data):
    paths = sorted((shared_data / "Set14").glob("*.png"))
    shapes = [pictures.read(path).rgb.shape for path in paths]
    assert len(shapes) == 14
    assert {shape[2] for shape in shapes} == {3}
