"""A program with types that uses every public name: mypy reads it (test_types.py) and a test runs it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import assert_type

import myconv2d
from myconv2d import ConvBlock, Frozen, FusedSequential, MyConv2d, MyConvTranspose2d, Pending, Recorded


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = ConvBlock(1, 8, resize="pool", padding="same")
        self.up = ConvBlock(8, 4, kernel_size=3, stride=(1, 1), resize="upsample", dtype=torch.float32)
        self.last = MyConv2d(4, 3, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        handed_on = self.up.forward(self.down.forward(pictures, pending=True), pending=True)
        assert_type(handed_on, Tensor | Pending)
        return myconv2d.conv_concat(self.last, handed_on)


def program() -> dict[str, Any]:
    network = Network()
    pictures = torch.rand(2, 1, 8, 8)
    assert_type(network.forward(pictures), Tensor)
    assert_type(myconv2d.conv2d(pictures, network.down.conv.weight, None, 1, padding="same"), Tensor)
    assert_type(myconv2d.convert(nn.Sequential(nn.Conv2d(1, 2, (3, 3)))), nn.Sequential)
    fused = myconv2d.fuse(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()))
    assert_type(fused, nn.Sequential)
    assert isinstance(fused, FusedSequential)
    assert_type(fused.explain(pictures), str)
    assert_type(
        myconv2d.cross_entropy(network(pictures), torch.zeros(2, 8, 8).long(), reduction="sum"), Tensor
    )
    assert_type(myconv2d.explain(pictures, network.down.conv.weight, padding=(1, 1)), str)
    assert_type(myconv2d.explain_block(network.down, Pending(pictures)), str)
    assert_type(Pending(pictures).materialise(), Tensor)
    assert_type(Pending(pictures, upsample=True).shape, tuple[int, ...])
    frozen = myconv2d.freeze(network, pictures)
    assert_type(frozen, Frozen)
    assert_type(frozen.forward(pictures), Tensor)
    recorded = myconv2d.recorded(network.forward)
    assert_type(recorded, Recorded[Tensor])
    assert_type(recorded(pictures), Tensor)
    assert_type(MyConvTranspose2d(1, 2, 2, stride=2).forward(pictures, output_size=[16, 16]), Tensor)
    assert_type(myconv2d.release_memory(), int)
    with myconv2d.use_backend("reference") as nothing:
        assert_type(nothing, None)
    assert_type(myconv2d.info(), dict[str, Any])
    return myconv2d.info()
