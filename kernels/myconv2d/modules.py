"""MyConv2d, a drop-in for nn.Conv2d."""

from __future__ import annotations

from typing import TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

from .functional import conv2d


class MyConv2d(nn.Conv2d):
    """`nn.Conv2d` on this package's kernels: same constructor, parameters, state dict and results.

    Shape: input (N, C, H, W) or (C, H, W) → (N, K, P, Q) or (K, P, Q).

    torch.export and torch.jit.trace take it; the deprecated torch.jit.script does not.

        >>> layer = myconv2d.MyConv2d(3, 8, kernel_size=3, stride=2, padding=1)
        >>> layer(torch.rand(1, 3, 32, 32)).shape
        torch.Size([1, 8, 16, 16])
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            return conv2d(input, weight, bias, self.stride, 0, self.dilation, self.groups)
        return conv2d(input, weight, bias, self.stride, self.padding, self.dilation, self.groups)


Model = TypeVar("Model", bound=nn.Module)


def convert(model: Model) -> Model:
    """Makes every `nn.Conv2d` of a model a `MyConv2d`, in place; parameters, buffers and hooks stay as they are.

    Subclasses of `nn.Conv2d` keep their own forward and are left alone; an `nn.LazyConv2d` will become a
    `MyConv2d` where it would have become an `nn.Conv2d`.

        >>> myconv2d.convert(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3)))
        Sequential(
          (0): MyConv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
        )

    Returns:
        The same model.
    """
    for module in model.modules():
        if type(module) is nn.Conv2d:
            module.__class__ = MyConv2d
        elif type(module) is nn.LazyConv2d:
            module.cls_to_become = MyConv2d
    return model
