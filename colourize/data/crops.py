"""The source `crops:PATH`: squares of one's own pictures at their own resolution, for super-resolution."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import pictures
from ..files import UserError, say_once
from .folder import divided
from .images import Split, TensorImages

TRAIN_CROPS, VALIDATION_CROPS = 4000, 200


def load(path: str, *, size: int, seed: int) -> Split:
    """Random size × size squares of the pictures below `path`; one picture in ten, chosen by `seed`, is for validation.

    Each picture gives as many crops as its share of the pixels. Pictures that cannot be read or are smaller than a crop
    are named once and left out.
    """
    random = np.random.default_rng(seed)
    seen, unseen = (_readable(part, size) for part in divided(f"crops:{path}", path, seed))
    if not seen or not unseen:
        raise UserError(f"crops:{path}: too few pictures can be read that are at least {size} × {size}")
    train, validation = _crops(seen, TRAIN_CROPS, size, random), _crops(unseen, VALIDATION_CROPS, size, random)
    return Split(TensorImages(train), TensorImages(validation), f"crops:{path}")


def _readable(paths: Sequence[Path], size: int) -> list[np.ndarray]:
    found = []
    for path in paths:
        try:
            rgb = pictures.read(path).rgb
        except UserError as error:
            say_once(f"{error}; it is skipped")
            continue
        if min(rgb.shape[:2]) < size:
            say_once(f"{path} is smaller than {size} × {size}; it is skipped")
        else:
            found.append(rgb)
    return found


def _crops(photographs: Sequence[np.ndarray], count: int, size: int, random: np.random.Generator) -> Tensor:
    areas = np.array([rgb.shape[0] * rgb.shape[1] for rgb in photographs], dtype=np.float64)
    crops = np.empty((count, size, size, 3), dtype=np.uint8)
    for crop, chosen in zip(crops, random.choice(len(photographs), count, p=areas / areas.sum()), strict=True):
        rgb = photographs[chosen]
        top, left = (random.integers(extent - size + 1) for extent in rgb.shape[:2])
        crop[:] = rgb[top : top + size, left : left + size]
    return torch.from_numpy(crops).permute(0, 3, 1, 2).contiguous()
