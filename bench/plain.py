"""The handout's blocks and networks in plain PyTorch, with nothing of ours: what the rivals run.

Attributes are named as ours are, so that a state dict fits both.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Joined(nn.Sequential):
    """Takes several inputs, which count as concatenated."""

    def forward(self, *inputs: Tensor) -> Tensor:
        return super().forward(inputs[0] if len(inputs) == 1 else torch.cat(inputs, 1))


def block(
    in_channels: int,
    out_channels: int,
    resize: str | None = None,
    norm: bool = True,
    kind: type[nn.Sequential] = nn.Sequential,
) -> nn.Sequential:
    """convolution → batch norm, if there is one → ReLU → nothing, "pool" or "upsample", as people write it."""
    made = kind()
    made.add_module("conv", nn.Conv2d(in_channels, out_channels, 3, padding=1))
    if norm:
        made.add_module("norm", nn.BatchNorm2d(out_channels))
    made.add_module("relu", nn.ReLU())
    if resize is not None:
        made.add_module("resize", nn.MaxPool2d(2) if resize == "pool" else nn.Upsample(scale_factor=2))
    return made


class Network(nn.Module):
    """Down, down, across, up, up and a last convolution; `skips` makes it the UNet.

    Pictures have sides that are multiples of 4.
    """

    def __init__(self, in_channels: int, out_channels: int, skips: bool, filters: int = 32) -> None:
        super().__init__()
        f, m = filters, out_channels
        self.skips = skips
        self.downconv1 = block(in_channels, f, "pool")
        self.downconv2 = block(f, 2 * f, "pool")
        self.rfconv = block(2 * f, 2 * f)
        self.upconv1 = block(4 * f if skips else 2 * f, f, "upsample")
        self.upconv2 = block(2 * f if skips else f, m, "upsample")
        self.finalconv = nn.Conv2d(m + in_channels if skips else m, out_channels, 3, padding=1)

    def forward(self, input: Tensor) -> Tensor:
        half = self.downconv1(input)
        quarter = self.downconv2(half)
        x = self.rfconv(quarter)
        if not self.skips:
            return self.finalconv(self.upconv2(self.upconv1(x)))
        x = self.upconv1(torch.cat((x, quarter), 1))
        x = self.upconv2(torch.cat((x, half), 1))
        return self.finalconv(torch.cat((x, input), 1))


def create(name: str) -> Network:
    """The twin of `colourize.networks.create(name)`."""
    return Network(1, 3 if name == "regression-cnn" else 24, skips=name == "unet")
