"""What the tests of freeze() share: networks of the application, pictures, and a layer in any use."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.modules import randomise
from colourize import networks
from myconv2d import MyConv2d, native

needs_native = pytest.mark.skipif(native.cpu.problem is not None, reason="no native CPU library")


def network(name: str = "unet", **settings: int) -> nn.Module:
    torch.manual_seed(0)
    return randomise(networks.create(name, **settings)).eval()


def pictures(*size: int) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(sum(size)))


class Uses(nn.Module):
    """`work` of the module, which has a layer, and the input."""

    def __init__(self, work):
        super().__init__()
        self.layer, self.work = MyConv2d(1, 8, 3, padding=1), work

    def forward(self, input):
        return self.work(self, input)
