"""Blocks and a small network of them, beside the same of the framework's own modules."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from myconv2d import ConvBlock, MyConv2d, conv_concat

BOUND = {torch.float64: 1e-10, torch.float32: 1e-4}  # of the largest value, after several layers and steps


class Plain(nn.Module):
    """A ConvBlock of the framework's own modules, with the same state dict."""

    def __init__(self, block):
        super().__init__()
        conv, self.resize, self.activation = block.conv, block.resize, block.activation
        sizes = conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding
        self.conv = nn.Conv2d(*sizes, bias=conv.bias is not None, dtype=conv.weight.dtype)
        self.norm = copy.deepcopy(block.norm)
        self.load_state_dict(block.state_dict())
        self.train(block.training)

    def forward(self, input, skip=None):
        x = self.conv(input if skip is None else torch.cat((input, skip), 1))
        x = x if self.norm is None else self.norm(x)
        x = F.relu(x) if self.activation else x
        if self.resize == "pool":
            return F.max_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2) if self.resize == "upsample" else x


class Net(nn.Module):
    """Down, up with a skip, and a last convolution that reads the input too."""

    def __init__(self, kind=ConvBlock):
        super().__init__()
        self.down = ConvBlock(3, 8, resize="pool")
        self.up = ConvBlock(8, 6, resize="upsample")
        self.across = ConvBlock(6 + 3, 8)
        self.last = MyConv2d(8 + 3, 4, 3, padding=1)

    def forward(self, input):
        x = self.up(self.down(input, pending=True), pending=True)
        return conv_concat(self.last, self.across(x, input, pending=True), input)


class PlainNet(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.down, self.up, self.across = Plain(net.down), Plain(net.up), Plain(net.across)
        self.last = nn.Conv2d(11, 4, 3, padding=1, dtype=net.last.weight.dtype)
        self.load_state_dict(net.state_dict())

    def forward(self, input):
        x = self.across(self.up(self.down(input)), input)
        return self.last(torch.cat((x, input), 1))


def close(ours, theirs, factor=1.0):
    bound = BOUND[ours.dtype] * factor
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= bound * max(theirs.abs().max(), 1)


def warm(block, *inputs):
    """Parameters and running statistics that are not the initial ones."""
    if block.norm is not None:
        nn.init.normal_(block.norm.weight)
        nn.init.normal_(block.norm.bias)
    for _ in range(2):
        block(*inputs)
    return block


def same_state(ours, theirs):
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for one, other in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        close(one, other) if one.is_floating_point() else torch.testing.assert_close(one, other)
