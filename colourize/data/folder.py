"""The source `folder:PATH`: one's own pictures, cut square and resized, each read when it is first needed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import pictures
from ..files import UserError, say_once
from .images import Images, Split

VALIDATION_SHARE = 0.1
MEMORY = 1 << 30  # bytes of small pictures that are kept once read


class FolderImages(Images):
    """The pictures in `paths`, each its centre square at size × size.

    A file that turns out to be unreadable is named once, and the next readable one takes its place.
    """

    def __init__(self, paths: Sequence[Path], size: int) -> None:
        self.paths, self.size = list(paths), size
        self._keep = len(self.paths) * 3 * size * size <= MEMORY
        self._kept: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.paths)

    def batch(self, indices: Tensor) -> Tensor:
        return torch.stack([self._picture(index) for index in indices.tolist()])

    def first(self, count: int) -> FolderImages:
        return FolderImages(self.paths[:count], self.size)

    def _picture(self, index: int) -> Tensor:
        if index in self._kept:
            return self._kept[index]
        for offset in range(len(self)):
            path = self.paths[(index + offset) % len(self)]
            try:
                picture = _square(pictures.read(path).rgb, self.size)
            except UserError as error:
                say_once(f"{error}; it is skipped")
                continue
            if self._keep:
                self._kept[index] = picture
            return picture
        raise UserError(f"none of {len(self)} pictures can be read, {self.paths[0]} among them")


def _square(rgb: np.ndarray, size: int) -> Tensor:
    height, width = rgb.shape[:2]
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side)
    resized = Image.fromarray(rgb).resize((size, size), Image.Resampling.LANCZOS, box)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()


def load(path: str, *, size: int, seed: int) -> Split:
    """Every picture below `path`; one in ten, chosen by `seed`, is for validation."""
    train, validation = (FolderImages(part, size) for part in divided(f"folder:{path}", path, seed))
    for images in (train, validation):
        images.batch(torch.tensor([0]))  # nothing readable is said now, not in the middle of the training
    return Split(train, validation, f"folder:{path}")


def divided(source: str, path: str, seed: int) -> tuple[list[Path], list[Path]]:
    """The picture files below `path` in an order chosen by `seed`, and apart those for validation: one in ten or so.

    Which of them a picture is in depends on its own name alone, so that a folder may grow between trainings: what was
    trained on does not come to be measured on. Raises `UserError`, naming `source`, for fewer than two files.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise UserError(f"{source}: there is no such folder")
    places = {file: _place(file.relative_to(root), seed) for file in pictures.below(root)}
    if len(places) < 2:
        raise UserError(f"{source} holds {len(places)} pictures; at least 2 are needed, to train and to validate")
    order = sorted(places, key=places.__getitem__)
    chosen = sum(place < VALIDATION_SHARE for place in places.values())
    count = min(max(chosen, 1), len(order) - 1)
    return order[count:], order[:count]


def _place(name: Path, seed: int) -> float:
    """A number in [0, 1), as good as random, of a name and a seed."""
    digest = hashlib.blake2b(os.fsencode(f"{seed}/{name.as_posix()}"), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48
