"""The colours of CIELAB's a, b plane as classes, after Zhang et al. 2016 ("Colorful Image Colorization").

The plane is cut into squares of side 10. The classes are the corners of those squares that hold a colour of sRGB, 313
of them. A colour is not one class but the five nearest, weighted by a Gaussian (soft encoding); classes that are rare,
as saturated colours are, weigh more in the loss (`Task.class_weights`); and what a network answers becomes a colour by
the annealed mean (`tasks.base.annealed`).

Colours are looked up in a raster of whole numbers, a, b in −128 … 127, whose cells are numbered by `codes`.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from .lab import to_lab

SPACING = 10
NEIGHBOURS = 5
_SIGMA = 5.0
_REACH = 128
_ALSO = ((40, 90), (100, -90), (100, -10), (100, 0))  # in the authors' list, though no 8-bit colour is next to them


@functools.cache
def classes() -> Tensor:
    """(313, 2) float32: a, b of every class, in rising order."""
    levels = torch.arange(256, dtype=torch.uint8)
    plane = torch.cartesian_prod(levels, levels)
    corners = {*_ALSO}
    for axis in range(3):  # the plane's colours are all on the surface of the cube
        for value in (0, 255):
            face = [*plane.unbind(1)]
            face.insert(axis, torch.full_like(face[0], value))
            lab = to_lab(torch.stack(face, 1)[:, :, None, None])[:, :, 0, 0]
            squares = (lab[:, 1:] / SPACING).floor().int().unique(dim=0)
            for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
                corners |= {((a + i) * SPACING, (b + j) * SPACING) for a, b in squares.tolist()}
    return torch.tensor(sorted(corners), dtype=torch.float32)


def codes(ab: Tensor) -> Tensor:
    """a, b (N, 2, H, W) → the number of the raster's cell, (N, H, W) int32."""
    a, b = ab.round().clamp(-_REACH, _REACH - 1).int().unbind(1)
    return (a + _REACH) * (2 * _REACH) + b + _REACH


@functools.cache
def _soft(device: torch.device) -> tuple[Tensor, Tensor]:
    """For every cell, the nearest classes, the nearest first, and their weights; both (65536, 5)."""
    axis = torch.arange(-_REACH, _REACH, dtype=torch.float32)
    distance = torch.cdist(torch.cartesian_prod(axis, axis), classes())
    nearest = distance.topk(NEIGHBOURS, largest=False, sorted=True)
    weights = -nearest.values.double().square() / (2 * _SIGMA**2)
    return nearest.indices.to(device), weights.softmax(1).float().to(device)


def labels(code: Tensor) -> Tensor:
    """The nearest class of every code, (N, H, W) int64."""
    return _soft(code.device)[0][:, 0][code.long()]


def soft(code: Tensor) -> tuple[Tensor, Tensor]:
    """The five nearest classes of every code and their weights, which sum to one: (N, 5, H, W) int64 and float32."""
    return tuple(table[code.long()].movedim(-1, 1) for table in _soft(code.device))
