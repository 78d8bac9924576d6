"""Blocks beside myconv2d.ConvBlock: its parts in another order, and a transposed one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from myconv2d import ConvBlock, MyConvTranspose2d, Pending

Image = Tensor | Pending
ORDERS = ("norm-relu-resize", "norm-resize-relu", "resize-norm-relu")


def block(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    resize: str | None = None,
    order: str = ORDERS[0],
    **options: int,
) -> ConvBlock:
    """A convolution, and batch norm, ReLU and `resize` in this order, one of ORDERS; `options` are the convolution's.

    The first order and the second give the same pictures, as ReLU is monotonous. In the third, batch norm sees pooled
    pixels only.
    """
    kind = ConvBlock if resize is None or order == ORDERS[0] else OrderedBlock
    made = kind(in_channels, out_channels, kernel_size, resize=resize, **options)
    if kind is OrderedBlock:
        made.order = order
    return made


class OrderedBlock(ConvBlock):
    """ConvBlock with its `order` changed: plain modules one after the other, as no fused kernel has it."""

    order = ORDERS[0]

    def forward(self, input: Image, skip: Image | None = None, *, pending: bool = False) -> Tensor:
        parts = [i.materialise() if isinstance(i, Pending) else i for i in (input, skip) if i is not None]
        x = self.conv(parts[0] if skip is None else torch.cat(parts, 1))
        steps = {"norm": self.norm, "relu": F.relu, "resize": self._resized}
        for name in self.order.split("-"):
            x = steps[name](x)
        return x

    def _resized(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 2) if self.resize == "pool" else F.interpolate(x, scale_factor=2, mode="nearest")


class TransposedBlock(nn.Module):
    """A transposed convolution that doubles height and width, batch norm, ReLU; a skip is concatenated first."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.conv = MyConvTranspose2d(
            in_channels, out_channels, kernel_size, stride=2, padding=padding, output_padding=1
        )
        self.norm = nn.BatchNorm2d(out_channels)
        self.activation = True

    def forward(self, input: Tensor, skip: Tensor | None = None) -> Tensor:
        x = input if skip is None else torch.cat((input, skip), 1)
        return F.relu(self.norm(self.conv(x)))
