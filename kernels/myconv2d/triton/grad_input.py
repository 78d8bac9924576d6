"""grad_input: per residue class of the input positions, a gather over grad_output.

Input row h receives from output row p through tap r where p·stride + r·dilation − padding = h. Rows of one
class, h = residue + stride·i, share their taps: every period-th one from the first that fits, and along
these p = i + offset − j·(period·dilation / stride). So a class is the gather of gather.py with stride 1 and a
negative step, over views: no position is visited for a tap that does not reach it, and stride² classes
together do the work of one forward pass.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from ..shapes import empty_beside
from .gemm import gemm
from .indexing import Axis
from .launch import split_groups


class ResidueClass(NamedTuple):
    """Input positions `positions` of one axis, the kernel's `taps` that reach them, and where they read."""

    positions: slice
    taps: slice
    axis: Axis


def residue_classes(taps: int, stride: int, padding: int, dilation: int) -> list[ResidueClass]:
    """The classes that any tap reaches; positions in none have a gradient of zero."""
    period = stride // math.gcd(stride, dilation)
    classes = []
    for residue in range(stride):
        for first in range(min(period, taps)):
            distance = residue + padding - first * dilation
            if distance % stride == 0:
                axis = Axis(1, -(period * dilation // stride), distance // stride)
                classes.append(ResidueClass(slice(residue, None, stride), slice(first, None, period), axis))
    return classes


def conv2d_grad_input(
    grad_output: torch.Tensor,
    weight: torch.Tensor,
    input_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    *,
    allow_tf32: bool,
) -> torch.Tensor:
    """grad_output (N, K, P, Q), weight (K, C/groups, R, S) → grad_input (N, C, H, W)."""
    grad_input = empty_beside(grad_output, weight, input_size)
    if grad_input.numel() == 0:
        return grad_input
    vertical, horizontal = map(residue_classes, weight.shape[2:], stride, padding, dilation)
    if grad_output.numel() == 0 or weight.numel() == 0 or len(vertical) * len(horizontal) < math.prod(stride):
        grad_input.zero_()
    if grad_output.numel() == 0 or weight.numel() == 0:
        return grad_input

    source = split_groups(grad_output, 1, groups)
    filters = split_groups(weight, 0, groups).transpose(1, 2)  # (G, C, K, R, S): channels are the result here
    result = split_groups(grad_input, 1, groups)
    for rows, columns in itertools.product(vertical, horizontal):
        view = result[..., rows.positions, columns.positions]
        if view.numel():
            taps = filters[..., rows.taps, columns.taps]
            gemm(source, taps, None, view, rows.axis, columns.axis, allow_tf32)
    return grad_input
