"""MyConvTranspose2d: a transposed convolution is the gradient of a convolution with respect to its input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_variadic

from . import autograd, backends
from .functional import autocast, check_alike, check_tensors, of_complex, pair
from .shapes import Numbers


class MyConvTranspose2d(nn.ConvTranspose2d):
    """`nn.ConvTranspose2d` on this package's kernels: same constructor, parameters, state dict and results.

    Shape: input (N, C, H, W) or (C, H, W) → (N, K, P, Q) or (K, P, Q) with
    P = (H − 1)·stride − 2·padding + dilation·(R − 1) + output_padding + 1.

    The weight (C, K/groups, R, S) is that of the convolution K → C whose `conv2d_grad_input` this is.

        >>> layer = myconv2d.MyConvTranspose2d(8, 3, kernel_size=3, stride=2, padding=1, output_padding=1)
        >>> layer(torch.rand(1, 8, 16, 16)).shape
        torch.Size([1, 3, 32, 32])

    Raises:
        ValueError, RuntimeError: as nn.ConvTranspose2d does.
    """

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        pairs: Any = self.stride, self.padding, self.kernel_size, self.dilation  # by the base class, anything
        stride, padding, kernel_size, dilation = pairs
        wanted: Any = output_size
        extra = self._output_padding(input, wanted, stride, padding, kernel_size, 2, dilation)
        return conv_transpose2d(input, self.weight, self.bias, stride, padding, extra, self.groups, dilation)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    output_padding: Sequence[int],
    groups: int,
    dilation: tuple[int, int],
) -> Tensor:
    """What the module computes, as one call for torch.fx and for subclasses of Tensor."""
    tensors = input, weight, bias
    others: Any = stride, padding, output_padding, groups, dilation
    if has_torch_function_variadic(*tensors):
        return handle_torch_function(conv_transpose2d, tensors, *tensors, *others)
    check_tensors(*tensors, "conv_transpose2d")
    stride, padding, dilation = pair(stride, "stride"), pair(padding, "padding"), pair(dilation, "dilation")
    output_padding = pair(output_padding, "output_padding")
    _check(weight, bias, stride, padding, output_padding, groups, dilation)
    if input.dim() == 3:
        return conv_transpose2d(input.unsqueeze(0), weight, bias, *others).squeeze(0)
    if input.dim() != 4 or input.shape[1] != weight.shape[0]:
        raise RuntimeError(
            f"MyConvTranspose2d: input must be (N, {weight.shape[0]}, H, W) or ({weight.shape[0]}, H, W), "
            f"not {list(input.shape)}"
        )
    input, weight, bias = autocast(input, weight, bias)
    check_alike(input, weight, bias, "conv_transpose2d")
    sides = [
        (input.shape[2 + i] - 1) * stride[i]
        - 2 * padding[i]
        + dilation[i] * (weight.shape[2 + i] - 1)
        + output_padding[i]
        + 1
        for i in range(2)
    ]
    if 0 in input.shape[2:] or min(sides) < 0:
        raise RuntimeError(f"MyConvTranspose2d: nothing comes of an input of {list(input.shape)}: {sides} pixels")
    size = [input.shape[0], weight.shape[1] * groups, *sides]
    if any(more := [output_padding[i] // stride[i] for i in range(2)]):
        input = F.pad(input, (0, more[1], 0, more[0]))  # as many as the convolution of `size` gives
    if autograd.is_traced():
        size = [int(side) for side in size]  # of traced sizes no operator's list can be made
    numbers = Numbers(stride, padding, dilation, groups, backends.wanted)

    def convolution(input: Tensor, weight: Tensor) -> Tensor:
        return autograd.conv2d_grad_input(input, weight, size, numbers)

    output = of_complex(convolution, input, weight) if input.is_complex() else convolution(input, weight)
    return output if bias is None else output + bias[:, None, None]


def _check(
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    output_padding: tuple[int, int],
    groups: int,
    dilation: tuple[int, int],
) -> None:
    """The framework's errors for numbers that make no transposed convolution, and a weight or bias that fits none."""
    for name, number, least in (
        ("groups", groups, 1),
        ("stride", min(stride), 1),
        ("dilation", min(dilation), 1),
        ("padding", min(padding), 0),
        ("output_padding", min(output_padding), 0),
    ):
        if number < least:
            raise RuntimeError(f"conv_transpose2d(): {name} must be {least} or more, got {number}")
    if any(output_padding[i] >= max(stride[i], dilation[i]) for i in range(2)):
        raise RuntimeError(
            f"conv_transpose2d(): output padding must be smaller than either stride or dilation, but got "
            f"output_padding={output_padding}, stride={stride}, dilation={dilation}"
        )
    if weight.dim() != 4 or weight.shape[0] % groups:
        raise RuntimeError(
            f"conv_transpose2d(): weight must be (C, K/groups, R, S) with C divisible by groups={groups}, got "
            f"{list(weight.shape)}"
        )
    if bias is not None and bias.shape != (weight.shape[1] * groups,):
        raise RuntimeError(
            f"conv_transpose2d(): given weight of size {list(weight.shape)}, expected bias to be 1-dimensional with "
            f"{weight.shape[1] * groups} elements, but got bias of size {list(bias.shape)} instead"
        )
