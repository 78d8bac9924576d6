"""CIELAB, where equal distances look about equally large, in torch: differentiable, batched, on any device.

sRGB with the D65 white of the 2° observer, as scikit-image converts it. Images are (N, 3, H, W); on the RGB side uint8
or in unit scale (see `colour`), on the Lab side float32 with L in 0..100 and a, b in about −100..100.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .colour import WHITE, to_unit

_D65 = (0.95047, 1.0, 1.08883)  # X, Y, Z of white
_XYZ_OF_RGB = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
_KNEE = 6 / 29  # of the cube root


def to_lab(images: Tensor) -> Tensor:
    """RGB → L, a, b."""
    value = to_unit(images) / WHITE
    linear = torch.where(value > 0.04045, ((value.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4, value / 12.92)
    ratio = _mixed(linear, torch.tensor(_XYZ_OF_RGB) / torch.tensor(_D65)[:, None])
    root = torch.where(ratio > _KNEE**3, ratio.clamp(min=_KNEE**3) ** (1 / 3), ratio / (3 * _KNEE**2) + 4 / 29)
    x, y, z = root.unbind(1)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), 1)


def from_lab(lab: Tensor) -> Tensor:
    """L, a, b → RGB in unit scale; what lies outside sRGB is clamped channel by channel."""
    lightness, a, b = lab.unbind(1)
    y = (lightness + 16) / 116
    root = torch.stack((y + a / 500, y, (y - b / 200).clamp(min=0)), 1)
    ratio = torch.where(root > _KNEE, root**3, (root - 4 / 29) * (3 * _KNEE**2))
    linear = _mixed(ratio, torch.linalg.inv(torch.tensor(_XYZ_OF_RGB)) * torch.tensor(_D65))
    curved = 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(linear > 0.0031308, curved, linear * 12.92).clamp(0, 1) * WHITE


def lightness(images: Tensor) -> Tensor:
    """RGB → L alone, (N, 1, H, W)."""
    return to_lab(images)[:, :1]


def _mixed(channels: Tensor, matrix: Tensor) -> Tensor:
    """Every pixel's three channels, times a matrix (3, 3)."""
    return torch.einsum("oc,nchw->nohw", matrix.to(channels), channels)
