"""The source `photos`: crops of the photographs that are installed with scikit-image, so that nothing is downloaded."""

from __future__ import annotations

import numpy as np
import skimage.data
import torch
from PIL import Image
from torch import Tensor

from ..files import UserError
from .images import Split, TensorImages

TRAIN = ("astronaut", "coffee", "motorcycle", "rocket")
VALIDATION = ("cat",)
TRAIN_CROPS, VALIDATION_CROPS = 4000, 500

_READERS = {
    "astronaut": skimage.data.astronaut,
    "cat": skimage.data.cat,
    "coffee": skimage.data.coffee,
    "motorcycle": lambda: skimage.data.stereo_motorcycle()[0],
    "rocket": skimage.data.rocket,
}


def photograph(name: str) -> np.ndarray:
    """A whole photograph by name (see TRAIN and VALIDATION), uint8 (H, W, 3)."""
    return _READERS[name]()


def load(*, size: int, seed: int) -> Split:
    """Random crops, the training half of them mirrored; validation from photographs that training never sees."""
    random = np.random.default_rng(seed)
    train = _crops(TRAIN, TRAIN_CROPS, size, random)
    mirrored = torch.from_numpy(random.random(TRAIN_CROPS) < 0.5)
    train[mirrored] = train[mirrored].flip(-1)
    return Split(TensorImages(train), TensorImages(_crops(VALIDATION, VALIDATION_CROPS, size, random)), "photos")


def _crops(names: tuple[str, ...], count: int, size: int, random: np.random.Generator) -> Tensor:
    """`count` square crops in random order, from one to eight times as large as `size`, reduced to it."""
    pictures = [Image.fromarray(photograph(name)) for name in names]
    largest = min(min(picture.size) for picture in pictures)
    if size > largest:
        raise UserError(f"size must be at most {largest} for photos, got {size}")
    crops = np.empty((count, size, size, 3), dtype=np.uint8)
    for crop in crops:
        picture = pictures[random.integers(len(pictures))]
        side = round(size * min(8, largest / size) ** random.random())
        left, top = (random.integers(extent - side + 1) for extent in picture.size)
        crop[:] = picture.resize((size, size), Image.Resampling.BOX, (left, top, left + side, top + side))
    return torch.from_numpy(crops).permute(0, 3, 1, 2).contiguous()
