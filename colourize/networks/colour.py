"""ColourUNet: a UNet that keeps the picture's own resolution and starts from what a lookup table knows.

The handout's UNet halves the picture before its first skip, so its answer at a pixel hardly knows that pixel's grey,
which is why a table of 256 entries beats it. Here the first and the last blocks work at full size with a skip between
them, each scale has two convolutions on the way down, and the table itself is the last layer's starting point.
"""

from __future__ import annotations

from torch import Tensor

from myconv2d import ConvBlock, MyConv2d, conv_concat

from .base import Hourglass, LookupPrior


class ColourUNet(Hourglass):
    """Grey (N, 1, H, W) → (N, out_channels, H, W)."""

    scales = 1, 1, 2, 2, 4, 4, 2, 1, 1, 1

    def __init__(self, in_channels: int, out_channels: int, filters: int, kernel_size: int) -> None:
        super().__init__(in_channels, kernel_size)
        f, k = filters, kernel_size
        self.inconv = ConvBlock(in_channels, f, k)
        self.downconv1 = ConvBlock(f, 2 * f, k, resize="pool")
        self.halfconv = ConvBlock(2 * f, 2 * f, k)
        self.downconv2 = ConvBlock(2 * f, 4 * f, k, resize="pool")
        self.rfconv = ConvBlock(4 * f, 4 * f, k)
        self.upconv1 = ConvBlock(4 * f, 2 * f, k, resize="upsample")
        self.upconv2 = ConvBlock(4 * f, f, k, resize="upsample")
        self.outconv = ConvBlock(2 * f, f, k)
        self.finalconv = MyConv2d(f + in_channels, out_channels, k, padding=k // 2)
        self.prior = LookupPrior(out_channels)

    def layers(self, input: Tensor) -> Tensor:
        full = self.inconv(input, pending=True)
        half = self.halfconv(self.downconv1(full, pending=True), pending=True)
        x = self.rfconv(self.downconv2(half, pending=True), pending=True)
        x = self.upconv1(x, pending=True)
        x = self.upconv2(x, skip=half, pending=True)
        x = self.outconv(x, skip=full, pending=True)
        return conv_concat(self.finalconv, x, input) + self.prior(input)
