"""Sizes and memory formats of a convolution's operands and results: the rules that every backend keeps.

Shapes: input (N, C, H, W), weight (K, C/groups, R, S), output (N, K, P, Q).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format


class Numbers(NamedTuple):
    """What a convolution is besides its tensors; `backend` names one, or is None for the automatic choice."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    backend: str | None = None


def output_size(
    input_size: Sequence[int],
    weight_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[int, int, int, int]:
    """(N, K, P, Q) with P = ⌊(H + 2·padding − dilation·(R − 1) − 1) / stride⌋ + 1, and Q likewise."""
    p, q = (
        (input_size[2 + i] + 2 * padding[i] - dilation[i] * (weight_size[2 + i] - 1) - 1) // stride[i] + 1
        for i in range(2)
    )
    return input_size[0], weight_size[0], p, q


def few_channels(weight_size: Sequence[int], groups: int) -> bool:
    """Whether a layer has 4 channels or fewer on one side, so that the CUDA library has kernels for it.

    It is then bound by memory, and Triton's tiles would be mostly padding. Of such a layer all three passes are meant,
    whatever kernel of the library serves each (csrc/cuda/algorithm.h).
    """
    k, c, r, s = weight_size
    return groups == 1 and (k <= 4 or c <= 4) and r <= 7 and s <= 7


def empty_beside(a: Tensor, b: Tensor, size: Sequence[int]) -> Tensor:
    """An uninitialised result of `size`: channels_last if either operand is, contiguous otherwise."""
    either = any(suggest_memory_format(t) == torch.channels_last for t in (a, b))
    memory_format = torch.channels_last if either else torch.contiguous_format
    return torch.empty(size, dtype=a.dtype, device=a.device, memory_format=memory_format)
