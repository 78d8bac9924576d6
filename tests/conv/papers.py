"""Networks as their papers draw them, in plain `torch.nn` and of few channels: what other people's code looks like."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Residual(nn.Module):
    """The basic block of He et al. 2016, "Deep Residual Learning for Image Recognition", fig. 2; stride, or dilation,
    or groups (Xie et al. 2017, ResNeXt) in its first convolution."""

    def __init__(self, channels: int, width: int, stride: int = 1, dilation: int = 1, groups: int = 1) -> None:
        super().__init__()
        first = {"stride": stride, "padding": dilation, "dilation": dilation, "groups": groups}
        self.conv1 = nn.Conv2d(channels, width, 3, bias=False, **first)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Identity()
        if stride > 1 or channels != width:
            convolution = nn.Conv2d(channels, width, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


def resnet(**options: int) -> nn.Module:
    """He et al. 2016: a stem of 7×7 with stride 2, three stages, global pooling."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2, padding=1),
        Residual(16, 16), Residual(16, 32, stride=2), Residual(32, 48, **options),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10),
    )  # fmt: skip


def vgg() -> nn.Module:
    """Simonyan & Zisserman 2015, "Very Deep Convolutional Networks", configuration B: 3×3 throughout."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (8, 16, 32):
        for c in (channels, width):
            layers += [nn.Conv2d(c, width, 3, padding=1), nn.ReLU(inplace=True)]
        layers.append(nn.MaxPool2d(2))
        channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(20), nn.ReLU(), nn.Dropout(), nn.Linear(20, 10))


class InvertedResidual(nn.Module):
    """The bottleneck of Sandler et al. 2018, "MobileNetV2", table 1: 1×1, depthwise 3×3, 1×1 without activation."""

    def __init__(self, channels: int, width: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = channels * expansion
        self.adds = stride == 1 and channels == width
        self.layers = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6(),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6(),
            nn.Conv2d(hidden, width, 1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.adds else self.layers(x)


def mobilenet() -> nn.Module:
    """Sandler et al. 2018."""
    bottlenecks = [InvertedResidual(8, 8, 1, 2), InvertedResidual(8, 12, 2, 4), InvertedResidual(12, 12, 1, 4)]
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
    return nn.Sequential(stem, *bottlenecks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10))


class UNet(nn.Module):
    """Ronneberger et al. 2015, "U-Net", fig. 1: no padding, cropped skips, transposed convolutions of 2×2."""

    def __init__(self, widths: tuple[int, ...] = (8, 16, 32)) -> None:
        super().__init__()
        self.down = nn.ModuleList(self.twice(*pair) for pair in zip((3, *widths), widths, strict=False))
        turns = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(c, k, 2, stride=2) for c, k in turns)
        self.up = nn.ModuleList(self.twice(c, k) for c, k in turns)
        self.last = nn.Conv2d(widths[0], 2, 1)

    @staticmethod
    def twice(channels: int, width: int) -> nn.Module:
        layers = nn.Conv2d(channels, width, 3), nn.ReLU(), nn.Conv2d(width, width, 3), nn.ReLU()
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for level in self.down[:-1]:
            skips.append(level(x))
            x = F.max_pool2d(skips[-1], 2)
        x = self.down[-1](x)
        for enlarge, level in zip(self.enlarge, self.up, strict=True):
            x, skip = enlarge(x), skips.pop()
            top, left = ((a - b) // 2 for a, b in zip(skip.shape[2:], x.shape[2:], strict=True))
            x = level(torch.cat([skip[..., top : top + x.shape[2], left : left + x.shape[3]], x], 1))
        return self.last(x)


class DnCNN(nn.Module):
    """Zhang et al. 2017, "Beyond a Gaussian Denoiser", fig. 1: predicts the noise, and takes it away."""

    def __init__(self, width: int = 24, depth: int = 4) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding="same"), nn.ReLU(inplace=True)]
        for _ in range(depth):
            layers.append(nn.Conv2d(width, width, 3, padding="same", bias=False))
            layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        self.noise = nn.Sequential(*layers, nn.Conv2d(width, 3, 3, padding="same", bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return x - self.noise(x)


class EDSR(nn.Module):
    """Lim et al. 2017, "Enhanced Deep Residual Networks for Single Image Super-Resolution", fig. 3, ×2: no batch norm,
    residuals scaled by 0.1, and Shi et al.'s pixel shuffle."""

    def __init__(self, width: int = 16, depth: int = 3) -> None:
        super().__init__()
        conv = lambda c, k: nn.Conv2d(c, k, 3, padding=1)  # noqa: E731
        self.head = conv(3, width)
        self.body = nn.ModuleList(
            nn.Sequential(conv(width, width), nn.ReLU(), conv(width, width)) for _ in range(depth)
        )
        self.tail = nn.Sequential(conv(width, 4 * width), nn.PixelShuffle(2), conv(width, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = head = self.head(x)
        for block in self.body:
            x = x + 0.1 * block(x)
        return self.tail(x + head)


def style_transfer() -> nn.Module:
    """Johnson et al. 2016, "Perceptual Losses for Real-Time Style Transfer": 9×9, strides, reflected borders; with the
    instance norm of Ulyanov et al. 2016."""

    def layer(channels: int, width: int, kernel: int, stride: int = 1) -> nn.Module:
        conv = nn.Conv2d(channels, width, kernel, stride, kernel // 2, padding_mode="reflect")
        return nn.Sequential(conv, nn.InstanceNorm2d(width, affine=True), nn.ReLU())

    enlarge = nn.Upsample(scale_factor=2, mode="nearest")
    last = nn.Conv2d(8, 3, 9, padding=4, padding_mode="reflect")
    return nn.Sequential(layer(3, 8, 9), layer(8, 16, 3, 2), layer(16, 16, 3), enlarge, layer(16, 8, 3), last)


NETWORKS = {
    "ResNet": resnet,
    "ResNet, dilated": lambda: resnet(dilation=2),
    "ResNeXt": lambda: resnet(groups=4),
    "VGG": vgg,
    "MobileNetV2": mobilenet,
    "U-Net": UNet,
    "DnCNN": DnCNN,
    "EDSR": EDSR,
    "style transfer": style_transfer,
}
