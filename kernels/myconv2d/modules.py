"""The modules: MyConv2d, a drop-in for nn.Conv2d, and ConvBlock, the block that the networks are made of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .functional import IntPair, conv2d


class MyConv2d(nn.Conv2d):
    """`nn.Conv2d` on this package's kernels: same constructor, parameters, state dict and results.

    Shape: input (N, C, H, W) or (C, H, W) → (N, K, P, Q) or (K, P, Q).

    torch.export and torch.jit.trace take it; the deprecated torch.jit.script does not.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            return conv2d(input, weight, bias, self.stride, 0, self.dilation, self.groups)
        return conv2d(input, weight, bias, self.stride, self.padding, self.dilation, self.groups)


def convert(model: nn.Module) -> nn.Module:
    """Makes every `nn.Conv2d` of a model a `MyConv2d`, in place; parameters, buffers and hooks stay as they are.

    Subclasses of `nn.Conv2d` keep their own forward and are left alone; an `nn.LazyConv2d` will become a
    `MyConv2d` where it would have become an `nn.Conv2d`.

    Returns:
        The same model.
    """
    for module in model.modules():
        if type(module) is nn.Conv2d:
            module.__class__ = MyConv2d
        elif type(module) is nn.LazyConv2d:
            module.cls_to_become = MyConv2d
    return model


class ConvBlock(nn.Module):
    """convolution → batch norm → ReLU → resize, each but the first optional.

    Shape: input (N, C, H, W), and a skip (N, C', H, W) concatenated behind it, with C + C' = in_channels →
    (N, out_channels, P, Q); "pool" halves P and Q (max-pool 2), "upsample" doubles them (nearest).

    Args:
        padding: None keeps the size of the picture at stride 1 (dilation · (kernel_size // 2)).
        resize: None, "pool" or "upsample".
        norm, activation: whether batch norm and ReLU are there.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        stride: IntPair = 1,
        padding: str | IntPair | None = None,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        norm: bool = True,
        activation: bool = True,
        resize: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if resize not in (None, "pool", "upsample"):
            raise ValueError(f"ConvBlock: resize must be None, 'pool' or 'upsample', got {resize!r}")
        if padding is None:
            padding = dilation * (kernel_size // 2)
        options = {"device": device, "dtype": dtype}
        self.conv = MyConv2d(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, **options
        )
        self.norm = nn.BatchNorm2d(out_channels, **options) if norm else None
        self.activation = activation
        self.resize = resize

    def extra_repr(self) -> str:
        return f"activation={self.activation}, resize={self.resize}"

    def forward(self, input: Tensor, skip: Tensor | None = None) -> Tensor:
        x = self.conv(input if skip is None else torch.cat((input, skip), dim=-3))
        if self.norm is not None:
            x = self.norm(x)
        if self.activation:
            x = F.relu(x)
        if self.resize == "pool":
            return F.max_pool2d(x, 2)
        if self.resize == "upsample":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return x
