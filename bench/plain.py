"""The handout's blocks and networks in plain PyTorch, with nothing of ours: what the rivals run.

Attributes are named as ours are, so that a state dict fits both.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """convolution → batch norm, if there is one → ReLU → nothing, "pool" or "upsample"."""

    def __init__(
        self, in_channels: int, out_channels: int, resize: str | None = None, norm: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(out_channels) if norm else None
        self.resize = resize

    def forward(self, input: Tensor, skip: Tensor | None = None) -> Tensor:
        x = input if skip is None else torch.cat((input, skip), 1)
        x = self.conv(x)
        x = F.relu(x if self.norm is None else self.norm(x))
        if self.resize == "pool":
            return F.max_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2.0, mode="nearest") if self.resize == "upsample" else x


class Network(nn.Module):
    """Down, down, across, up, up and a last convolution; `skips` makes it the UNet.

    Pictures have sides that are multiples of 4.
    """

    def __init__(self, in_channels: int, out_channels: int, skips: bool, filters: int = 32) -> None:
        super().__init__()
        f, m = filters, out_channels
        self.skips = skips
        self.downconv1 = Block(in_channels, f, "pool")
        self.downconv2 = Block(f, 2 * f, "pool")
        self.rfconv = Block(2 * f, 2 * f)
        self.upconv1 = Block(4 * f if skips else 2 * f, f, "upsample")
        self.upconv2 = Block(2 * f if skips else f, m, "upsample")
        self.finalconv = nn.Conv2d(m + in_channels if skips else m, out_channels, 3, padding=1)

    def forward(self, input: Tensor) -> Tensor:
        half = self.downconv1(input)
        quarter = self.downconv2(half)
        x = self.rfconv(quarter)
        if not self.skips:
            return self.finalconv(self.upconv2(self.upconv1(x)))
        x = self.upconv2(self.upconv1(x, quarter), half)
        return self.finalconv(torch.cat((x, input), 1))


def create(name: str) -> Network:
    """The twin of `colourize.networks.create(name)`."""
    return Network(1, 3 if name == "regression-cnn" else 24, skips=name == "unet")
