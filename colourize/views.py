"""A picture, seen a little differently in every epoch: from right to left, turned by quarters, moved or stretched.

Colours and labels move with their pixels, so a view of an example is an example, and is gathered from it as it is.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Views(NamedTuple):
    """Mirrored or not if `flips`, turned by 0 to 3 quarters if `turns`, and moved by up to `shifts` units of `unit`
    pixels up, down, left or right; what moves in from outside is the border, mirrored. `turns` takes square pictures.
    With `stretches`, a view begins and ends by up to so many rows farther out or in, and so for columns, in the same
    space: pixels are left out or repeated, so that labels stay labels. That takes a unit of 1.

    A view has a number below `count`; 0 is the picture itself.
    """

    flips: bool = False
    turns: bool = False
    shifts: int = 0
    unit: int = 1
    stretches: int = 0

    @property
    def _radices(self) -> tuple[int, ...]:
        places, extents = 2 * self.shifts + 1, 2 * self.stretches + 1
        return 1 + self.flips, 1 + 3 * self.turns, places, places, extents, extents

    @property
    def count(self) -> int:
        return math.prod(self._radices)

    def pixels(self, pictures: Tensor, views: Tensor, size: tuple[int, int], unit: int) -> Tensor:
        """Where each pixel of `views` (B,) of `pictures` (B,) is among all pixels of a set of pictures of this size,
        (B, H, W), if they are reduced so far that a shift's unit is `unit` of them."""
        height, width = size
        mirrored, quarters, *digits = self._digits(views)
        up, left = (_signed(places, self.shifts) * unit for places in digits[:2])
        above, beside = (_signed(extents, self.stretches) for extents in digits[2:])
        rows = _turned(_inside(height, up, above), quarters >= 2)
        columns = _turned(_inside(width, left, beside), (mirrored == 1) ^ (quarters == 1) ^ (quarters == 2))
        at = (pictures[:, None, None] * height + rows[:, :, None]) * width + columns[:, None, :]
        return torch.where((quarters % 2 == 1)[:, None, None], at.mT, at) if self.turns else at

    def _digits(self, views: Tensor) -> list[Tensor]:
        digits = []
        for radix in self._radices:
            digits.append(views % radix)
            views = views // radix
        return digits


PLAIN = Views()


def _signed(digit: Tensor, most: int) -> Tensor:
    """0 … 2 · most → 0 … most, −most … −1."""
    return (digit + most) % (2 * most + 1) - most


def _inside(extent: int, moved: Tensor, beyond: Tensor) -> Tensor:
    """`extent` places, spread from −beyond to extent + beyond, and moved; what is outside is mirrored at the border:
    (B, extent)."""
    twice = 2 * torch.arange(extent, device=moved.device) + 1 - extent  # a pixel's distance from the middle
    at = (twice * (extent + 2 * beyond[:, None]) + extent**2) // (2 * extent) + moved[:, None]
    at %= 2 * extent
    return torch.minimum(at, 2 * extent - 1 - at)


def _turned(places: Tensor, where: Tensor) -> Tensor:
    """(B, extent), those `where` (B,) from behind."""
    return torch.where(where[:, None], places.flip(1), places)
