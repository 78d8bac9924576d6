"""Picture files in and out, and the labelled sheets that show samples side by side."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageCms, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from .colour import to_uint8
from .files import UserError, atomic_write, say_once

MAX_PIXELS = 178_000_000  # just below PIL's own limit against decompression bombs
_OPTIONS = {  # by format; PNG of level 3 is a twelfth larger than of PIL's 6 and written in a third of the time
    "JPEG": {"quality": 95},
    "WEBP": {"quality": 95},
    "PNG": {"compress_level": 3},
}


class Picture(NamedTuple):
    """A picture in sRGB: `rgb` (H, W, 3) uint8, and `alpha` (H, W) uint8 or None where it is opaque."""

    rgb: np.ndarray
    alpha: np.ndarray | None = None


def read(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Any picture that PIL can read, upright (EXIF orientation applied) and in sRGB (colour profile applied).

    Grey, palette, CMYK and 16-bit pictures become 8-bit RGB; of an animation the first frame is read.
    Raises UserError, with the file's name, for a file that is missing, empty, not a picture, damaged, or
    over `max_pixels` pixels.
    """
    return _read(Path(path), Path(path), max_pixels)


def decode(content: bytes, name: str, *, max_pixels: int, formats: Sequence[str]) -> Picture:
    """The same from bytes that anybody may have sent: in no other than these formats of PIL. `name` is for messages."""
    if not content:
        raise UserError(f"cannot read {name}: the file is empty")
    return _read(io.BytesIO(content), Path(name), max_pixels, formats)


def _read(source: Path | BinaryIO, path: Path, max_pixels: int, formats: Sequence[str] | None = None) -> Picture:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures and odd metadata; what matters is raised
            with Image.open(source, formats=formats) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise UserError(f"cannot read {path}: {width} × {height} is over {max_pixels} pixels")
                return _to_picture(image, path)
    except UserError:
        raise
    except Exception as error:  # decoders raise nearly anything on damaged files
        raise UserError(f"cannot read {path}: {_reason(source, error)}") from error


def files(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The files among `paths`, and for each folder the picture files below it, in the order of their names.

    Raises UserError for a path that does not exist and for a folder without pictures.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            if not path.exists():
                raise UserError(f"cannot read {path}: there is no such file or folder")
            found.append(path)
            continue
        if not (inside := below(path)):
            raise UserError(f"{path} holds no pictures")
        found += inside
    return found


def cut(rgb: np.ndarray, multiple: int, path: str | os.PathLike[str]) -> Tensor:
    """(H, W, 3) uint8 → (1, 3, h, w), without what is beyond a `multiple` of pixels at the bottom and on the right.

    Raises UserError, naming `path`, where nothing remains.
    """
    height, width = (side - side % multiple for side in rgb.shape[:2])
    if 0 in (height, width):
        raise UserError(f"{path} is smaller than {multiple} × {multiple} pixels")
    return torch.tensor(rgb[:height, :width]).permute(2, 0, 1)[None]


def below(folder: Path) -> list[Path]:
    """The picture files in a folder and its folders, in the order of their names."""
    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in suffixes and file.is_file())


def _reason(source: Path | BinaryIO, error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(source, Path) and source.stat().st_size == 0:
        return "the file is empty"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a picture in any known format"
    if isinstance(error, Image.DecompressionBombError):
        return str(error)
    if isinstance(error, MemoryError):
        return "not enough memory"
    return f"the picture is damaged ({error or type(error).__name__})"


def _to_picture(image: Image.Image, path: Path) -> Picture:
    # `load` forgets how the file stores its pixels, and PIL reduces 16-bit colours without a word
    deep = image.mode.startswith("I") or any(";16" in str(tile[3]) for tile in image.tile)
    image.load()
    if deep:
        say_once(f"{path} has 16 bits per channel; such pictures are reduced to 8", key="16 bits")
    profile = image.info.get("icc_profile")
    _turn_upright(image, path)
    if image.mode.startswith("I"):
        image = _reduce_to_8_bits(image, path)
    elif image.mode == "F":
        raise UserError(f"cannot read {path}: floating-point grey levels have no agreed range")
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    if profile:
        image = _to_srgb(image, profile, path)
    rgb = np.array(image.convert("RGB"))
    opaque = alpha is None or alpha.getextrema()[0] == 255
    return Picture(rgb, None if opaque else np.array(alpha))


def _turn_upright(image: Image.Image, path: Path) -> None:
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception as error:  # the picture itself is sound
        say_once(f"{path}: its EXIF data is damaged ({error}); taken as upright")


def _reduce_to_8_bits(image: Image.Image, path: Path) -> Image.Image:
    """Grey levels 0..65535 → 0..255, rounded (PIL's own conversion clips at 255)."""
    levels = np.asarray(image).astype(np.int64)
    if levels.min() < 0 or levels.max() > 65535:
        raise UserError(f"cannot read {path}: 32-bit grey levels have no agreed range")
    return Image.fromarray(((levels + 128) // 257).astype(np.uint8))


def _to_srgb(image: Image.Image, profile: bytes, path: Path) -> Image.Image:
    if image.mode not in ("L", "CMYK", "LAB"):
        image = image.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(source):
            return image
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError) as error:
        say_once(f"{path}: its colour profile cannot be used ({error}); taken as sRGB")
        return image


def write(path: str | os.PathLike[str], array: np.ndarray, alpha: np.ndarray | None = None) -> None:
    """Writes (H, W, 3) or grey (H, W) uint8 atomically, in the format that the name's suffix says.

    Raises UserError for a suffix that is no picture format, for `alpha` in a format that has none, and when
    the file cannot be written.
    """
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise ValueError(f"array must be uint8 (H, W, 3) or (H, W), got {array.dtype} {array.shape}")
    save(path, with_alpha(array, alpha))


def with_alpha(array: np.ndarray, alpha: np.ndarray | None) -> Image.Image:
    """(H, W, 3) or grey (H, W) uint8 as a PIL image, with transparency (H, W) where there is any."""
    image = Image.fromarray(array)
    if alpha is not None:
        if alpha.dtype != np.uint8 or alpha.shape != array.shape[:2]:
            raise ValueError(f"alpha must be uint8 {array.shape[:2]}, got {alpha.dtype} {alpha.shape}")
        image = image.convert("RGB")
        image.putalpha(Image.fromarray(alpha))
    return image


def save(path: str | os.PathLike[str], image: Image.Image) -> None:
    """Writes a PIL image atomically, in the format that the name's suffix says; see `write` for errors."""
    path = Path(path)
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind not in Image.SAVE:
        raise UserError(
            f"cannot write {path}: {path.suffix or 'no suffix'} is not a picture format; try .png"
        )
    if kind in ("JPEG", "BMP", "PPM") and image.mode == "RGBA":
        raise UserError(f"cannot write {path}: {kind} has no transparency; try .png")
    options = _OPTIONS.get(kind, {})
    try:
        atomic_write(path, lambda file: image.save(file, format=kind, **options))
    except (ValueError, KeyError) as error:  # a format with limits of its own
        raise UserError(f"cannot write {path}: {error}") from error


def sheet(columns: Mapping[str, Tensor | Sequence[np.ndarray]], *, cell: int = 160) -> Image.Image:
    """A labelled table of pictures: a column per name, a row per example, each within `cell` × `cell` pixels.

    A column is a tensor (N, 3 or 1, H, W), uint8 or unit floats, or a sequence of uint8 arrays (H, W, 3) or
    (H, W). Tiny pictures are enlarged with their pixels kept square, large ones reduced. All columns hold
    the same number. A name may have several lines.
    """
    fitted = [[fit(to_image(picture), cell) for picture in column] for column in columns.values()]
    if len({len(column) for column in fitted}) != 1 or not fitted[0]:
        counts = {name: len(column) for name, column in columns.items()}
        raise ValueError(f"columns must hold the same number of pictures, at least one, got {counts}")
    gap, font = max(6, cell // 20), label_font(min(22, max(12, cell // 10)))
    widths = [
        max(*(round(font.getlength(line)) for line in name.split("\n")), *(picture.width for picture in column))
        for name, column in zip(columns, fitted, strict=True)
    ]
    heights = [max(picture.height for picture in row) for row in zip(*fitted, strict=True)]
    lines = max(name.count("\n") + 1 for name in columns)
    header = lines * sum(font.getmetrics()) + 4 * (lines - 1) + 2 * gap
    page = Image.new(
        "RGB", (sum(widths) + gap * (len(widths) + 1), header + sum(heights) + gap * len(heights)), "white"
    )
    draw = ImageDraw.Draw(page)
    left = gap
    for name, column, width in zip(columns, fitted, widths, strict=True):
        draw.text((left + width / 2, header / 2), name, font=font, fill="#333333", anchor="mm", align="center")
        top = header
        for picture, height in zip(column, heights, strict=True):
            page.paste(picture, (left + (width - picture.width) // 2, top + (height - picture.height) // 2))
            top += height + gap
        left += width + gap
    return page


def label_font(size: int) -> ImageFont.FreeTypeFont:
    """For what is written on pictures: matplotlib's DejaVu Sans has letters that PIL's own font lacks (×, Greek)."""
    from matplotlib import get_data_path

    return ImageFont.truetype(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


def to_image(picture: Tensor | np.ndarray) -> Image.Image:
    """One picture of those that `sheet` takes, in RGB."""
    if isinstance(picture, Tensor):
        picture = to_uint8(picture.detach().cpu()).permute(1, 2, 0).squeeze(-1).numpy()
    return Image.fromarray(np.ascontiguousarray(picture)).convert("RGB")


def fit(image: Image.Image, cell: int) -> Image.Image:
    """The longer side becomes `cell`: whole pixels are repeated first, so that each stays an even square."""
    longest = max(image.size)
    repeat = -(-cell // longest)
    size = [max(1, round(side * cell / longest)) for side in image.size]
    return image.resize((image.width * repeat, image.height * repeat), Image.Resampling.NEAREST).resize(
        size, Image.Resampling.BOX
    )
