"""Picture files in and out, and the labelled sheets that show samples side by side."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from .colour import to_uint8
from .files import UserError, atomic_write, say_once

MAX_PIXELS = 2 * Image.MAX_IMAGE_PIXELS  # about 179 million: PIL's own limit against decompression bombs


class Picture(NamedTuple):
    """A picture in sRGB: `rgb` (H, W, 3) uint8, and `alpha` (H, W) uint8 or None where it is opaque."""

    rgb: np.ndarray
    alpha: np.ndarray | None = None


def read(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Any picture that PIL can read, upright (EXIF orientation applied) and in sRGB (colour profile applied).

    Grey, palette, CMYK and 16-bit pictures become 8-bit RGB. Raises UserError, with the file's name, for a file that is
    missing, empty, not a picture, damaged, or has more than `max_pixels` pixels.
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.width * image.height > max_pixels:
                    raise UserError(f"cannot read {path}: {image.width} × {image.height} is over {max_pixels} pixels")
                return _convert(image, path)
    except UserError:
        raise
    except Exception as error:  # decoders raise nearly anything on damaged files
        raise UserError(f"cannot read {path}: {_reason(path, error)}") from error


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if path.stat().st_size == 0:
        return "the file is empty"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a picture in any known format"
    return f"the picture is damaged ({error or type(error).__name__})"


def _convert(image: Image.Image, path: Path) -> Picture:
    deep = any(";16" in str(tile[3]) for tile in image.tile) or image.mode.startswith("I")
    profile = image.info.get("icc_profile")
    image = ImageOps.exif_transpose(image)
    if deep:
        say_once(f"{path} has 16 bits per channel; they are reduced to 8, here and in other files", key="16 bits")
    if image.mode.startswith("I"):  # PIL's own conversion of these would clip at 255
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise UserError(f"cannot read {path}: 32-bit grey levels beyond 0..65535 have no agreed meaning")
        image = Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    elif image.mode == "F":
        raise UserError(f"cannot read {path}: floating-point grey levels have no agreed meaning")
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    if image.mode not in ("L", "CMYK", "LAB"):
        image = image.convert("RGB")
    if profile:
        image = _to_srgb(image, profile, path)
    rgb = np.array(image.convert("RGB"))
    if alpha is None or alpha.getextrema()[0] == 255:
        return Picture(rgb)
    return Picture(rgb, np.array(alpha))


def _to_srgb(image: Image.Image, profile: bytes, path: Path) -> Image.Image:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(source):
            return image
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except ImageCms.PyCMSError as error:
        say_once(f"{path}: its colour profile cannot be used ({error}); taken as sRGB")
        return image


def write(path: str | os.PathLike[str], array: np.ndarray, alpha: np.ndarray | None = None) -> None:
    """Writes (H, W, 3) or grey (H, W) uint8 atomically, in the format that the name's suffix says.

    Raises UserError for a suffix that is no picture format, for `alpha` in a format that has none, and when the file
    cannot be written.
    """
    path = Path(path)
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise ValueError(f"array must be uint8 (H, W, 3) or (H, W), got {array.dtype} {array.shape}")
    image = Image.fromarray(array)
    if alpha is not None:
        image = image.convert("RGB")
        image.putalpha(Image.fromarray(alpha))
    save(path, image)


def save(path: str | os.PathLike[str], image: Image.Image) -> None:
    """Writes a PIL image atomically, in the format that the name's suffix says."""
    path = Path(path)
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind not in Image.SAVE:
        raise UserError(f"cannot write {path}: {path.suffix or 'no suffix'} is not a picture format; try .png")
    if kind == "JPEG" and image.mode == "RGBA":
        raise UserError(f"cannot write {path}: JPEG has no transparency; try .png")
    atomic_write(path, lambda file: image.save(file, format=kind))


def sheet(columns: Mapping[str, Tensor | Sequence[np.ndarray]], *, cell: int = 160) -> Image.Image:
    """A labelled table of pictures: a column per name, a row per example, each picture in a square of `cell` pixels.

    A column is a tensor (N, 3 or 1, H, W), uint8 or unit floats, or a list of arrays (H, W, 3). Tiny pictures are
    enlarged by whole pixels, large ones reduced; all columns must have the same number of pictures.
    """
    rows = [[_image(picture) for picture in pictures] for pictures in columns.values()]
    counts = {len(column) for column in rows}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(f"columns must hold the same number of pictures, at least one, got {[*map(len, rows)]}")
    gap, font = max(4, cell // 16), ImageFont.load_default(max(11, cell // 9))
    header = font.getbbox("Ag")[3] + 2 * gap
    pitch = cell + gap
    page = Image.new("RGB", (len(rows) * pitch + gap, header + counts.pop() * pitch), "white")
    draw = ImageDraw.Draw(page)
    for x, (name, column) in enumerate(zip(columns, rows, strict=True)):
        left = gap + x * pitch
        draw.text((left + cell / 2, header / 2), name, font=font, fill="#333333", anchor="mm")
        for y, picture in enumerate(column):
            picture = _fit(picture, cell)
            spare = cell - picture.width, cell - picture.height
            page.paste(picture, (left + spare[0] // 2, header + y * pitch + spare[1] // 2))
    return page


def _image(picture: Tensor | np.ndarray) -> Image.Image:
    if isinstance(picture, Tensor):
        picture = to_uint8(picture.detach().cpu()).permute(1, 2, 0).squeeze(-1).numpy()
    return Image.fromarray(np.ascontiguousarray(picture)).convert("RGB")


def _fit(image: Image.Image, cell: int) -> Image.Image:
    factor = cell / max(image.size)
    if factor >= 1:  # whole pixels first, so that every pixel is the same square
        return image.resize((image.width * int(factor), image.height * int(factor)), Image.Resampling.NEAREST)
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    return image.resize(size, Image.Resampling.LANCZOS)
