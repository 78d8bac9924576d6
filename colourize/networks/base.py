"""What all networks that keep a picture's size have in common: pictures of any size, and how far a pixel looks."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..lookup import LEVELS, look_up


def blocks(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The parts of a network that are looked at: its children, and of a sequence each one."""
    for name, module in network.named_children():
        if isinstance(module, nn.Sequential):
            yield from ((f"{name}.{number}", part) for number, part in module.named_children())
        else:
            yield name, module


class Hourglass(nn.Module):
    """Pads (N, in_channels, H, W) to multiples of 4 by repeating the border, runs `layers`, crops again.

    `scales` are those of the convolutions on the longest way through, where 1 is the picture's own, 2 half of it.
    With `mirror`, the output in evaluation is the mean of that and the mirror image of that for the mirror image.
    """

    alignment = 4  # two halvings: inside, height and width are multiples of this
    scales: tuple[int, ...]
    pooling_reach = 3  # two max-poolings: a cell of 4 pixels looks at all of them

    def __init__(self, in_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.kernel_size = kernel_size
        self.mirror = False

    @property
    def halo(self) -> int:
        """Pixels on either side that an output pixel depends on, rounded up to a multiple of `alignment`.

        Each convolution reaches k // 2 pixels of its scale.
        """
        reach = sum(self.scales) * (self.kernel_size // 2) + self.pooling_reach
        return -(-reach // self.alignment) * self.alignment

    def layers(self, input: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() != 4 or input.shape[1] != self.in_channels or 0 in input.shape[2:]:
            raise ValueError(
                f"{type(self).__name__} takes pictures of shape (N, {self.in_channels}, H, W) with H, W ≥ 1, "
                f"not {tuple(input.shape)}"
            )
        height, width = input.shape[2:]
        step = self.alignment
        bottom, right = ((side + step - 1) // step * step - side for side in (height, width))
        if torch.compiler.is_exporting() or bottom or right:  # sizes that are exported are symbols: not to be asked
            input = F.pad(input, (0, right, 0, bottom), mode="replicate")
        if not self.mirror or self.training:
            return self.layers(input)[:, :, :height, :width]
        mirrored = self.layers(input.flip(-1)).flip(-1)  # first, so that hooks have last seen the picture itself
        return (self.layers(input) + mirrored)[:, :, :height, :width] / 2


class LookupPrior(nn.Module):
    """A table grey level → output, trained with the rest: what is to be said without looking around.

    It begins at zero; `start` gives it what was counted on the training pictures (lookup.table), so that a network has
    only to learn what a table cannot know.
    """

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(LEVELS, out_channels))

    def start(self, table: Tensor) -> None:
        with torch.no_grad():
            self.table.copy_(table)

    def forward(self, input: Tensor) -> Tensor:
        """(N, 1, H, W) in 0..1 → (N, out_channels, H, W), channels_last."""
        return look_up(self.table, input)
