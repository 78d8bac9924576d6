"""The networks of the handout, built from one block.

All of them halve the picture twice and double it twice, so they share how a picture of any size gets in and
out, and how far around a pixel they look (`halo`). Between the blocks no activation is stored (`pending`; see
myconv2d.ConvBlock). Convolutions keep the framework's initialisation, which is
the handout's: weight and bias uniform in ±1/√(C_in·k²).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from myconv2d import ConvBlock, MyConv2d, conv_concat

from .files import UserError


class _Hourglass(nn.Module):
    """Pads (N, in_channels, H, W) to multiples of 4 by repeating the border, runs `layers`, crops again."""

    alignment = 4  # two poolings: inside, height and width are multiples of this

    def __init__(self, in_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.kernel_size = kernel_size

    @property
    def halo(self) -> int:
        """Pixels on either side that an output pixel depends on, rounded up to a multiple of 4.

        With r = k // 2 the six convolutions, at scales 1, 2, 4, 4, 2, 1, reach 14 r; pooling adds up to 3.
        """
        reach = 14 * (self.kernel_size // 2) + self.alignment - 1
        return -(-reach // self.alignment) * self.alignment

    def layers(self, input: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() != 4 or input.shape[1] != self.in_channels or 0 in input.shape[2:]:
            raise ValueError(
                f"{type(self).__name__} takes pictures of shape (N, {self.in_channels}, H, W) with H, W ≥ 1, "
                f"not {tuple(input.shape)}"
            )
        height, width = input.shape[2:]
        bottom, right = -height % self.alignment, -width % self.alignment
        if bottom or right:
            input = F.pad(input, (0, right, 0, bottom), mode="replicate")
        return self.layers(input)[:, :, :height, :width]


class CNN(_Hourglass):
    """Down, down, up, up, without skips; with three outputs and a bottleneck of three, RegressionCNN."""

    def __init__(
        self, in_channels: int, out_channels: int, filters: int, kernel_size: int, bottleneck: int
    ) -> None:
        super().__init__(in_channels, kernel_size)
        f, k = filters, kernel_size
        self.downconv1 = ConvBlock(in_channels, f, k, resize="pool")
        self.downconv2 = ConvBlock(f, 2 * f, k, resize="pool")
        self.rfconv = ConvBlock(2 * f, 2 * f, k)
        self.upconv1 = ConvBlock(2 * f, f, k, resize="upsample")
        self.upconv2 = ConvBlock(f, bottleneck, k, resize="upsample")
        self.finalconv = MyConv2d(bottleneck, out_channels, k, padding=k // 2)

    def layers(self, input: Tensor) -> Tensor:
        x = input
        for block in (self.downconv1, self.downconv2, self.rfconv, self.upconv1, self.upconv2):
            x = block(x, pending=True)
        return conv_concat(self.finalconv, x)


class UNet(_Hourglass):
    """The CNN with skips (Ronneberger et al. 2015): each step up also reads that on the way down."""

    def __init__(
        self, in_channels: int, out_channels: int, filters: int, kernel_size: int, bottleneck: int
    ) -> None:
        super().__init__(in_channels, kernel_size)
        f, k = filters, kernel_size
        self.downconv1 = ConvBlock(in_channels, f, k, resize="pool")
        self.downconv2 = ConvBlock(f, 2 * f, k, resize="pool")
        self.rfconv = ConvBlock(2 * f, 2 * f, k)
        self.upconv1 = ConvBlock(4 * f, f, k, resize="upsample")
        self.upconv2 = ConvBlock(2 * f, bottleneck, k, resize="upsample")
        self.finalconv = MyConv2d(bottleneck + in_channels, out_channels, k, padding=k // 2)

    def layers(self, input: Tensor) -> Tensor:
        half = self.downconv1(input, pending=True)
        quarter = self.downconv2(half, pending=True)
        x = self.rfconv(quarter, pending=True)
        x = self.upconv1(x, skip=quarter, pending=True)
        x = self.upconv2(x, skip=half, pending=True)
        return conv_concat(self.finalconv, x, input)


_NETWORKS = {"regression-cnn": (CNN, 3), "cnn": (CNN, 24), "unet": (UNet, 24)}  # class, default out_channels
NAMES = tuple(_NETWORKS)


def complete(name: str, **settings: int) -> dict[str, int]:
    """All settings of a network: the given ones, checked, and defaults for the rest (see `create`)."""
    if name not in _NETWORKS:
        raise UserError(f"network {name!r} is unknown; known are {', '.join(NAMES)}")
    out_channels = settings.get("out_channels", _NETWORKS[name][1])
    known = {"in_channels": 1, "out_channels": out_channels, "filters": 32, "kernel_size": 3}
    known["bottleneck"] = out_channels
    for setting, value in settings.items():
        if setting not in known:
            raise UserError(f"network {name} has no setting {setting!r}; it has {', '.join(known)}")
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{setting} must be a whole number ≥ 1, not {value!r}")
    known.update(settings)
    if known["kernel_size"] % 2 == 0:
        raise UserError(f"kernel_size must be odd, not {known['kernel_size']}")
    return known


def create(name: str, **settings: int) -> nn.Module:
    """A freshly initialised network: (N, in_channels, H, W) → (N, out_channels, H, W), any H, W ≥ 1.

    Settings, all whole numbers: `in_channels` (1, grey; 3 for super-resolution), `out_channels` (24 palette
    colours; 3 for `regression-cnn`), `filters` (32), `kernel_size` (3, odd) and `bottleneck`, the channels
    between the last two convolutions (as many as `out_channels`).

    Raises `UserError` for an unknown name or setting and for a value out of range.
    """
    chosen = complete(name, **settings)
    return _NETWORKS[name][0](**chosen)
