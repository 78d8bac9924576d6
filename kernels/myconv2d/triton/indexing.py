"""Index arithmetic that the kernels share, on the host and on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import triton
import triton.language as tl


class Axis(NamedTuple):
    """Where, along one axis, result position p reads the source for tap r: p·stride + r·step + offset."""

    stride: int
    step: int
    offset: int

    def leaves(self, positions: int, taps: int, size: int) -> bool:
        """True if any of these reads falls outside [0, size), so that loads need a mask."""
        reach = (taps - 1) * self.step
        first = self.offset + min(reach, 0)
        last = (positions - 1) * self.stride + self.offset + max(reach, 0)
        return first < 0 or last >= size


def forward_axes(stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]) -> tuple[Axis, Axis]:
    """How a convolution's output positions read its input, vertically and horizontally."""
    vertical, horizontal = map(Axis, stride, dilation, (-size for size in padding))
    return vertical, horizontal


@triton.jit
def below(index, LIMIT: tl.constexpr, BLOCK: tl.constexpr):
    """index < LIMIT; a constant, which leaves the load unmasked, where whole BLOCKs make up LIMIT."""
    if LIMIT % BLOCK == 0:
        return tl.full(index.shape, 1, tl.int1)
    else:
        return index < LIMIT


@triton.jit
def taps_and_channels(first, r, s, C: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
                      FLAT: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Kernel row, kernel column (both broadcast as [1, BLOCK]), channel [BLOCK] and validity [BLOCK].

    FLAT: BLOCK entries, from `first` on, of the axis of taps·channels (channels fastest); the divisors are
    constants. Otherwise: BLOCK channels, from `first` on, of the one tap (r, s).
    """
    j = first + tl.arange(0, BLOCK)
    if FLAT:
        tap = j // C
        row = (tap // S)[None, :]
        column = (tap % S)[None, :]
        channel = j % C
        valid = below(j, R * S * C, BLOCK)
    else:
        row = tl.full((1, 1), r, tl.int32)
        column = tl.full((1, 1), s, tl.int32)
        channel = j
        valid = below(j, C, BLOCK)
    return row, column, channel, valid
