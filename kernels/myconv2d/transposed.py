"""MyConvTranspose2d: a transposed convolution is the gradient of a convolution with respect to its input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import autograd, backends
from .functional import autocast
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
        if input.dim() == 3:
            return self.forward(input.unsqueeze(0), output_size).squeeze(0)
        if input.dim() != 4 or input.shape[1] != self.in_channels:
            raise RuntimeError(
                f"MyConvTranspose2d: input must be (N, {self.in_channels}, H, W) or ({self.in_channels}, H, W), "
                f"not {list(input.shape)}"
            )
        pairs: Any = self.stride, self.padding, self.kernel_size, self.dilation  # by the base class, anything
        stride, padding, kernel_size, dilation = pairs
        wanted: Any = output_size
        extra = self._output_padding(input, wanted, stride, padding, kernel_size, 2, dilation)
        input, weight, bias = autocast(input, self.weight, self.bias)
        sides = [
            (input.shape[2 + i] - 1) * stride[i]
            - 2 * padding[i]
            + dilation[i] * (kernel_size[i] - 1)
            + extra[i]
            + 1
            for i in range(2)
        ]
        size = [input.shape[0], self.out_channels, *sides]
        numbers = Numbers(stride, padding, dilation, self.groups, backends.wanted)
        if torch.compiler.is_compiling():
            output = torch.ops.myconv2d.conv2d_grad_input(input, weight, size, *numbers[:4])
        else:
            output = autograd.conv2d_grad_input(input, weight, size, numbers)
        return output if bias is None else output + bias[:, None, None]
