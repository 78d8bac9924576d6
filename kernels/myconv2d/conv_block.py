"""ConvBlock, the block that the networks are made of: fused where a backend's kernels serve, else plain modules."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import triton
from .block import block, hindrance
from .info import explain
from .modules import MyConv2d
from .operators import allow_tf32
from .parts import Image, Operands, Parts, changed, convolution_operands, materialised
from .triton import UNTRIED

Pair = int | tuple[int, int]


class ConvBlock(nn.Module):
    """convolution → batch norm → ReLU → resize, each but the first optional.

    Shape: input (N, C, H, W), and a skip (N, C', H, W) concatenated behind it, with C + C' = in_channels →
    (N, out_channels, P, Q); "pool" halves P and Q (max-pool 2), "upsample" doubles them (nearest).

    Either input may be another block's `Pending` result, which this one computes as it loads; with `pending=True` the
    result may be one too. `explain_block` says whether a call is fused, and if not, why.

        >>> down, up = myconv2d.ConvBlock(1, 32, resize="pool"), myconv2d.ConvBlock(32, 3, resize="upsample")
        >>> grey = torch.rand(4, 1, 32, 32)
        >>> up(down(grey, pending=True)).shape
        torch.Size([4, 3, 32, 32])

    Args:
        padding: None is dilation · (kernel_size // 2): at stride 1 an odd kernel_size keeps the size of the picture.
        resize: None, "pool" or "upsample".
        norm, activation: whether batch norm and ReLU are there.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        stride: Pair = 1,
        padding: str | Pair | None = None,
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
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        self.conv = MyConv2d(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, **options
        )
        self.norm = nn.BatchNorm2d(out_channels, **options) if norm else None
        self.activation = activation
        self.resize = resize

    def extra_repr(self) -> str:
        return f"activation={self.activation}, resize={self.resize}"

    def forward(self, input: Image, skip: Image | None = None, *, pending: bool = False) -> Image:
        parts = self._parts()
        operands = self._operands(parts, input, skip)
        if isinstance(operands, str):
            return self._composed(materialised(input, skip))
        output = parts.run(operands)
        return output if pending else output.materialise()

    def hindrance(self, input: Image, skip: Image | None = None) -> str | None:
        """Why this call would be composed of plain modules; None if it would be fused."""
        operands = self._operands(self._parts(), input, skip)
        return operands if isinstance(operands, str) else None

    def _parts(self) -> Parts:
        return Parts(self.conv, self.norm, self.activation, self.resize)

    def _operands(self, parts: Parts, input: Image, skip: Image | None) -> Operands | str:
        """What the fused operators take, or why they cannot serve."""
        return hindrance() or changed(self, type(self)) or parts.operands(input, skip)

    def _composed(self, input: Tensor) -> Tensor:
        """Of plain modules."""
        x = self.conv(input)
        if self.norm is not None:
            x = self.norm(x)
        if self.activation:
            x = F.relu(x)
        if self.resize == "pool":
            return F.max_pool2d(x, 2)
        if self.resize == "upsample":
            if isinstance(x, Tensor) and x.dim() == 3:  # which would be a batch of lines (torch.fx's are no tensors)
                return F.interpolate(x[None], scale_factor=2, mode="nearest")[0]
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return x


def conv_concat(conv: MyConv2d, input: Image, skip: Image | None = None) -> Tensor:
    """conv(concatenation of `input` and `skip` along the channels); where fused, neither is activated or copied.

        >>> last, grey = myconv2d.MyConv2d(4, 3, 3, padding=1), torch.rand(1, 1, 8, 8)
        >>> myconv2d.conv_concat(last, torch.rand(1, 3, 8, 8), grey).shape
        torch.Size([1, 3, 8, 8])
    """
    operands = hindrance() or convolution_operands(conv, input, skip)
    if isinstance(operands, str):
        return conv(materialised(input, skip))
    return block(*operands[:5], backend=operands.backend)[0]


def explain_block(block: ConvBlock, input: Image, skip: Image | None = None) -> str:
    """Whether a block would be fused with these arguments, or why not and which backend serves its convolution.

    For Triton: by which kernels, with which plans (tile, warps, stages), and whether those were measured.

    `FusedSequential.explain` says it of the blocks in a Sequential.

        >>> block = myconv2d.ConvBlock(8, 8, stride=2)
        >>> print(myconv2d.explain_block(block, torch.rand(1, 8, 32, 32)))
        composed of plain modules: fused kernels have stride 1, dilation 1, ...
        convolution: ...
    """
    operands = block._operands(block._parts(), input, skip)
    if not isinstance(operands, str):
        served = f"{operands.backend} serves this block, fused: {operands.reason}"
        if operands.backend != "triton":
            return served
        return "\n".join([f"{served} ({UNTRIED})", *_plans(block, operands)])
    conv = block.conv
    numbers = conv.stride, conv.padding, conv.dilation, conv.groups
    served = explain(materialised(input, skip), conv.weight, conv.bias, *numbers)
    return f"composed of plain modules: {operands}\nconvolution: {served}"


def _plans(of: ConvBlock, operands: Operands) -> list[str]:
    first, second, weight, bias, padding, *_ = operands
    vectors = (None, None, 0.0) if of.norm is None else (of.norm.weight, of.norm.bias, of.norm.eps)
    feeds = *first, *(second or (None, None, None, False))
    arguments = *feeds, weight, bias, padding, *vectors, of.resize == "pool"
    return triton.explain_block(*arguments, allow_tf32=allow_tf32())
