"""Forward and grad_input, told as one gather (see gather.py): which of the two kernels serves, with which plan."""

from __future__ import annotations

import torch

from . import tuning
from .gather import gather
from .halo import BOXES, COPIED_FROM, halo, padded, why_never, why_not_in_place
from .indexing import Axis
from .launch import Operand
from .plans import Shape


def gemm(
    source: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    result: torch.Tensor,
    vertical: Axis,
    horizontal: Axis,
    allow_tf32: bool,
) -> None:
    """Fill `result` (N, G, K, P, Q) from `source` (N, G, C, H, W), `weight` (G, K, C, R, S), `bias` (G·K).

    All are views with any strides and none is empty.
    """
    arithmetic = tuning.arithmetic(source.dtype, allow_tf32)
    taps = weight.shape[3:]
    obstacle = tuning.no_wgmma(arithmetic) or why_never(source, vertical, horizontal)
    note = BOXES
    if obstacle is None and (misplaced := why_not_in_place(source, horizontal, taps[1])):
        if taps.numel() < COPIED_FROM:
            obstacle = misplaced
        else:
            source, note = padded(source), f"{BOXES}, from a copy: {misplaced}"
    if obstacle is None:
        kernel, run = "halo", halo
        layout = "channels_last" if source.stride(2) == 1 else "contiguous"
    else:
        kernel, run = "gather", gather
        layout = "wide" if Operand.of(source).wide and Operand.of(result).wide else "narrow"
    shape = Shape(
        kernel, arithmetic, layout, weight.shape[2], weight.shape[1], tuple(taps),
        tuple(result.shape[3:]), (vertical.stride, horizontal.stride),
    )  # fmt: skip
    tuning.serve(
        shape,
        result.device,
        lambda plan: run(source, weight, bias, result, vertical, horizontal, allow_tf32, plan),
        note=obstacle or note,
    )
