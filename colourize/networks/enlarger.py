"""Enlarger: super-resolution as what bicubic interpolation lacks.

All work happens at the small size: residual blocks without batch norm (EDSR, Lim et al. 2017), and in the end one
convolution with a channel for each of the factor² pixels that a small one becomes (sub-pixel convolution, Shi et al.
2016). What is lacking is added to R, G and B alike: detail is luma, and chroma stays that of bicubic interpolation, as
since SRCNN (Dong et al. 2014). The last convolution begins at zero, so that training begins where bicubic ends.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from myconv2d import MyConv2d

from ..colour import upscale
from ..files import UserError


class Enlarger(nn.Module):
    """(N, in_channels, H, W), in 0..1 → (N, in_channels, factor·H, factor·W)."""

    alignment = 1

    def __init__(
        self, in_channels: int, out_channels: int, filters: int, kernel_size: int, depth: int, factor: int
    ) -> None:
        super().__init__()
        if out_channels != in_channels:
            raise UserError(f"enlarger gives as many channels as it takes: not {out_channels} for {in_channels}")
        self.in_channels, self.factor, self.kernel_size = in_channels, factor, kernel_size
        padding = kernel_size // 2
        self.inconv = MyConv2d(in_channels, filters, kernel_size, padding=padding)
        self.blocks = nn.Sequential(*(_Residual(filters, kernel_size) for _ in range(depth)))
        self.outconv = MyConv2d(filters, factor**2, kernel_size, padding=padding)
        nn.init.zeros_(self.outconv.weight)
        nn.init.zeros_(self.outconv.bias)

    @property
    def halo(self) -> int:
        """Pixels of the output, on either side, that one of them depends on."""
        return ((2 + 2 * len(self.blocks)) * (self.kernel_size // 2) + 2) * self.factor  # bicubic reaches 2

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() != 4 or input.shape[1] != self.in_channels or 0 in input.shape[2:]:
            shape = f"(N, {self.in_channels}, H, W) with H, W ≥ 1"
            raise ValueError(f"Enlarger takes pictures of shape {shape}, not {tuple(input.shape)}")
        missing = self.outconv(self.blocks(self.inconv(input)))
        return upscale(input, self.factor, "bicubic") + F.pixel_shuffle(missing, self.factor)


class _Residual(nn.Module):
    """x + conv(relu(conv(x)))."""

    operations = "conv, ReLU, conv, sum"

    def __init__(self, filters: int, kernel_size: int) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.conv1 = MyConv2d(filters, filters, kernel_size, padding=padding)
        self.conv2 = MyConv2d(filters, filters, kernel_size, padding=padding)
        nn.init.zeros_(self.conv2.bias)
        with torch.no_grad():
            self.conv2.weight.mul_(0.1)  # so that a deep stack begins near the identity

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x)))
