"""Super-resolution proper: pictures 2, 3 or 4 times as large, in full colour."""

from __future__ import annotations

import torch
from torch import Tensor

from ..colour import WHITE, luma, to_uint8, to_unit, upscale
from ..measures import luma_psnr
from .base import Batch, Task, regression_losses


class _Enlarging(Task):
    """The picture reduced by bicubic interpolation and rounded to 8 bits, as the field does → R, G, B of the full one.

    The network enlarges by itself. What is lacking is measured in luma, which is what super-resolution is judged by and
    what the eye takes detail from.
    """

    loss_names = ("l1", "mse", "huber", "perceptual")
    in_channels = out_channels = 3
    reads = "R, G, B of 8 bits, divided by 256"
    gives = "R, G, B of 8 bits, divided by 256; to be clamped"
    network_enlarges = True
    result = "large"

    def degrade(self, pictures: Tensor) -> Tensor:
        return to_unit(to_uint8(reduced(to_unit(pictures), self.enlarges)))

    def target(self, pictures: Tensor) -> Tensor:
        return to_unit(pictures)

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        if self.loss_name == "perceptual":
            return self.perceived(output, target)
        return regression_losses(self.loss_name, luma(output), luma(target))

    def decode(self, output: Tensor, input: Tensor) -> Tensor:
        return output.clamp(0, WHITE)

    def comparisons(self, pictures: Tensor) -> dict[str, Tensor]:
        return {"bicubic": upscale(self.degrade(pictures), self.enlarges, "bicubic")}

    def measure(self, made: Tensor, batch: Batch, output: Tensor | None = None) -> dict[str, Tensor]:
        found = luma_psnr(to_uint8(made), batch.pictures, border=self.enlarges)
        return {"luma psnr": found, **super().measure(made, batch, output)}

    def prepare(self, pictures: Tensor) -> Tensor:
        return to_unit(pictures)

    def finish(self, output: Tensor, pictures: Tensor) -> Tensor:
        return output.clamp(0, WHITE)


class Enlarge2(_Enlarging):
    name = "enlarge2"
    size_multiple = enlarges = 2


class Enlarge3(_Enlarging):
    name = "enlarge3"
    size_multiple = enlarges = 3


class Enlarge4(_Enlarging):
    name = "enlarge4"
    size_multiple = enlarges = 4


def reduced(pictures: Tensor, factor: int) -> Tensor:
    """Bicubic reduction with antialiasing (MATLAB's imresize), in unit scale."""
    small = torch.nn.functional.interpolate(pictures, scale_factor=1 / factor, mode="bicubic", antialias=True)
    return small.clamp(0, 1)
