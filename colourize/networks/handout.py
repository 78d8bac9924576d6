"""The networks of the handout, and their editions: dilated, and with steps in size that are learnt.

All of them halve the picture twice and double it twice. Between fused blocks no activation is stored (`pending`; see
myconv2d.ConvBlock). Convolutions keep the framework's initialisation, which is the handout's: weight and bias uniform
in ±1/√(C_in·k²).
"""

from __future__ import annotations

from torch import Tensor

from myconv2d import MyConv2d, conv_concat

from .base import Hourglass
from .blocks import TransposedBlock, block


class CNN(Hourglass):
    """Down, down, up, up; with three outputs and a bottleneck of three, RegressionCNN.

    With `skips` each step up also reads that on the way down, and the last convolution the picture itself.
    """

    scales = 1, 2, 4, 4, 2, 1
    skips = False
    dilation = 1  # of the convolution in the middle

    def __init__(
        self, in_channels: int, out_channels: int, filters: int, kernel_size: int, bottleneck: int, order: str
    ) -> None:
        super().__init__(in_channels, kernel_size)
        f, k = filters, kernel_size
        wider = 2 if self.skips else 1
        self.downconv1 = block(in_channels, f, k, "pool", order)
        self.downconv2 = block(f, 2 * f, k, "pool", order)
        self.rfconv = block(2 * f, 2 * f, k, dilation=self.dilation)
        self.upconv1 = block(2 * f * wider, f, k, "upsample", order)
        self.upconv2 = block(f * wider, bottleneck, k, "upsample", order)
        self.finalconv = MyConv2d(bottleneck + in_channels * self.skips, out_channels, k, padding=k // 2)

    def layers(self, input: Tensor) -> Tensor:
        half = self.downconv1(input, pending=True)
        quarter = self.downconv2(half, pending=True)
        x = self.rfconv(quarter, pending=True)
        x = self.upconv1(x, skip=quarter if self.skips else None, pending=True)
        x = self.upconv2(x, skip=half if self.skips else None, pending=True)
        return conv_concat(self.finalconv, x, input if self.skips else None)


class UNet(CNN):
    """The CNN with skips (Ronneberger et al. 2015)."""

    skips = True


class DilatedUNet(UNet):
    """The UNet of the 2018 edition, whose middle convolution is dilated and so sees twice as far."""

    scales = 1, 2, 8, 4, 2, 1
    dilation = 2


class ConvTransposeNet(Hourglass):
    """The 2022 edition: convolutions of stride 2 on the way down, transposed ones on the way up."""

    scales = 1, 2, 4, 2, 1, 1  # a transposed convolution reaches k // 2 pixels of its output
    pooling_reach = 0
    skips = False

    def __init__(
        self, in_channels: int, out_channels: int, filters: int, kernel_size: int, bottleneck: int
    ) -> None:
        super().__init__(in_channels, kernel_size)
        f, k = filters, kernel_size
        wider = 2 if self.skips else 1
        self.downconv1 = block(in_channels, f, k, stride=2)
        self.downconv2 = block(f, 2 * f, k, stride=2)
        self.rfconv = block(2 * f, 2 * f, k)
        self.upconv1 = TransposedBlock(2 * f * wider, f, k)
        self.upconv2 = TransposedBlock(f * wider, bottleneck, k)
        self.finalconv = MyConv2d(bottleneck + in_channels * self.skips, out_channels, k, padding=k // 2)

    def layers(self, input: Tensor) -> Tensor:
        half = self.downconv1(input)
        quarter = self.downconv2(half)
        x = self.rfconv(quarter)
        x = self.upconv1(x, quarter if self.skips else None)
        x = self.upconv2(x, half if self.skips else None)
        return conv_concat(self.finalconv, x, input if self.skips else None)


class ConvTransposeUNet(ConvTransposeNet):
    """ConvTransposeNet with skips."""

    skips = True
