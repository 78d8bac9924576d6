"""Forward: the gather with step = dilation and offset = −padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..shapes import empty_beside, output_size
from .gemm import gemm
from .indexing import forward_axes
from .launch import split_groups


def conv2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    *,
    allow_tf32: bool,
) -> torch.Tensor:
    """input (N, C, H, W), weight (K, C/groups, R, S), bias (K) or None → output (N, K, P, Q)."""
    output = empty_beside(input, weight, output_size(input.shape, weight.shape, stride, padding, dilation))
    if output.numel() == 0:
        return output
    if weight.numel() == 0:  # nothing to sum over
        return output.zero_() if bias is None else output.copy_(bias[:, None, None])
    gemm(
        split_groups(input, 1, groups),
        split_groups(weight, 0, groups),
        bias,
        split_groups(output, 1, groups),
        *forward_axes(stride, padding, dilation),
        allow_tf32,
    )
    return output
