"""Whatever bytes are sent, there is a PNG or a sentence; limits hold before any work is done."""

import io
import struct
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from colourize import checkpoint, conversion
from colourize.conversion import Converter, convert_all, safe_name
from colourize.files import UserError
from colourize.runs import Run, create_task
from colourize.settings import Settings


def make_converter(folder, task="regression", network="regression-cnn"):
    settings = Settings(task, network, size=16, filters=4)
    run = Run.begin(folder, settings, create_task(settings, None))
    checkpoint.save(folder / "model.safetensors", run.create_network().state_dict(), {})
    return Converter(run)


@pytest.fixture(scope="module")
def converter(tmp_path_factory):
    return make_converter(tmp_path_factory.mktemp("conversion") / "run")


def picture(height=12, width=20):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(format="PNG", image=None, **options):
    file = io.BytesIO()
    (image or Image.fromarray(picture())).save(file, format, **options)
    return file.getvalue()


def bomb(width=60_000, height=60_000):
    """A PNG of some hundred bytes that claims, truly, to be of 10 GB."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(3 * width + 1))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/><script>alert(1)</script></svg>'
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(/tmp/written) (w) file closefile\n"
HOSTILE = {
    "empty": (b"", "the file is empty"),
    "text": (b"hello, this is no picture", "not a picture"),
    "svg": (SVG, "not a picture"),
    "eps": (EPS, "not a picture"),
    "truncated": (encoded()[:-300], "damaged"),
    "header alone": (encoded()[:40], "damaged|not a picture"),
    "bomb": (bomb(), "decompression bomb"),
    "smaller bomb": (bomb(10_000, 10_000), "10000 × 10000 is over 24000000 pixels"),
    "zip": (b"PK\x03\x04" + bytes(100), "not a picture"),
}


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_pictures_come_back_as_png(converter, format):
    converted = converter.convert(encoded(format), f"holiday.{format.lower()}")
    assert converted.name == "holiday-colour.png"
    with Image.open(io.BytesIO(converted.png)) as made:
        assert (made.format, made.mode, made.size) == ("PNG", "RGB", (20, 12))
        assert np.array_equal(np.asarray(made), np.asarray(converted.after))
    before = np.asarray(converted.before)
    assert before.shape == (12, 20, 3) and (np.ptp(before, axis=2) == 0).all()


def test_transparency_is_kept(converter):
    image = Image.fromarray(picture())
    image.putalpha(Image.fromarray(picture()[..., 0]))
    with Image.open(io.BytesIO(converter.convert(encoded(image=image), "a.png").png)) as made:
        assert np.array_equal(np.asarray(made.getchannel("A")), picture()[..., 0])


def test_enlarged_pictures_are_shown_beside_their_pixels(tmp_path):
    converted = make_converter(tmp_path / "run", "enlarge2", "enlarger").convert(encoded(), "a.png")
    assert converted.name == "a-large.png"
    assert converted.before.size == converted.after.size == (40, 24)
    assert np.array_equal(np.asarray(converted.before)[::2, ::2], picture())


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_bytes_get_a_sentence(converter, kind):
    content, words = HOSTILE[kind]
    with pytest.raises(UserError, match=f"cannot read evil.png: .*({words})"):
        converter.convert(content, "../../etc/evil.png")


def test_what_is_too_large_is_refused_before_any_work(converter, tmp_path, monkeypatch):
    monkeypatch.setattr(conversion, "apply_to_picture", lambda *_: pytest.fail("work was done"))
    with pytest.raises(UserError, match="a.png: it has 20,971,521 bytes, and 20,971,520 are allowed"):
        converter.convert(bytes(conversion.MAX_BYTES + 1), "a.png")
    monkeypatch.setattr(conversion, "MAX_PIXELS", 4 * 239)
    large = make_converter(tmp_path / "run", "enlarge2", "enlarger")
    with pytest.raises(UserError, match="20 × 12 is over 239 pixels"):
        large.convert(encoded(), "a.png")


def test_several_in_a_zip_and_a_sentence_for_each_that_failed(converter):
    contents = {"a/x.png": encoded(), "b/x.png": encoded("JPEG"), "text.png": b"text", "y.gif": encoded("GIF")}
    seen, file = [], io.BytesIO()
    named = [(name, lambda content=content: content) for name, content in contents.items()]
    names, problems = convert_all(converter, named, file, lambda *at: seen.append(at))
    assert names == ["x-colour.png", "x-colour-2.png", "y-colour.png"]
    assert len(problems) == 1 and problems[0].startswith("cannot read text.png: not a picture")
    assert seen == [(0, "x.png"), (1, "x.png"), (2, "text.png"), (3, "y.gif")]
    with zipfile.ZipFile(file) as archive:
        assert archive.namelist() == names and archive.testzip() is None
        assert archive.read(names[0]) == converter.convert(contents["a/x.png"], "x").png


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("photo.png", "photo.png"),
        ("../../etc/passwd", "passwd"),
        ("C:\\pictures\\a b.jpg", "a b.jpg"),
        ("Ärger 1 (2).png", "Ärger 1 (2).png"),
        ("<script>alert(1)<x>.png", "_script_alert(1)_x_.png"),
        ("a\0b\n.png", "a_b_.png"),
        ("..", "picture"),
        ("", "picture"),
        ("x" * 300 + ".png", "x" * 80 + ".png"),
    ],
)
def test_names_are_nothing_but_names(name, safe):
    assert safe_name(name) == safe


def test_same_bytes_same_picture(converter):
    torch.manual_seed(1)
    assert converter.convert(encoded(), "a").png == converter.convert(encoded(), "a").png
