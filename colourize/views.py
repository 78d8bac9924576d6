"""A picture, seen a little differently in every epoch: from right to left, turned by quarters, or moved by some pixels.

Colours and labels move with their pixels, so a view of an example is an example, and is gathered from it as it is.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Views(NamedTuple):
    """Mirrored or not if `flips`, turned by 0 to 3 quarters if `turns`, and moved by up to `shifts` units of `unit`
    pixels up, down, left or right; what moves in from outside is the border, mirrored. `turns` takes square pictures.

    A view has a number below `count`; 0 is the picture itself.
    """

    flips: bool = False
    turns: bool = False
    shifts: int = 0
    unit: int = 1

    @property
    def _radices(self) -> tuple[int, int, int, int]:
        places = 2 * self.shifts + 1
        return 1 + self.flips, 1 + 3 * self.turns, places, places

    @property
    def count(self) -> int:
        flips, turns, rows, columns = self._radices
        return flips * turns * rows * columns

    def pixels(self, pictures: Tensor, views: Tensor, size: tuple[int, int], unit: int) -> Tensor:
        """Where each pixel of `views` (B,) of `pictures` (B,) is among all pixels of a set of pictures of this size,
        (B, H, W), if they are reduced so far that a shift's unit is `unit` of them."""
        height, width = size
        mirrored, quarters, *moved = self._digits(views)
        up, left = (((places + self.shifts) % (2 * self.shifts + 1) - self.shifts) * unit for places in moved)
        rows = _turned(_inside(height, up), quarters >= 2)
        columns = _turned(_inside(width, left), (mirrored == 1) ^ (quarters == 1) ^ (quarters == 2))
        at = (pictures[:, None, None] * height + rows[:, :, None]) * width + columns[:, None, :]
        return torch.where((quarters % 2 == 1)[:, None, None], at.mT, at) if self.turns else at

    def _digits(self, views: Tensor) -> list[Tensor]:
        digits = []
        for radix in self._radices:
            digits.append(views % radix)
            views = views // radix
        return digits


PLAIN = Views()


def _inside(extent: int, moved: Tensor) -> Tensor:
    """0 … extent − 1, moved and, where that leads outside, mirrored at the border: (B, extent)."""
    at = (torch.arange(extent, device=moved.device) + moved[:, None]) % (2 * extent)
    return torch.minimum(at, 2 * extent - 1 - at)


def _turned(places: Tensor, where: Tensor) -> Tensor:
    """(B, extent), those `where` (B,) from behind."""
    return torch.where(where[:, None], places.flip(1), places)
