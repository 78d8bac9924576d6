"""Pictures that anybody may have sent, turned into PNG: bytes to bytes, within limits, with an error in one sentence.

This is what stands behind the web page (`web`), and knows nothing of it.
"""

from __future__ import annotations

import io
import re
import threading
import unicodedata
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image

from . import pictures
from .apply import apply_to_picture
from .files import UserError
from .runs import Run

FORMATS = "PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"  # PIL's others are rare, and some run programs (EPS)
MAX_BYTES = 20 * 2**20
MAX_PIXELS = 24_000_000  # of the picture that is sent and of the one that comes back
MAX_FILES = 50
_LONGEST_NAME = 80


class Converted(NamedTuple):
    """A picture: its new name, itself as PNG, and before and after for the screen, of the same size."""

    name: str
    png: bytes
    before: Image.Image
    after: Image.Image


class Converter:
    """The network of a run, ready to be asked, by one thread at a time."""

    def __init__(self, run: Run, *, weights: str = "last", device: torch.device | str = "cpu") -> None:
        self.task = run.task
        self.title = f"{run.folder.resolve().name}: {run.task.name}, {run.settings.network}"
        self._network = run.load_network(weights).to(device)
        self._lock = threading.Lock()

    def convert(self, content: bytes, name: str) -> Converted:
        """Raises `UserError`, in words for whoever sent it, for all that is not a picture of bearable size."""
        name = safe_name(name)
        if len(content) > MAX_BYTES:
            raise UserError(f"cannot read {name}: it has {len(content):,} bytes, and {MAX_BYTES:,} are allowed")
        limit = MAX_PIXELS // self.task.enlarges**2
        picture = pictures.decode(content, name, max_pixels=limit, formats=FORMATS)
        with self._lock:
            made = apply_to_picture(self._network, self.task, picture)
        png = io.BytesIO()
        pictures.with_alpha(*made).save(png, format="PNG")
        after = Image.fromarray(made.rgb)
        return Converted(f"{Path(name).stem}-{self.task.result}.png", png.getvalue(), self._before(picture.rgb), after)

    def _before(self, rgb: np.ndarray) -> Image.Image:
        """The picture as the network sees it, as large as what comes back."""
        image = Image.fromarray(rgb)
        if self.task.keeps_grey:
            return image.convert("L").convert("RGB")
        size = image.width * self.task.enlarges, image.height * self.task.enlarges
        return image.resize(size, Image.Resampling.NEAREST)


def convert_all(
    converter: Converter,
    files: Iterable[tuple[str, Callable[[], bytes]]],
    into: BinaryIO,
    progress: Callable[[int, str], object] = lambda done, name: None,
) -> tuple[list[str], list[str]]:
    """Converts named contents, read one at a time, into a zip: the names in it, and a sentence for each that failed."""
    names: list[str] = []
    problems: list[str] = []
    with zipfile.ZipFile(into, "w", zipfile.ZIP_STORED) as archive:  # PNG is compressed already
        for done, (name, read) in enumerate(files):
            progress(done, safe_name(name))
            try:
                converted = converter.convert(read(), name)
            except UserError as error:
                problems.append(str(error))
                continue
            names.append(_unused(converted.name, names))
            archive.writestr(names[-1], converted.png)
    return names, problems


def safe_name(name: str) -> str:
    """The last part of a name, in letters, digits and a few signs, so that it is nothing but a name anywhere."""
    name = unicodedata.normalize("NFC", re.split(r"[/\\]", name)[-1])
    name = re.sub(r"[^\w .()-]", "_", name).strip(" .")
    stem, dot, suffix = name.rpartition(".")
    if not dot:
        stem, suffix = name, ""
    return (stem[:_LONGEST_NAME] or "picture") + dot + suffix[:8]


def _unused(name: str, taken: list[str]) -> str:
    stem, number = name.removesuffix(".png"), 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}.png"
    return name
