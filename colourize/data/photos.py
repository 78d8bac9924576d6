"""The source `photos`: crops of the photographs that are installed with scikit-image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import skimage.data
import torch
from PIL import Image
from torch import Tensor

from ..files import UserError
from .images import Split, TensorImages

TRAIN_CROPS, VALIDATION_CROPS = 4000, 500
TRAIN_SHARE = 2 / 3  # of each photograph's width, from the left; the rest validates
LARGEST_REDUCTION = 4

_READERS = {
    "astronaut": skimage.data.astronaut,
    "cat": skimage.data.cat,
    "coffee": skimage.data.coffee,
    "motorcycle": lambda: skimage.data.stereo_motorcycle()[0],
    "rocket": skimage.data.rocket,
}
NAMES = tuple(_READERS)


def photograph(name: str) -> np.ndarray:
    """A whole photograph, by one of NAMES, uint8 (H, W, 3)."""
    return _READERS[name]()


def parts(name: str) -> tuple[np.ndarray, np.ndarray]:
    """What training sees of a photograph, the left two thirds, and what it never sees, the right third."""
    rgb = photograph(name)
    border = round(rgb.shape[1] * TRAIN_SHARE)
    return rgb[:, :border], rgb[:, border:]


def load(*, size: int, seed: int) -> Split:
    """Random crops of both parts of every photograph; half of the training crops are mirrored."""
    seen, unseen = zip(*map(parts, NAMES), strict=True)
    largest = min(min(part.shape[:2]) for part in unseen)
    if size > largest:
        raise UserError(f"size must be at most {largest} for photos, got {size}")
    sides = size, min(size * LARGEST_REDUCTION, largest)
    random = np.random.default_rng(seed)
    train = _crops(seen, TRAIN_CROPS, size, sides, random)
    validation = _crops(unseen, VALIDATION_CROPS, size, sides, random)
    mirrored = torch.from_numpy(random.random(len(train)) < 0.5)
    train[mirrored] = train[mirrored].flip(-1)
    return Split(TensorImages(train), TensorImages(validation), "photos")


def _crops(
    photographs: Sequence[np.ndarray],
    count: int,
    size: int,
    sides: tuple[int, int],
    random: np.random.Generator,
) -> Tensor:
    """`count` squares at random places, with sides within `sides`, reduced: uint8 (N, 3, size, size)."""
    pictures = [Image.fromarray(rgb) for rgb in photographs]
    crops = np.empty((count, size, size, 3), dtype=np.uint8)
    for crop in crops:
        picture = pictures[random.integers(len(pictures))]
        side = random.integers(sides[0], sides[1] + 1)
        left, top = (random.integers(extent - side + 1) for extent in picture.size)
        crop[:] = picture.resize((size, size), Image.Resampling.BOX, (left, top, left + side, top + side))
    return torch.from_numpy(crops).permute(0, 3, 1, 2).contiguous()
